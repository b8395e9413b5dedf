"""What an operator is told about one flow."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from agent.distribution import Moment
from agent.gated import numbers
from agent.jhash import jhash, slot_of, source_key
from agent.ruleset import Desired
from agent.tracing import Answer, Entry, Evidence, question_of, trace
from protocol import api
from protocol.clients import Client
from protocol.errors import HalbError
from protocol.ids import GroupId
from protocol.objects import Former, Forwarding, Gateway, Listener, VirtualServer

UID = GroupId("00000000000000aa")
VIP = "10.0.0.100"
GW1, GW2 = (Gateway(name=f"gw{n}", address=f"10.0.0.{n}") for n in (1, 2))
HTTPS = Listener(protocol="tcp", port=443, gateway_port=443)


def server(*gateways: Gateway, listeners: tuple[Listener, ...] = (HTTPS,)) -> VirtualServer:
    return VirtualServer(
        uid=UID, name="web", vips=(f"{VIP}/24",), gateways=gateways, listeners=listeners, seed=7
    )


def asked(
    vs: VirtualServer,
    *,
    down: tuple[str, ...] = (),
    brief: tuple[str, ...] = (),
    moment: Moment | None = None,
    entry: Entry | None = None,
    sticky: Client | None = None,
    **op: Any,
) -> Answer:
    fell, lately = (frozenset((UID, name) for name in names) for names in (down, brief))
    desired = Desired((vs,), {UID: (VIP,)}, fell, moment or Moment(), brief=lately)
    request = api.Trace(**{"client": "10.0.0.7", "port": 40000, "virtual_server": "web", **op})
    return trace(question_of(request, vs, desired), Evidence(desired, entry, sticky))


def name(answer: Answer) -> str | None:
    return answer.gateway.name if answer.gateway else None


def test_an_entry_decides_before_all_else() -> None:
    answer = asked(server(GW1, GW2), entry=Entry(VIP, GW2.address), down=("gw2",))
    assert (answer.how, name(answer)) == ("connection", "gw2")
    assert asked(server(GW1), entry=Entry(VIP, "10.0.0.9")).why == (
        "the connection exists: its entry leads to 10.0.0.9, no gateway any more",
    )


def test_an_entry_of_another_vip_names_it() -> None:
    answer = asked(server(GW1), entry=Entry("10.0.0.110", GW1.address))
    assert answer.vip == "10.0.0.110"
    assert answer.why == ("the connection to 10.0.0.110 exists: its entry leads to gateway gw1",)
    assert asked(server(GW1)).vip is None


def test_the_slot_is_named_with_its_gateway() -> None:
    answer = asked(server(GW1, GW2))
    assert answer.slot == slot_of(source_key("10.0.0.7", 40000), 7, 256)
    assert answer.why[-1] == (
        f"hash: the client address and port fall into slot {answer.slot} of 256, {name(answer)}'s"
    )


@pytest.mark.parametrize("forwarding", ["dsr", "routed"])
def test_an_older_connection_that_nothing_remembers_stays_while_slots_move(
    forwarding: Forwarding,
) -> None:
    at_rest = replace(server(GW1, GW2), forwarding=forwarding)
    stays, other = asked(at_rest, port=40000), asked(at_rest, port=40001)
    assert name(stays) != name(other)
    assert not any("slots move" in each for each in stays.why)
    drained = tuple(
        replace(g, state="draining") if g.name == name(stays) else g for g in at_rest.gateways
    )
    moving = asked(replace(at_rest, gateways=drained), port=40000)
    assert name(moving) == name(other)
    assert moving.why[1] == (
        f"slots move: if it is open, and began before that, it stays at {name(stays)}"
    )


@pytest.mark.parametrize("brief", [True, False])
def test_an_older_connection_stays_at_a_gateway_that_fell_for_as_long_as_it_may_live(
    brief: bool,
) -> None:
    at_rest = replace(server(GW1, GW2), forwarding="dsr")
    fell, other = (name(asked(at_rest, port=port)) for port in (40000, 40001))
    assert fell
    assert other not in ("", None, fell)
    noted = tuple(
        replace(g, former=Former(1, 1)) if g.name == fell else g for g in at_rest.gateways
    )
    answer = asked(
        replace(at_rest, gateways=noted), down=(fell,), brief=(fell,) if brief else (), port=40000
    )
    assert name(answer) == other
    assert answer.why[1].endswith(f"it stays at {fell if brief else other}")


def test_where_connections_are_remembered_none_is_said_to_stay() -> None:
    answer = asked(server(replace(GW1, state="draining"), GW2))
    assert not any("slots move" in each for each in answer.why)


def test_one_gateway_needs_no_slot() -> None:
    answer = asked(server(GW1, GW2), down=("gw2",))
    assert (answer.how, name(answer), answer.slot) == ("only", "gw1", None)


def test_nobody_takes_it() -> None:
    answer = asked(server(GW1, GW2), down=("gw1", "gw2"))
    assert (answer.how, answer.why[-1]) == (
        "refused",
        "refused at once: none of gw1, gw2 takes flows now",
    )


@pytest.mark.parametrize(
    ("number", "down", "how"), [("gw2", (), "sticky"), ("gw2", ("gw2",), "only"), ("", (), "slot")]
)
def test_a_sticky_client(number: str, down: tuple[str, ...], how: str) -> None:
    vs = server(GW1, GW2, listeners=(Listener(protocol="tcp", port=1, gateway_port=1, sticky=60),))
    known = numbers(vs)[GW2.address] if number else 99
    answer = asked(vs, down=down, sticky=Client("10.0.0.7", known, 59_000))
    assert answer.how == how
    assert any(each.startswith("sticky: ") for each in answer.why)


def test_full_gateways_send_it_on() -> None:
    vs = server(GW1, GW2)
    usual = name(asked(vs))
    other = "gw2" if usual == "gw1" else "gw1"
    answer = asked(vs, moment=Moment(full=frozenset({(UID, usual or "")})))
    assert (answer.how, name(answer)) == ("overflow", other)
    both = Moment(full=frozenset({(UID, "gw1"), (UID, "gw2")}))
    assert asked(vs, moment=both).how == "refused"


def test_turns_are_not_foretold() -> None:
    turns = Listener(protocol="tcp", port=1, gateway_port=1, balance="round-robin")
    answer = asked(server(GW1, GW2, listeners=(turns,)))
    assert (answer.how, answer.gateway) == ("turn", None)
    assert answer.why[-1] == "round-robin: whose turn it is of gw1 50 %, gw2 50 %"


def test_the_listener_may_be_left_out_where_there_is_one() -> None:
    two = server(GW1, listeners=(HTTPS, Listener(protocol="udp", port=53, gateway_port=53)))
    assert asked(two, listener=53).how == "only"
    assert asked(two, protocol="udp").how == "only"
    for wrong in ({"listener": 80}, {"client": "fd00::1"}, {"client": "x"}, {"port": 0}):
        with pytest.raises(HalbError):
            asked(two, **wrong)
    with pytest.raises(HalbError, match="Virtual Server 'web' has no listener"):
        asked(server(GW1, listeners=()))


def test_the_hash_of_an_empty_key_and_long_keys_is_stable() -> None:
    assert jhash(b"", 0) == 0xDEADBEEF
    assert len({jhash(bytes(n), 1) for n in range(40)}) == 40
