"""Forwarding `dsr`: what the table of its own holds, and how it is changed."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from agent import direct
from agent import ways as table
from agent.ruleset import Desired, Ruleset, carried, compile_ruleset
from agent.stages import AT_ONCE, stages
from protocol.ids import GroupId
from protocol.objects import Former, Gateway, Listener, VirtualServer

UID = GroupId("00000000000000aa")
VIP = "10.0.0.100"
WEB = Listener(protocol="tcp", port=80, gateway_port=80)
GW1, GW2 = (Gateway(name=f"gw{n}", address=f"10.0.0.{n}") for n in (1, 2))
DIRECT = VirtualServer(
    uid=UID,
    name="web",
    vips=(f"{VIP}/24",),
    forwarding="dsr",
    gateways=(GW1, GW2),
    listeners=(WEB,),
    seed=7,
)
CHAIN = f"vs_{UID}_tcp_80_ip"
KNOWN = f"{CHAIN}_known"
LEAVING = replace(GW2, state="draining")


def wanted(server: VirtualServer) -> Desired:
    return Desired((server,), {UID: server.leased})


def compiled(server: VirtualServer) -> Ruleset:
    return compile_ruleset(wanted(server))


def ways(server: VirtualServer, *down: str) -> table.Ways:
    gone = frozenset((UID, name) for name in down)
    return direct.compiled(carried(wanted(server)), gone, gone, "eth7")


def present(made: table.Ways) -> table.Present:
    """What a kernel has in which this was made."""
    if not made.accounts:
        return table.Present()
    chains = ("ingress", *made.chains)
    names = {"chain": chains, "map": (*made.sets, *table.plain_maps())}
    names["set"] = table.counting_sets()
    parts = frozenset(f"{kind} {name}" for kind, some in names.items() for name in some)
    return table.Present(parts, made.accounts)


def test_dsr_sends_frames_on_and_translates_only_for_the_device_itself() -> None:
    dsr = DIRECT
    script = table.load(ways(dsr), "eth7")
    assert "meta pkttype host ip daddr" in script
    assert "meta priority set jhash ip saddr . tcp sport mod 256" in script
    assert 'fwd ip to ip daddr . meta priority map @gateways device "eth7"' in script
    leads = f"{{ {VIP} . 7e00:0 : 10.0.0.1, {VIP} . 7e01:0 : 10.0.0.2 }}"
    assert f"add element netdev halb_direct gateways {leads}" in script
    assert f"ways {{ {VIP} . tcp . 80 : goto {CHAIN} }}" in script
    assert compiled(dsr).chains[CHAIN][0] == "fib saddr type != local drop"


def test_what_opens_a_connection_is_counted_apart_from_the_rest() -> None:
    rule, found = ways(DIRECT).chains[CHAIN][0], ways(DIRECT).chains["sent_tcp_ip"]
    assert rule.endswith(" jump sent_tcp_ip")
    first, known, rest, full = found
    assert first.startswith("tcp flags & (fin|syn|rst|ack) == syn ")
    assert "update @sent_first " in first
    assert " @sent goto " in known
    assert "update @sent " in rest
    assert "flags" not in known + rest
    assert full == "meta l4proto tcp goto onward_ip"
    assert first.endswith(" goto onward_ip")
    assert rest.endswith(" goto onward_ip")


def test_dsr_without_gateways_refuses_as_all_modes_do() -> None:
    dsr = replace(DIRECT, gateways=())
    assert table.load(ways(dsr), "eth7").endswith("delete table netdev halb_direct\n")
    assert present(ways(dsr)) == table.Present()
    assert "reject with tcp reset" in compiled(dsr).chains[CHAIN][0]


def test_dsr_remembers_what_moves_while_a_gateway_drains() -> None:
    """Like `routed`: what opens goes by the slots of now, what is older by those of before."""
    drained = replace(DIRECT, gateways=(GW1, LEAVING))
    assert KNOWN not in ways(DIRECT).sets
    found = ways(drained)
    number, again, opens, ends, speaks, known, rest, *errors = found.chains[CHAIN]
    at_rest, about = ways(DIRECT).chains[CHAIN]
    assert rest.removeprefix("meta mark set 0 ") == at_rest, "as they were"
    assert errors[-1] == about.replace(" meta priority", " meta mark set 0 meta priority", 1)
    assert "jhash ip saddr . tcp sport . ip daddr . tcp dport mod" in number
    assert again.endswith(f"delete @{KNOWN} {{ meta mark : 0:1 }}")
    slots = opens.partition("meta priority { ")[2].partition(" }")[0].split(", ")
    assert 100 < len(slots) < 156, "only of the gateway that drains"
    assert "meta priority set 7e00:0 " in opens
    assert f"update @{KNOWN}" in opens
    for rule in (ends, speaks, known):
        assert "meta priority { 7e00:0, 7e01:0 } " in rule
    assert "timeout 60s" in ends
    assert "timeout 86400s" in speaks
    assert "update" not in known, "what only acknowledges may be the last packet"


def test_dsr_keeps_what_the_last_gateway_has_while_it_drains() -> None:
    leaving = tuple(replace(g, state="draining") for g in DIRECT.gateways)
    last = replace(DIRECT, gateways=leaving)
    assert ways(last).chains[CHAIN][0].endswith("== syn accept")
    assert "reject with tcp reset" in compiled(last).chains[CHAIN][0]


def test_what_a_draining_gateway_had_goes_elsewhere_once_it_is_down() -> None:
    drained = replace(DIRECT, gateways=(GW1, LEAVING))
    assert all("7e01:0" not in rule for rule in ways(drained, "gw2").chains[CHAIN])


def test_connections_stay_known_when_the_table_changes() -> None:
    drained = replace(DIRECT, gateways=(GW1, LEAVING))
    amid, rested = ways(drained), ways(DIRECT)
    same = table.load(amid, "eth7", present(amid)).splitlines()
    assert "delete table netdev halb_direct" not in same
    assert f"delete map netdev halb_direct {KNOWN}" not in same
    assert f"delete chain netdev halb_direct {CHAIN}" in same
    over = table.load(rested, "eth7", present(amid)).splitlines()
    assert f"delete map netdev halb_direct {KNOWN}" in over


def test_what_opens_nothing_goes_by_the_slots_of_before() -> None:
    came = replace(GW2, former=Former(0, 9))
    rest = ways(replace(DIRECT, gateways=(GW1, came))).chains[CHAIN][-3]
    assert "meta priority set 7e00:0 " in rest


def test_what_is_known_stays_so_while_all_gateways_of_before_are_down() -> None:
    came = replace(GW2, former=Former(0, 9))
    grown = replace(DIRECT, gateways=(GW1, came))
    assert KNOWN in ways(grown, "gw1").sets.keys() & ways(grown).sets.keys()
    assert all("7e00:0 " not in rule for rule in ways(grown, "gw1").chains[CHAIN])


def test_an_error_about_a_flow_of_dsr_goes_by_what_it_quotes() -> None:
    assert ways(DIRECT).maps["errors"] == {f"{VIP} . 6 . 80": f"goto {CHAIN}"}
    assert "@th,64,8 0x45 ip daddr . @th,136,8 . @th,224,16 vmap @errors\n" in table.load(
        ways(DIRECT), "eth7"
    )
    rule = ways(DIRECT).chains[CHAIN][-1]
    assert rule.startswith("meta l4proto icmp ")
    assert "jhash @th,192,32 . @th,240,16 mod 256 seed 0x7 " in rule
    assert "errors6" not in ways(DIRECT).maps, "nothing of that version is served"
    leaving = replace(DIRECT, gateways=(GW1, LEAVING))
    known, rest = ways(leaving).chains[CHAIN][-2:]
    assert f"map @{KNOWN}" in known
    assert "update" not in known
    assert rest.endswith(rule.rpartition("mod 256")[2])


def test_what_is_no_error_never_meets_the_rules_for_errors() -> None:
    """They would take what it carries for what an error quotes, and send it on."""
    moving = (GW1, LEAVING), (replace(GW1, state="draining"), LEAVING), (GW1,)
    balanced = (WEB, replace(WEB, balance="source-hash"), replace(WEB, port=81, last_port=90))
    for gateways in moving:
        for listener in balanced:
            server = replace(DIRECT, gateways=gateways, listeners=(listener,))
            (chain,) = (n for n in ways(server).chains if n.startswith("vs_"))
            onward = [rule for rule in ways(server).chains[chain] if "jump onward" in rule]
            assert onward
            assert all(rule.startswith("meta l4proto icmp ") for rule in onward)


def test_counters_stay_when_the_table_changes_and_go_with_the_gateway() -> None:
    before = ways(DIRECT)
    shut = table.load(ways(DIRECT, "gw1", "gw2"), "eth7", present(before))
    assert "element netdev halb_direct sent" not in shut
    assert "delete map netdev halb_direct sent" not in shut
    other = replace(GW2, name="gw3", address="10.0.0.3")
    swapped = replace(DIRECT, gateways=(GW1, other))
    script = table.load(ways(swapped), "eth7", present(before)).splitlines()
    element = f"{VIP} . tcp . 80 . 7e01:0"
    for name in ("sent", "sent_first"):
        # What no packet came for is not there, and cannot be deleted.
        some = f"element netdev halb_direct {name} {{ {element} }}"
        assert [line for line in script if f" {name} {{ {VIP}" in line] == [
            f"add {some}",
            f"delete {some}",
        ]


def test_counters_go_on_where_somebody_took_away_what_leads_to_gateways() -> None:
    before = ways(DIRECT)
    nobodys = {name: dict.fromkeys(each, "") for name, each in before.accounts.items()}
    there = table.Present(present(before).parts, nobodys)
    assert "element netdev halb_direct sent" not in table.load(before, "eth7", there)
    fewer = table.load(ways(replace(DIRECT, gateways=(GW1,))), "eth7", there)
    assert f"delete element netdev halb_direct sent {{ {VIP} . tcp . 80 . 7e01:0 }}" in fewer


def test_of_more_than_there_is_room_for_none_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel would refuse the change."""
    monkeypatch.setattr(table, "MAX_COUNTED", 1)
    script = table.change(ways(DIRECT), ways(replace(DIRECT, gateways=(GW1,))), "eth7")
    assert "flush set netdev halb_direct sent\n" in script
    assert "element netdev halb_direct sent" not in script


