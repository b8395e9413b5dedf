"""What is noted of gateways whose slots move, so that older connections stay where they are."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.clock import Deadlines
from agent.staying import LONGEST_S, before, earlier, settled
from protocol.changes import (
    AddGateway,
    ApplyDocument,
    Change,
    RemoveGateway,
    SetGateway,
)
from protocol.config import Config, Edit
from protocol.describe import describe
from protocol.document import parse_site
from protocol.gateway_document import GatewayDocument
from protocol.objects import Former, FormerHash
from protocol.settling import STAY_S, kept
from tests.unit.paris import NOW, RDP, after, edit, gateways, server, site

DIRECT = {**RDP, "forwarding": "dsr"}
ADD = AddGateway("rdp", GatewayDocument(name="gw3", address="10.77.0.33"))
UNTIL = NOW + STAY_S


def notes(config: Config) -> dict[str, tuple[int, int]]:
    found = ((name, g.former) for name, g in gateways(config).items())
    return {name: (former.weight, former.until) for name, former in found if former is not None}


def changed(config: Config, *changes: Change) -> dict[str, tuple[int, int]]:
    for change in changes:
        config = after(config, change)
    return notes(config)


def test_one_that_comes_had_no_slots() -> None:
    assert changed(site(DIRECT), ADD) == {"gw3": (0, UNTIL)}


def test_another_weight_is_noted_beside_the_former_one() -> None:
    assert changed(site(DIRECT), SetGateway("rdp", "gw2", weight=5)) == {"gw2": (2, UNTIL)}
    assert changed(site(DIRECT), SetGateway("rdp", "gw2", weight=0)) == {"gw2": (2, UNTIL)}


def test_a_document_notes_as_a_command_does() -> None:
    more = [*RDP["gateways"], {"name": "gw3", "address": "10.77.0.33"}]  # type: ignore[misc]
    document = parse_site({"virtual_servers": [{**DIRECT, "gateways": more}]})
    config = after(site(DIRECT), ApplyDocument(document))
    assert notes(config) == {"gw3": (0, UNTIL)}
    assert edit(config, ApplyDocument(document), NOW + 9) == Edit(), "what is so already is no edit"
    assert edit(config, ApplyDocument(document), UNTIL + 9) == Edit()


def test_what_remembers_or_is_new_needs_no_note() -> None:
    assert changed(site(RDP), ADD) == {}
    assert changed(site({**DIRECT, "gateways": []}), ADD) == {}
    assert notes(site(DIRECT)) == {}


def test_of_changes_in_a_row_the_oldest_counts_for_each_gateway() -> None:
    config = after(site(DIRECT), ADD)
    config = after(config, SetGateway("rdp", "gw3", weight=7), NOW + 60)
    assert notes(config) == {"gw3": (0, UNTIL + 60)}
    config = after(config, SetGateway("rdp", "gw2", weight=1), NOW + 90)
    assert notes(config) == {"gw3": (0, UNTIL + 60), "gw2": (2, UNTIL + 90)}
    config = after(config, SetGateway("rdp", "gw3", weight=9), UNTIL + 60)
    assert notes(config)["gw3"] == (7, UNTIL + 60 + STAY_S), "the first is over"


def test_a_change_that_is_taken_back_is_settled_later() -> None:
    """What began meanwhile is where no slot leads it any more."""
    there, back = (SetGateway("rdp", "gw2", weight=weight) for weight in (5, 2))
    assert changed(site(DIRECT), there, back) == {"gw2": (2, UNTIL)}
    config = after(site(DIRECT), there)
    assert notes(after(config, back, UNTIL + 9)) == {"gw2": (5, UNTIL + 9 + STAY_S)}


def test_what_was_noted_stays_while_no_gateway_takes_anything_new() -> None:
    none = [SetGateway("rdp", name, weight=0) for name in ("gw1", "gw2")]
    some = SetGateway("rdp", "gw2", weight=9)
    first = {name: g.weight for name, g in gateways(site(DIRECT)).items()}
    there = after(after(site(DIRECT), none[0]), none[1])
    assert {name: weight for name, (weight, _) in notes(there).items()} == first
    assert {name: weight for name, (weight, _) in changed(there, some).items()} == first
    assert notes(after(there, some, UNTIL + 9)).get("gw2") is None, "nothing is older any more"


def test_the_state_of_one_that_drains_says_enough() -> None:
    drain = SetGateway("rdp", "gw1", state="draining")
    assert changed(site(DIRECT), drain) == {}
    assert changed(site(DIRECT), ADD, SetGateway("rdp", "gw3", state="draining")) == {
        "gw3": (0, UNTIL)
    }


def test_a_drain_given_up_is_settled_later() -> None:
    """What began meanwhile is remembered elsewhere, and must stay so."""
    drain, enable = (SetGateway("rdp", "gw1", state=s) for s in ("draining", "enabled"))
    assert changed(site(DIRECT), drain, enable) == {"gw1": (1, UNTIL)}


def test_one_that_is_disabled_loses_what_it_had() -> None:
    disable, enable = (SetGateway("rdp", "gw1", state=s) for s in ("disabled", "enabled"))
    assert changed(site(DIRECT), disable) == {}
    assert changed(site(DIRECT), disable, enable) == {"gw1": (0, UNTIL)}
    assert changed(site(DIRECT), ADD, RemoveGateway("rdp", "gw3"), ADD) == {"gw3": (0, UNTIL)}


def at(unix_s: float) -> Deadlines:
    """What is looked up for the first time, by a clock that began just now."""
    return Deadlines(lambda: unix_s, lambda: 0)


@pytest.mark.parametrize("hours", [-365 * 24, -1, 1, 25, 365 * 24])
def test_a_clock_that_is_set_ends_no_note_sooner_or_later(hours: int) -> None:
    moved = server(after(site(DIRECT), ADD))
    unix_s, own_s = float(NOW), 1000.0
    clock = Deadlines(lambda: unix_s, lambda: own_s)
    found, ends = settled([moved], clock)
    unix_s += 3600 * hours
    assert settled([moved], clock) == (found, ends)
    own_s = ends - 1
    assert settled([moved], clock)[0] == (moved,)
    own_s = ends
    assert settled([moved], clock)[0] != (moved,)


def test_a_clock_that_was_wrong_at_first_sight_is_read_again() -> None:
    moved = server(after(site(DIRECT), ADD))
    unix_s = 0.0
    clock = Deadlines(lambda: unix_s, lambda: 0)
    assert settled([moved], clock)[0] != (moved,)
    unix_s = UNTIL - 1
    assert settled([moved], clock)[0] == (moved,)


def test_a_device_lets_go_of_it_when_its_time_is_over() -> None:
    (at_rest,), never = settled([server(site(DIRECT))], at(NOW))
    moved = server(after(site(DIRECT), ADD))
    assert settled([moved], at(UNTIL - 1)) == ((moved,), 1)
    (over,), then = settled([moved], at(UNTIL))
    assert all(g.former is None for g in over.gateways)
    assert then == never
    assert settled([at_rest], at(NOW))[0][0] is at_rest


def test_a_note_of_a_clock_that_is_wrong_does_not_count() -> None:
    moved = server(after(site(DIRECT), ADD))
    assert settled([moved], at(UNTIL - LONGEST_S))[0] != (moved,)


def marks(config: Config) -> dict[str, Former | None]:
    return {name: g.former for name, g in gateways(config).items()}


def test_another_mark_as_a_backup_is_noted_beside_the_former_one() -> None:
    mark, unmark = (SetGateway("rdp", "gw2", backup=backup) for backup in (True, False))
    config = after(site(DIRECT), mark)
    assert marks(config) == {"gw1": None, "gw2": Former(2, UNTIL, backup=False)}
    assert [g.backup for g in before(server(config)).gateways] == [False, False]
    config = after(config, unmark, NOW + 9)
    assert marks(config)["gw2"] == Former(2, UNTIL + 9, backup=False), "the oldest counts"
    config = after(after(site(DIRECT), SetGateway("rdp", "gw2", weight=5)), mark, NOW + 9)
    assert marks(config)["gw2"] == Former(2, UNTIL + 9, backup=False)
    assert edit(config, mark, NOW + 10) == Edit()


def test_the_first_of_an_ip_version_is_not_noted() -> None:
    """Nobody had flows of it, so none has to stay."""
    six = GatewayDocument(name="six", address="fd77::31")
    assert changed(site(DIRECT), AddGateway("rdp", six)) == {}


def test_a_note_is_kept_with_the_address_and_not_with_the_name() -> None:
    config = after(site(DIRECT), ADD)
    vs = server(config)
    other = replace(
        vs, gateways=tuple(replace(g, name=f"{g.name}x", former=None) for g in vs.gateways)
    )
    assert [g.former for g in kept(other.gateways, vs.gateways)] == [None, None, Former(0, UNTIL)]


ROUTED = {**RDP, "forwarding": "routed", "inner_vips": ["10.77.0.102/24"]}


LISTENER = {"protocol": "tcp", "port": 443, "check": {"type": "tcp"}}


def served_as(over: dict[str, object] = ROUTED, /, **listener: object) -> dict[str, object]:
    """The Virtual Server with its listener as given."""
    return {**over, "listeners": [{**LISTENER, **listener}]}


def served(over: dict[str, object] = ROUTED, /, **listener: object) -> ApplyDocument:
    return ApplyDocument(parse_site({"virtual_servers": [served_as(over, **listener)]}))


def note(config: Config) -> FormerHash | None:
    return server(config).listeners[0].former


@pytest.mark.parametrize(
    "other",
    [
        {"balance": "round-robin"},
        {"balance": "source-hash"},
        {"balance": "least-connections"},
        {"sticky": 60},
        {"client_connections": 9},
        {"client_rate": 9},
    ],
)
def test_a_listener_that_shares_otherwise_notes_how_it_was(other: dict[str, object]) -> None:
    changed = after(site(ROUTED), served(**other))
    assert note(changed) == FormerHash("hash", UNTIL)
    assert edit(changed, served(**other), NOW + 9) == Edit(), "what is so already is no edit"
    back = note(after(site(served_as(**other)), served()))
    hashed = other == {"balance": "source-hash"}
    assert back == FormerHash("source-hash" if hashed else "", UNTIL)


def test_limits_of_gateways_and_a_slow_start_are_noted_too() -> None:
    limited = SetGateway("rdp", "gw1", max_connections=9)
    assert note(after(site(ROUTED), limited)) == FormerHash("hash", UNTIL)
    slow = served({**ROUTED, "slow_start": 60})
    assert note(after(site(ROUTED), slow)) == FormerHash("hash", UNTIL)


def test_of_changes_in_a_row_the_oldest_counts_for_a_listener() -> None:
    config = after(site(ROUTED), served(balance="random"))
    config = after(config, served(check={"type": "tls"}, balance="random"), NOW + 60)
    assert note(config) == FormerHash("hash", UNTIL), "other changes are none"
    config = after(config, served(balance="source-hash"), NOW + 60)
    assert note(config) == FormerHash("hash", UNTIL + 60)
    config = after(config, served(), UNTIL + 60)
    assert note(config) == FormerHash("source-hash", UNTIL + 60 + STAY_S), "the first is over"


def test_another_gateway_port_is_noted_while_connections_do_not_know_theirs() -> None:
    config = after(site(ROUTED), served(gateway_port=8080))
    assert note(config) == FormerHash("hash", UNTIL, 443)
    assert earlier(server(config).listeners[0]).gateway_port == 443
    config = after(config, served(gateway_port=8081), NOW + 9)
    assert note(config) == FormerHash("hash", UNTIL + 9, 443), "the oldest counts"
    back = after(config, served(), NOW + 10)
    assert note(back) == FormerHash("hash", UNTIL + 10), "8081 is in entries"
    turns = after(site(served_as(balance="random")), served(balance="random", gateway_port=8080))
    assert note(turns) is None, "each entry knows its port"
    config = after(after(site(ROUTED), served(balance="random")), served(gateway_port=8080))
    assert note(config) == FormerHash("hash", UNTIL, 443)
    assert note(after(site(RDP), served(gateway_port=8080))) == FormerHash("", UNTIL)
    assert note(after(site(RDP), served(RDP, gateway_port=8080))) is None


def test_a_note_stays_with_the_ports_and_not_with_the_listener() -> None:
    """Connections do not learn that a range became longer, or was taken apart."""
    config = after(site(ROUTED), served(balance="source-hash"))
    longer = after(config, served(port="443-450", balance="source-hash"), NOW + 9)
    assert note(longer) == FormerHash("hash", UNTIL)
    at_once = after(config, served(port="440-450"), NOW + 9)
    assert note(at_once) == FormerHash("hash", UNTIL + 9)
    assert note(after(site(ROUTED), served(port="440-450"))) is None, "nothing was shared otherwise"
    assert note(after(longer, served(port=445, balance="source-hash"))) == FormerHash("hash", UNTIL)
    assert note(after(longer, served(port=445), NOW + 10)) == FormerHash("hash", UNTIL + 10)
    assert note(after(longer, served(port=451))) is None, "another port has other connections"
    elsewhere = after(site(ROUTED), served(gateway_port=8080))
    assert note(after(elsewhere, served(port="443-450"))) == FormerHash("hash", UNTIL)


def test_only_what_gateways_can_go_on_with_is_noted() -> None:
    assert note(after(site(RDP), served())) == FormerHash("", UNTIL), "entries translate on"
    assert note(after(site(RDP), served(sticky=60))) is None, "all flows have entries"
    assert note(after(site(RDP), served(RDP, balance="random"))) is None
    assert note(after(site(ROUTED), served(RDP, balance="random"))) is None
    assert note(after(site(ROUTED), served(DIRECT, balance="source-hash"))) is None
    assert note(after(site(ROUTED), served(protocol="udp", check=None))) is None
    noted = after(site(ROUTED), served(balance="random"))
    assert note(after(noted, served(DIRECT))) is None


def test_a_device_lets_go_of_what_a_listener_notes_when_its_time_is_over() -> None:
    changed = server(after(site(ROUTED), served(balance="random")))
    assert settled([changed], at(UNTIL - 1)) == ((changed,), 1)
    (over,), _ = settled([changed], at(UNTIL))
    assert over.listeners[0].former is None


def test_who_changes_the_mode_is_told_what_becomes_of_connections() -> None:
    def said(before: dict[str, object], now: ApplyDocument) -> list[str]:
        config = site(before)
        lines = describe(config, edit(config, now))
        return [line for line in lines if "forwarding" in line]

    title = "~ virtual server rdp forwarding"
    assert said(RDP, served()) == [f"{title} snat -> routed: open connections go on"]
    assert said(ROUTED, served(RDP)) == [f"{title} routed -> snat: open connections are lost"]
