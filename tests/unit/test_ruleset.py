"""From Virtual Servers to nftables text."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.distribution import Moment
from agent.gated import DRAWS, class_id, numbers
from agent.hashing import VARIANTS
from agent.ruleset import Compiler, Desired, Ruleset, change, compile_ruleset, load
from protocol.ids import GroupId
from protocol.objects import SLOTS, Gateway, Listener, VirtualServer
from protocol.seats import seated

UID = GroupId("00000000000000aa")
OTHER = GroupId("00000000000000bb")
GW1 = Gateway(name="gw1", address="10.0.0.1")
GW2 = Gateway(name="gw2", address="10.0.0.2")
GW3 = Gateway(name="gw3", address="10.0.0.3")
GW6 = Gateway(name="gw6", address="fd00::6")
HTTPS = Listener(protocol="tcp", port=443, gateway_port=443)
SHIFTED = Listener(protocol="tcp", port=443, gateway_port=8443)
DNS = Listener(protocol="udp", port=53, gateway_port=53, balance="source-hash")
CHAIN = f"vs_{UID}_tcp_443_ip"
REFUSE_TCP = ("tcp flags & (fin|syn|rst|ack) == syn reject with tcp reset", "drop")


def server(*gateways: Gateway, listener: Listener = HTTPS, uid: GroupId = UID) -> VirtualServer:
    return VirtualServer(
        uid=uid, name=uid, vips=(), gateways=gateways, listeners=(listener,), seed=0x5EED
    )


def compiled(
    vs: VirtualServer, *vips: str, down: frozenset[tuple[GroupId, str]] = frozenset()
) -> Ruleset:
    return compile_ruleset(Desired((vs,), {vs.uid: vips or ("10.0.0.100",)}, down))


def test_a_vip_protocol_and_port_lead_to_the_listeners_chain() -> None:
    found = compiled(server(GW1), "10.0.0.100", "10.0.0.101", "fd00::100")
    assert found.services == {
        "10.0.0.100 . tcp . 443": CHAIN,
        "10.0.0.101 . tcp . 443": CHAIN,
        "fd00::100 . tcp . 443": CHAIN + "6",
    }
    assert found.vips == {"10.0.0.100", "10.0.0.101", "fd00::100"}


def test_one_gateway_needs_no_hash() -> None:
    assert compiled(server(GW1)).chains[CHAIN] == ("meta l4proto tcp dnat ip to 10.0.0.1",)


@pytest.mark.parametrize(
    ("vip", "gateway", "rule"),
    [
        ("10.0.0.100", GW1, "meta l4proto tcp dnat ip to 10.0.0.1:8443"),
        ("fd00::100", GW6, "meta l4proto tcp dnat ip6 to [fd00::6]:8443"),
    ],
)
def test_another_port_on_the_gateway(vip: str, gateway: Gateway, rule: str) -> None:
    (rules,) = compiled(server(gateway, listener=SHIFTED), vip).chains.values()
    assert rules == (rule,)


def test_two_gateways_share_the_slots_of_the_hash() -> None:
    found = compiled(server(GW1, GW2))
    (rule,) = found.chains[CHAIN]
    (name, declared), (seats, leading) = sorted(found.sets.items(), reverse=True)
    assert rule == (
        "meta priority set jhash ip saddr . tcp sport mod 256 seed 0x5eed "
        f"meta priority set meta priority map @{name} meta l4proto tcp "
        f"dnat ip to meta priority map @{seats}"
    )
    assert f"{{ 7e00:0 : {GW1.address}, 7e01:0 : {GW2.address} }}" in leading
    slots = declared.partition("elements = { ")[2].removesuffix(" }; }")
    pairs = [pair.split(" : ") for pair in slots.split(", ")]
    assert [int(slot.removeprefix("0:"), 16) for slot, _ in pairs] == list(range(SLOTS))
    assert {seat for _, seat in pairs} == {"7e00:0", "7e01:0"}


def test_many_virtual_servers_share_their_slots() -> None:
    """1000 of ten gateways each need no more maps from slots to seats than there are draws."""
    ten = [Gateway(name=f"gw{n}", address=f"10.0.0.{n}") for n in range(1, 11)]
    uids = [GroupId(f"{n:016x}") for n in range(1000)]
    servers = tuple(replace(server(*ten, uid=uid), seed=n) for n, uid in enumerate(uids))
    found = compile_ruleset(Desired(servers, dict.fromkeys(uids, ("10.0.0.100",))))
    assert len(found.chains) == 1000
    assert len(found.sets) == VARIANTS + 1, "all have the same gateways here"


def test_turns_of_few_are_written_out() -> None:
    found = compiled(server(GW1, GW2, listener=replace(HTTPS, balance="round-robin")))
    (rule,) = found.chains[CHAIN]
    assert rule.endswith(f"numgen inc mod 2 map {{ 0 : {GW1.address}, 1 : {GW2.address} }}")
    assert not found.sets


def test_source_hash_leaves_the_port_out() -> None:
    (rules,) = compiled(server(GW1, GW2, listener=DNS)).chains.values()
    assert "jhash ip saddr mod 256 seed" in rules[0]


def test_gateways_serve_vips_of_their_own_family() -> None:
    found = compiled(server(GW1, GW6), "10.0.0.100", "fd00::100")
    assert found.chains[CHAIN] == ("meta l4proto tcp dnat ip to 10.0.0.1",)
    assert found.chains[CHAIN + "6"] == ("meta l4proto tcp dnat ip6 to fd00::6",)


@pytest.mark.parametrize("state", ["draining", "disabled"])
def test_a_gateway_that_is_not_enabled_takes_no_flows(
    state: Literal["draining", "disabled"],
) -> None:
    away = Gateway(name="gw2", address="10.0.0.2", state=state)
    assert compiled(server(GW1, away)).chains == compiled(server(GW1)).chains


def test_a_gateway_without_weight_takes_no_flows() -> None:
    idle = Gateway(name="gw2", address="10.0.0.2", weight=0)
    assert compiled(server(GW1, idle)).chains == compiled(server(GW1)).chains


def test_a_gateway_is_down_for_its_own_virtual_server_only() -> None:
    down = frozenset({(UID, "gw1")})
    assert compiled(server(GW1, GW2), down=down).chains == compiled(server(GW2)).chains
    other = server(GW1, uid=OTHER)
    assert compiled(other, down=down) == compiled(other)


def test_without_gateways_only_new_connections_are_refused() -> None:
    assert compiled(server()).chains[CHAIN] == REFUSE_TCP


def test_without_gateways_udp_gets_port_unreachable() -> None:
    (rules,) = compiled(server(listener=DNS)).chains.values()
    assert rules == ("reject with icmpx type port-unreachable",)


def test_a_virtual_server_without_assigned_addresses_has_no_rules() -> None:
    assert compile_ruleset(Desired((server(GW1),), {})) == Ruleset()


def test_the_same_gateways_get_the_same_slots_on_every_device() -> None:
    """Also where they are listed in another order, for each has its seat."""
    one, two = seated((GW1, GW2))
    assert compiled(server(one, two)) == compiled(server(two, one))


def test_a_gateway_in_place_of_another_gets_just_its_slots() -> None:
    before = seated((GW1, GW2, Gateway(name="gw3", address="10.0.0.3")))
    instead = Gateway(name="gw4", address="10.0.0.4")
    after = seated((before[0], before[2], instead), before)
    was, now = (compiled(server(*gateways)) for gateways in (before, after))
    slots = {name for name in was.sets if name.startswith("slots_")}
    assert slots == {name for name in now.sets if name.startswith("slots_")}
    ((seats, leading),) = (each for each in was.sets.items() if each[0] not in slots)
    ((others, elsewhere),) = (each for each in now.sets.items() if each[0] not in slots)
    assert elsewhere == leading.replace(GW2.address, instead.address).replace(seats, others)
    assert now.chains[CHAIN][0] == was.chains[CHAIN][0].replace(seats, others)


def test_nothing_changed_is_no_script() -> None:
    found = compiled(server(GW1, GW2))
    assert change(found, found) == ""


def test_only_the_changed_listener_is_replaced() -> None:
    before = compile_ruleset(
        Desired((server(GW1), server(GW1, uid=OTHER)), {UID: ("10.0.0.100",), OTHER: ("10.0.0.9",)})
    )
    after = dataclasses.replace(before, chains={**before.chains, CHAIN: REFUSE_TCP})
    assert change(before, after).splitlines() == [
        f"flush chain inet halb {CHAIN}",
        *(f"add rule inet halb {CHAIN} {rule}" for rule in REFUSE_TCP),
    ]


def test_a_listener_that_goes_loses_its_way_before_its_chain() -> None:
    assert change(compiled(server(GW1)), Ruleset()).splitlines() == [
        f"delete element inet halb services {{ 10.0.0.100 . tcp . 443 : goto {CHAIN} }}",
        "delete element inet halb translated { 10.0.0.100 }",
        "delete element inet halb vips { 10.0.0.100 }",
        f"flush chain inet halb {CHAIN}",
        f"delete chain inet halb {CHAIN}",
    ]


def test_a_whole_load_replaces_the_table_in_one_script() -> None:
    lines = load(compiled(server(GW1))).splitlines()
    assert lines[:3] == [
        "add table inet halb",
        "delete table inet halb",
        "add table inet halb",
    ]
    assert lines[-1] == "add element inet halb vips { 10.0.0.100 }"


rulesets = st.sets(st.sampled_from([f"10.0.0.{n} . tcp . {p}" for n in (1, 2) for p in (80, 443)]))


@given(rulesets, rulesets)
def test_every_change_adds_what_is_new_and_deletes_what_is_gone(
    old: set[str], new: set[str]
) -> None:
    def of(services: set[str]) -> Ruleset:
        chains = {key: "vs_" + key.replace(" . ", "_").replace(".", "_") for key in services}
        vips = frozenset(key.split()[0] for key in services)
        return Ruleset(vips, dict.fromkeys(chains.values(), ("drop",)), chains)

    script = change(of(old), of(new))
    for verb, some in (("add", new - old), ("delete", old - new)):
        lines = [each for each in script.splitlines() if each.startswith(f"{verb} element")]
        named = " ".join(line for line in lines if " services " in line)
        assert all(key in named for key in some)
        assert named.count("goto") == len(some)


def test_the_kernel_counts_up_to_a_limit_that_it_can_walk_through() -> None:
    def chains(most: int) -> str:
        gateways = (msgspec.structs.replace(GW1, max_connections=most), GW2)
        found = compiled(server(*gateways)).chains
        return " ".join(rule for rules in found.values() for rule in rules)

    assert "ct count over 999 update" in chains(1000)
    assert "ct count over 1000 jump" in chains(1000)
    assert "ct count" not in chains(1001)
    assert "jump" in chains(1001), "a gateway that the agent counts full sends flows on"


@pytest.mark.parametrize(
    ("sticky", "most", "rest"), [(60, 0, ()), (0, 9999, ("jump", "jump", "jump"))]
)
def test_a_gateway_of_too_little_weight_for_a_slot_is_not_led_the_flows_of_all(
    sticky: int, most: int, rest: tuple[str, ...]
) -> None:
    """Which are those of the other one, and of any only where that has no room."""
    light, heavy = (replace(g, weight=w, max_connections=most) for g, w in ((GW1, 1), (GW2, 256)))
    vs = replace(server(light, heavy, listener=replace(HTTPS, sticky=sticky)), seed=5)
    chains = compiled(vs).chains
    (lane,) = (
        name for name, rules in chains.items() if rules[-1].endswith(f"dnat ip to {heavy.address}")
    )
    choice = [each for each in chains[CHAIN] if each.startswith("jump")]
    assert choice[0] == f"jump {lane}"
    assert tuple(each.partition(" ")[0] for each in choice[1:]) == rest


def test_a_flow_whose_gateway_is_full_draws_another_by_the_weights_of_those_with_room() -> None:
    names = ("a", "b", "c", "d")
    vs = server(
        *(
            Gateway(name=name, address=f"10.0.0.{n}", weight=weight, max_connections=most)
            for n, (name, weight, most) in enumerate(
                zip(names, (3, 1, 4, 0), (9, 9999, 0, 9), strict=True), 1
            )
        )
    )
    given = {class_id(number): address for address, number in numbers(vs).items()}

    def drawn(**moment: Any) -> dict[str, int]:
        """Of how many equal chances each gateway has which, by the last part of its address."""
        found = compile_ruleset(Desired((vs,), {UID: ("10.0.0.100",)}, moment=Moment(**moment)))
        (rule,) = found.chains[f"{CHAIN}_draw"]
        ways = re.findall(r"(\d+)-(\d+) : (\w+:\w+)", rule)
        chances = {given[to][-1]: int(last) - int(first) + 1 for first, last, to in ways}
        assert f"random mod {sum(chances.values())} " in rule
        others = found.chains[CHAIN]
        assert others.count(f"meta priority @full jump {CHAIN}_draw") == DRAWS - 1
        return chances

    assert drawn() == {"1": 3, "2": 1, "3": 4}, "one without weight has no chance"
    assert drawn(full=frozenset({(UID, "b")})) == {"1": 3, "3": 4}
    assert drawn(full=frozenset({(UID, "a"), (UID, "b")})) == {"3": 4}
    grown = drawn(growing={(UID, "c"): 25})
    assert {to: chances * 4 / grown["3"] for to, chances in grown.items()} == {
        "1": 12,
        "2": 4,
        "3": 4,
    }


def test_what_the_agent_counts_changes_no_chain_in_which_turns_are_taken() -> None:
    one, two = (replace(g, max_connections=9) for g in (GW1, GW2))
    vs = server(one, two, GW3, listener=replace(HTTPS, balance="round-robin"))
    wishes = (
        Desired((vs,), {UID: ("10.0.0.100",)}, moment=Moment(full=frozenset(full)))
        for full in ((), ((UID, "gw1"),))
    )
    before, after = map(compile_ruleset, wishes)
    assert "numgen inc" in " ".join(before.chains[CHAIN])
    assert before.chains[CHAIN] == after.chains[CHAIN]
    assert before.chains[f"{CHAIN}_draw"] != after.chains[f"{CHAIN}_draw"]


def test_nobody_draws_where_no_gateway_has_a_limit() -> None:
    for listener in (HTTPS, replace(HTTPS, sticky=60)):
        assert f"{CHAIN}_draw" not in compiled(server(GW1, GW2, listener=listener)).chains


def test_what_a_listener_remembers_outlives_its_gateways() -> None:
    sticky = msgspec.structs.replace(HTTPS, sticky=60, client_connections=5, client_rate=7)
    some, none = (compiled(server(*g, listener=sticky)) for g in ((GW1, GW2), ()))
    remembered = {name for name in some.sets if name.startswith(CHAIN)}
    assert remembered == none.sets.keys()
    assert {name.removeprefix(CHAIN) for name in remembered} == {"_sticky", "_c5", "_r7"}
    script = change(some, none)
    assert f"delete map inet halb {CHAIN}" not in script
    assert "delete set" not in script


def test_only_what_changed_is_compiled_anew() -> None:
    """And the result is the same as if all had been."""
    servers = tuple(replace(server(GW1, GW2), uid=GroupId(f"{n:016x}"), seed=n) for n in range(3))
    vips = {vs.uid: (f"10.0.0.{n}",) for n, vs in enumerate(servers)}
    uid = servers[1].uid
    moment = Moment(growing={(uid, GW2.name): 50}, full=frozenset({(uid, GW1.name)}))
    wishes = (
        Desired(servers, vips),
        Desired(servers, vips, frozenset({(uid, GW1.name)})),
        Desired(servers, vips, moment=moment),
        Desired(servers[1:], {uid: ("10.0.0.9",)}),
    )
    compiler = Compiler()
    before = Ruleset()
    for wish in wishes:
        found = compiler.compile(wish)
        assert found == compile_ruleset(wish)
        same = [name for name, rules in found.chains.items() if rules is before.chains.get(name)]
        assert all(uid not in name for name in same)
        before = found


def test_a_moment_is_split_by_virtual_server() -> None:
    one, two = GroupId("1" * 16), GroupId("2" * 16)
    whole = Moment({(one, "a"): 10, (two, "b"): 20}, {(two, "b"): 30}, frozenset({(one, "a")}))
    assert whole.by_server() == {
        one: Moment({(one, "a"): 10}, {}, frozenset({(one, "a")})),
        two: Moment({(two, "b"): 20}, {(two, "b"): 30}),
    }
    assert not Moment().by_server()