def test_datagrams_open_nothing_that_is_counted() -> None:
    listener = Listener(protocol="udp", port=53, last_port=54, gateway_port=53)
    found = ways(replace(DIRECT, listeners=(listener,)))
    assert set(found.accounts) == {"sent"}
    to, _ = found.chains[f"vs_{UID}_udp_53_54_ip"]
    assert to.endswith("jump sent_udp_53_ip")
    known, new, _ = found.chains["sent_udp_53_ip"]
    key = "ip daddr . meta l4proto . (th dport & 0x0 | 0x35) . meta priority"
    assert f" {key} @sent " in known
    assert f"update @sent {{ {key} counter }} " in new


def farm(number: int) -> VirtualServer:
    return replace(DIRECT, uid=GroupId(f"{number:016x}"), vips=(f"10.0.1.{number}/24",))


def together(servers: Iterable[VirtualServer], *down: GroupId) -> Desired:
    some = tuple(servers)
    gone = frozenset((uid, "gw1") for uid in down)
    return Desired(some, {vs.uid: vs.addresses for vs in some}, gone)


def test_a_change_of_one_virtual_server_touches_no_other() -> None:
    """Else a gateway of one that goes down takes as long as loading all of them."""
    compiler, servers = direct.Compiler("eth7"), [farm(n) for n in range(1, 101)]
    before = compiler.compile(together(servers))
    uid = servers[41].uid
    script = table.change(before, compiler.compile(together(servers, uid)), "eth7").splitlines()
    assert 3 <= len(script) <= 7
    assert all(uid in line or "map netdev halb_direct slots_" in line for line in script)
    assert not any("element" in line for line in script), "its counters go on"
    assert table.change(before, compiler.compile(together(servers)), "eth7") == ""


