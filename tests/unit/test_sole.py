"""Whose answers have no entry when a second VIP comes."""

from __future__ import annotations

from msgspec.structs import replace

from agent.ruleset import Desired, compile_ruleset, joined
from agent.sole import KEPT_S, Sole
from protocol.ids import GroupId
from protocol.objects import Gateway, Listener, VirtualServer

UID = GroupId("00000000000000aa")
ONE, TWO, SIX = "10.0.0.100", "10.0.0.110", "fd00::100"
INNER = ("10.0.0.101", "fd00::101")
SERVER = VirtualServer(
    uid=UID,
    name="web",
    vips=tuple(f"{vip}/24" for vip in (ONE, TWO, SIX)),
    forwarding="routed",
    inner_vips=tuple(f"{vip}/24" for vip in INNER),
    gateways=(Gateway(name="gw1", address="10.0.0.1"),),
    listeners=(Listener(protocol="tcp", port=80, gateway_port=80),),
    seed=7,
)


def wanted(*vips: str, server: VirtualServer = SERVER) -> Desired:
    return Desired((server,), {UID: (*vips, *INNER)})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_vip_was_the_only_one_of_its_ip_version_for_an_hour_more() -> None:
    clock = Clock()
    sole = Sole(clock)
    alone, both = wanted(ONE, SIX), wanted(ONE, TWO, SIX)
    assert not sole.among(Desired(), alone)
    assert not sole.among(alone, alone)
    assert sole.among(alone, both) == {UID: (ONE,)}
    clock.now = KEPT_S - 1
    assert sole.among(both, both) == {UID: (ONE,)}
    assert sole.among(both, wanted(TWO, ONE, SIX)) == {UID: (ONE,)}, "it began when it began"
    clock.now = KEPT_S
    assert not sole.among(both, both)


def test_what_was_never_alone_was_not_the_only_one() -> None:
    both = wanted(ONE, TWO)
    assert not Sole(Clock()).among(Desired(), both), "as where an agent starts"
    sole = Sole(Clock())
    sole.among(wanted(ONE), both)
    assert not sole.among(both, wanted(TWO))
    assert sole.among(wanted(TWO), both) == {UID: (TWO,)}


def test_other_modes_have_no_answers_without_an_entry() -> None:
    snat = replace(SERVER, forwarding="snat", inner_vips=())
    assert not Sole(Clock()).among(wanted(ONE, server=snat), wanted(ONE, TWO, server=snat))


def test_an_answer_without_an_entry_is_from_the_vip_that_was_alone() -> None:
    both = wanted(ONE, TWO)
    met = Desired(both.virtual_servers, both.vips, sole={UID: (ONE,)})
    chain = f"vs_{UID}_tcp_80_ip_answer"
    assert compile_ruleset(both).chains[chain][-1] == "drop"
    assert compile_ruleset(met).chains[chain][-1] == f"meta l4proto tcp snat ip to {ONE}"
    assert joined(met.alone().values()) == met
