"""What each mode of forwarding makes of a listener, and which listeners exclude each other."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest
from msgspec.structs import replace

from agent.distribution import Moment
from agent.forwarding import forgets, memoryless, serving
from agent.ruleset import (
    Desired,
    Ruleset,
    change,
    compile_ruleset,
    load,
    unremembered,
)
from protocol.document import parse_virtual_server
from protocol.errors import InvalidInput, Refused
from protocol.forwarding import refuse_ambiguous
from protocol.ids import GroupId
from protocol.objects import Former, Gateway, Listener, VirtualServer
from protocol.ports import HIGHEST

UID = GroupId("00000000000000aa")
VIP, INNER = "10.0.0.100", "10.0.0.101"
WEB = Listener(protocol="tcp", port=80, gateway_port=8080)
ROUTED = VirtualServer(
    uid=UID,
    name="web",
    vips=(f"{VIP}/24",),
    forwarding="routed",
    inner_vips=(f"{INNER}/24",),
    gateways=(Gateway(name="gw1", address="10.0.0.1"), Gateway(name="gw2", address="10.0.0.2")),
    listeners=(WEB,),
    seed=7,
)
CHAIN = f"vs_{UID}_tcp_80_ip"


def wanted(server: VirtualServer, *vips: str) -> Desired:
    return Desired((server,), {UID: vips or server.leased})


def compiled(server: VirtualServer, *vips: str) -> Ruleset:
    return compile_ruleset(wanted(server, *vips))


def rules_of(found: Ruleset) -> Ruleset:
    """All but what is guarded."""
    return dataclasses.replace(found, vips=frozenset())


def test_an_inner_vip_is_leased_but_serves_no_client() -> None:
    assert ROUTED.leased == (VIP, INNER)
    assert serving(ROUTED, ROUTED.leased) == (VIP,)
    found = compiled(ROUTED)
    assert found.vips == {VIP, INNER}
    assert set(found.services) == {f"{VIP} . tcp . 80"}


def test_while_an_inner_vip_becomes_another_one_nothing_changes_for_clients() -> None:
    """The lease covers the former one until the coordinator has taken it away."""
    other = replace(ROUTED, inner_vips=("10.0.0.102/24",))
    before, meanwhile = compiled(ROUTED), compiled(other, *ROUTED.leased)
    assert rules_of(meanwhile) == rules_of(before)
    assert rules_of(compiled(other)) == rules_of(before)


def test_where_the_flow_decides_nothing_is_remembered() -> None:
    found = compiled(ROUTED)
    (out,) = found.chains[f"{CHAIN}_out"]
    assert out.startswith("notrack meta priority set jhash ip saddr . tcp sport mod 256")
    (seats,) = (name for name, text in found.sets.items() if "classid : ipv4_addr" in text)
    assert out.endswith(f" tcp dport set 8080 ip daddr set meta priority map @{seats} accept")
    assert "{ 7e00:0 : 10.0.0.1, 7e01:0 : 10.0.0.2 }" in found.sets[seats]
    assert found.chains[f"{CHAIN}_back"] == (
        f"meta l4proto tcp ip saddr set {VIP} tcp sport set 80 accept",
    )
    assert set(found.maps["replies"]) == {"10.0.0.1 . tcp . 8080", "10.0.0.2 . tcp . 8080"}
    assert "translated" not in found.maps
    assert unremembered(wanted(ROUTED)) == {UID}


def test_answers_from_the_port_that_is_asked_need_no_chain() -> None:
    found = compiled(replace(ROUTED, listeners=(replace(WEB, gateway_port=80),)))
    assert found.maps["sources"] == {"10.0.0.1 . tcp . 80": VIP, "10.0.0.2 . tcp . 80": VIP}
    assert not found.maps.get("returns")
    assert f"{CHAIN}_back" not in found.chains
    to = "ip saddr set ip saddr . meta l4proto . th sport map @sources accept"
    assert found.chains["outbound"][0] == f"ct state untracked {to}"


@pytest.mark.parametrize(
    "server",
    [
        replace(ROUTED, listeners=(replace(WEB, balance="round-robin"),)),
        replace(ROUTED, listeners=(replace(WEB, sticky=60),)),
        replace(ROUTED, listeners=(replace(WEB, client_connections=9),)),
        replace(ROUTED, slow_start=30),
        replace(ROUTED, forwarding="snat", inner_vips=()),
    ],
)
def test_what_needs_a_memory_has_one(server: VirtualServer) -> None:
    assert not memoryless(server, server.listeners[0], (VIP,))
    assert "direct" not in compiled(server).maps
    assert not unremembered(wanted(server))


def ports(first: int, last: int, protocol: Literal["tcp", "udp"] = "tcp") -> Listener:
    return Listener(protocol=protocol, port=first, last_port=last, gateway_port=first)


@pytest.mark.parametrize("own", [ports(1, HIGHEST), ports(40000, 50000), ports(1, 32768)])
def test_a_range_from_which_gateways_speak_for_themselves_needs_a_memory(own: Listener) -> None:
    assert not memoryless(ROUTED, own, (VIP,))


@pytest.mark.parametrize("served", [ports(1, 32767), replace(WEB, gateway_port=40000)])
def test_ports_on_which_a_server_listens_need_none(served: Listener) -> None:
    assert memoryless(ROUTED, served, (VIP,))


def test_what_may_be_a_gateways_own_datagram_goes_on_as_it_is() -> None:
    two = replace(ROUTED, vips=(f"{VIP}/24", "10.0.0.99/24"))
    for last, then in ((50000, "accept"), (30010, "drop")):
        (answer,) = (
            rules
            for name, rules in compiled(
                replace(two, listeners=(ports(30000, last, "udp"),))
            ).chains.items()
            if name.endswith("_answer")
        )
        assert answer == (then,)


def test_a_datagram_without_a_checksum_has_none_afterwards() -> None:
    dns = Listener(protocol="udp", port=53, gateway_port=5353)
    chain = f"vs_{UID}_udp_53_ip"
    chains = compiled(replace(ROUTED, listeners=(dns,))).chains
    for name, port in ((f"{chain}_out", "dport set 5353"), (f"{chain}_back", "sport set 53")):
        without, rest = chains[name]
        assert without.startswith("udp checksum 0 ")
        assert f"udp {port} udp checksum set 0 " in without
        assert without.endswith(" accept")
        assert without.removeprefix("udp checksum 0 ").replace(" udp checksum set 0", "") == rest
    same = compiled(replace(ROUTED, listeners=(replace(dns, gateway_port=53),))).chains
    assert len(same[f"{chain}_out"]) == 1


def test_an_unknown_answer_is_given_its_vip() -> None:
    known = replace(ROUTED, listeners=(replace(WEB, client_connections=9),))
    opens, answer = compiled(known).chains[f"{CHAIN}_answer"]
    assert opens.endswith("== syn accept")
    assert answer == f"meta l4proto tcp snat ip to {VIP}:80"


def test_an_answer_that_may_be_from_two_vips_waits_for_the_client() -> None:
    two = replace(ROUTED, vips=(f"{VIP}/24", "10.0.0.99/24"))
    assert compiled(two).chains[f"{CHAIN}_answer"][-1] == "drop"


def test_packets_of_others_meet_no_chain_where_nobody_needs_one() -> None:
    plain = compiled(replace(ROUTED, forwarding="snat", inner_vips=()))
    routed = compiled(ROUTED)
    hook = "{ type filter hook prerouting priority raw; policy accept; }"
    assert "inbound" not in load(plain)
    assert f"add chain inet halb inbound {hook}" in load(routed).splitlines()
    assert f"add chain inet halb inbound {hook}" in change(plain, routed).splitlines()
    assert "delete chain inet halb inbound" in change(routed, plain).splitlines()


def test_without_memory_shares_do_not_follow_the_moment() -> None:
    moment = Moment(growing={(UID, "gw1"): 10})
    assert (
        compile_ruleset(Desired((ROUTED,), {UID: ROUTED.leased}, moment=moment)).chains[
            f"{CHAIN}_out"
        ]
        == compiled(ROUTED).chains[f"{CHAIN}_out"]
    )


def other(**changes: object) -> VirtualServer:
    return replace(ROUTED, uid=GroupId("00000000000000bb"), name="mail", **changes)


def test_two_routed_listeners_may_not_share_a_gateways_port() -> None:
    with pytest.raises(Refused) as caught:
        refuse_ambiguous((ROUTED, other()))
    assert "web/tcp/80 and mail/tcp/80" in caught.value.message
    assert "tcp port 8080 of gateway 10.0.0.1" in caught.value.message


def test_two_listeners_of_one_virtual_server_may_not_either() -> None:
    both = (WEB, Listener(protocol="tcp", port=8000, last_port=8090, gateway_port=8000))
    with pytest.raises(Refused, match="port 8080 of gateway"):
        refuse_ambiguous((replace(ROUTED, listeners=both),))


@pytest.mark.parametrize(
    "changes",
    [
        {"forwarding": "snat", "inner_vips": ()},
        {"gateways": (Gateway(name="gw3", address="10.0.0.3"),)},
        {"listeners": (replace(WEB, gateway_port=8081),)},
        {"listeners": (replace(WEB, protocol="udp"),)},
    ],
)
def test_what_can_be_told_apart_is_allowed(changes: dict[str, object]) -> None:
    refuse_ambiguous((ROUTED, other(**changes)))


LEAVING = replace(ROUTED.gateways[1], state="draining")
GOES_ON = "tcp flags & (fin|syn|rst|ack) != syn "


def remembered(server: VirtualServer) -> tuple[str, ...]:
    """Rules of the listener where each flow gets an entry."""
    return compiled(replace(server, forwarding="snat", inner_vips=())).chains[CHAIN]


def test_what_is_met_while_a_gateway_drains_is_remembered() -> None:
    drained = replace(ROUTED, gateways=(ROUTED.gateways[0], LEAVING))
    found = compiled(drained)
    going_on, opens = found.chains[CHAIN]
    assert (going_on.removeprefix(GOES_ON),) == remembered(ROUTED), "by the slots as they were"
    assert (opens,) == remembered(drained)
    assert not found.maps.get("direct"), "nothing passes without an entry"
    assert found.maps["answers"]


def test_the_last_gateway_that_drains_keeps_what_it_has_and_gets_nothing_new() -> None:
    leaving = tuple(replace(g, state="draining") for g in ROUTED.gateways)
    going_on, refused, _ = compiled(replace(ROUTED, gateways=leaving)).chains[CHAIN]
    assert (going_on.removeprefix(GOES_ON),) == remembered(ROUTED)
    assert "reject with tcp reset" in refused


@pytest.mark.parametrize(
    "change",
    [
        {"gateways": (*ROUTED.gateways, replace(LEAVING, name="six", address="fd00::2"))},
        {"listeners": (replace(WEB, protocol="udp"),), "gateways": (ROUTED.gateways[0], LEAVING)},
    ],
    ids=["of the other IP version", "of datagrams, which do not say what they begin"],
)
def test_a_drain_that_tells_nothing_apart_changes_nothing(change: dict[str, object]) -> None:
    server = replace(ROUTED, **change)
    (listener,) = server.listeners
    assert memoryless(server, listener, (VIP,))
    assert forgets(server, listener, 4, (VIP,))


def test_flows_are_not_counted_amid_a_drain_as_not_all_of_them_were_met() -> None:
    drained = replace(ROUTED, gateways=(ROUTED.gateways[0], LEAVING))
    assert not forgets(drained, WEB, 4, (VIP,))
    assert unremembered(wanted(drained)) == {UID}


def test_one_that_comes_takes_what_opens_and_nothing_older() -> None:
    came = replace(ROUTED.gateways[1], former=Former(0, 9))
    grown, alone = (ROUTED.gateways[0], came), ROUTED.gateways[:1]
    going_on, opens = compiled(replace(ROUTED, gateways=grown)).chains[CHAIN]
    assert (going_on.removeprefix(GOES_ON),) == remembered(replace(ROUTED, gateways=alone))
    assert (opens,) == remembered(replace(ROUTED, gateways=grown))


def test_an_inner_vip_that_is_no_address_is_called_an_inner_vip() -> None:
    written = {"name": "web", "vips": [f"{VIP}/24"], "forwarding": "routed", "inner_vips": ["no"]}
    with pytest.raises(InvalidInput, match="inner_vips` is 'no'"):
        parse_virtual_server(written)