def test_only_chains_that_listeners_share_ask_the_maps_of_all_gateways() -> None:
    """The kernel looks at each element for each chain that asks a map."""
    found = direct.Compiler("eth7").compile(together(farm(n) for n in range(1, 101)))
    large = [name for name, each in found.maps.items() if len(each) > 99]
    asking = {
        chain
        for chain, rules in found.chains.items()
        for rule in rules
        if any(f"map @{name} " in rule for name in large)
    }
    assert asking == {"onward_ip"}


@pytest.mark.parametrize("servers", [1, 100])
def test_the_table_of_dsr_comes_and_goes_by_small_transactions(servers: int) -> None:
    none, every = (
        table.Ways(),
        direct.Compiler("eth7").compile(together(farm(n) for n in range(1, servers + 1))),
    )
    now = none
    for stage in stages(none, every):
        script = table.change(now, stage, "eth7")
        assert sum(line.startswith("add chain") for line in script.splitlines()) <= AT_ONCE + 4
        now = stage
    assert now is every
    assert table.change(every, none, "eth7") == (
        "add table netdev halb_direct\ndelete table netdev halb_direct\n"
    )


def test_a_gateway_that_takes_the_seat_of_another_is_led_to_with_the_rest() -> None:
    """Until then nobody asks for it, and what asks for the other one finds that."""
    servers = [farm(n) for n in range(1, 101)]
    swapped = (GW1, replace(GW2, address="10.0.0.3"))
    after = [replace(vs, gateways=swapped) for vs in servers]
    compiler = direct.Compiler("eth7")
    old, new = compiler.compile(together(servers)), compiler.compile(together(after))
    seat, account = "10.0.1.7 . 7e01:0", "10.0.1.7 . tcp . 80 . 7e01:0"
    for stage in old.filled(new):
        assert stage.maps["gateways"][seat] == "10.0.0.2"
        assert stage.accounts["sent"][account] == "10.0.0.2"
    led = old.led(new)
    assert led.maps["gateways"][seat] == led.accounts["sent"][account] == "10.0.0.3"
