"""What is noted of gateways whose slots move, so that older connections stay where they are."""

from __future__ import annotations

from msgspec.structs import replace

from agent.staying import LONGEST_S, settled
from protocol.changes import (
    AddGateway,
    ApplyDocument,
    Change,
    RemoveGateway,
    SetGateway,
)
from protocol.config import Config, Edit
from protocol.document import parse_site
from protocol.gateway_document import GatewayDocument
from protocol.objects import Former
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


def test_a_device_lets_go_of_it_when_its_time_is_over() -> None:
    (at_rest,), never = settled([server(site(DIRECT))], NOW)
    moved = server(after(site(DIRECT), ADD))
    assert settled([moved], UNTIL - 1) == ((moved,), UNTIL)
    (over,), then = settled([moved], UNTIL)
    assert all(g.former is None for g in over.gateways)
    assert then == never
    assert settled([at_rest], NOW)[0][0] is at_rest


def test_a_note_of_a_clock_that_is_wrong_does_not_count() -> None:
    moved = server(after(site(DIRECT), ADD))
    assert settled([moved], UNTIL - LONGEST_S)[0] != (moved,)


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
