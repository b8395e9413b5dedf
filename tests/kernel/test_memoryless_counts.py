"""What nobody remembers is counted all the same: each packet and each connection once."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from agent.dataplane import DataPlane
from agent.meter import Sample
from agent.ruleset import Desired
from agent.tallies import traffic_of
from halbctl.lab.servers import ECHO, PUSH
from protocol.config import Edit
from protocol.objects import Assignment, Former, Gateway, Listener, VirtualServer
from protocol.ports import HIGHEST
from protocol.seats import seated
from protocol.timing import Profile
from protocol.traffic import Traffic, VirtualServerTraffic
from tests.kernel.modes import GATEWAYS as UNSEATED
from tests.kernel.modes import NAMES, Farm, built_farm, serves
from tests.kernel.namespaces import UID, VIP, VIPS, asked, connect, wait_until
from tests.unit.cluster import device, first_config

pytestmark = pytest.mark.kernel

MODES = ("routed", "dsr")
GATEWAYS = seated(UNSEATED)
OTHER_VIP = "10.77.0.110"
_TRUTH = """
table netdev truth {
 set seen { type ether_type . inet_proto . inet_service; size 999; flags dynamic; }
 set opened { type ether_type . inet_proto . inet_service; size 999; flags dynamic; }
 chain opened {
  update @opened { meta protocol . meta l4proto . th dport counter }
 }
 chain counted {
  update @seen { meta protocol . meta l4proto . th dport counter }
  tcp flags & (fin|syn|rst|ack) == syn jump opened
 }
 chain came {
  type filter hook ingress device "eth0" priority 0;
  meta pkttype host meta l4proto { tcp, udp } th dport != 0-1023 goto counted
  meta pkttype host tcp dport 80 goto counted
 }
}
"""
"""What a gateway itself counts of what comes to it."""


class Counted(NamedTuple):
    packets: int = 0
    bytes: int = 0
    connections: int = 0


Counts = dict[tuple[str, str], Counted]
"""By listener and gateway."""


class Sight:
    """What an operator is shown, and what gateways themselves saw."""

    def __init__(self, farm: Farm, mode: str) -> None:
        self.farm, self.server = farm, replace(serves(mode), gateways=GATEWAYS)
        for name in NAMES:
            farm.network.run(name, "nft", "-f", "-", text=_TRUTH)
        farm.use(mode)
        self._assigned = farm.leased

    def serve(self, down: tuple[str, ...] = (), **changes: Any) -> None:
        self.server = replace(self.server, **changes)
        gone = frozenset((UID, name) for name in down)
        done = self.farm.a.reconcile(Desired((self.server,), {UID: self._assigned}, gone))
        assert not done.drift
        assert not done.unfit

    def also(self, vip: str) -> None:
        """Serve this VIP of IPv4, too."""
        for name in NAMES:
            self.farm.network.run(name, "ip", "address", "add", f"{vip}/32", "dev", "lo")
        self._assigned = (*self._assigned, vip)
        self.serve(vips=(*self.server.vips, f"{vip}/24"))
        self.farm.a.take(self._assigned)

    def restart(self) -> None:
        """The agent begins anew beside what the kernel has."""
        a = self.farm.a
        a.plane = a.call(DataPlane, a.plane.interface)
        a.call(a.plane.prepare)

    def shown(self) -> VirtualServerTraffic:
        a = self.farm.a
        assigned = Assignment(
            uid=UID, number=1, voters=(), vips=self._assigned,
            profile=Profile.NORMAL, slowest=Profile.NORMAL,
        )  # fmt: skip
        config = first_config([device(1)], self.server).edited(Edit(put=(assigned,)), 2)
        sample = Sample(1.0, *a.call(a.plane.traffic, True))
        [found] = traffic_of(config, {UID}, {UID}, sample, sample)
        return found

    def told(self) -> Counts:
        def counted(of: Traffic) -> Counted:
            return Counted(of.packets_in, of.bytes_in, of.connections)

        return {
            (listener.listener, gateway.name): counted(gateway.traffic)
            for listener in self.shown().listeners
            for gateway in listener.gateways
            if gateway.traffic.packets_in
        }

    def truth(self) -> Counts:
        found: Counts = {}
        for name in NAMES:
            opened = self._elements(name, "opened")
            for (kind, protocol, port), (packets, octets) in self._elements(name, "seen").items():
                gateway = f"{name}-{4 if kind == 'ip' else 6}"
                key = self._listener(protocol, port)
                before = found.get((key, gateway), Counted())
                begun = opened.get((kind, protocol, port), (0, 0))[0]
                if protocol == "udp":
                    begun = -1 - before.connections
                more = Counted(packets, octets, begun)
                found[key, gateway] = Counted(*map(sum, zip(before, more, strict=True)))
        return found

    def _listener(self, protocol: str, port: int) -> str:
        """Whose the packets are that come to this port of a gateway."""
        return next(
            each.key
            for each in self.server.listeners
            if each.protocol == protocol and each.gateway_ports[0] <= port <= each.gateway_ports[1]
        )

    def _elements(self, name: str, which: str) -> dict[tuple[str, str, int], tuple[int, int]]:
        listed = json.loads(
            self.farm.network.run(name, "nft", "-j", "list", "set", "netdev", "truth", which)
        )
        (found,) = (each["set"] for each in listed["nftables"] if "set" in each)
        return {
            tuple(each["elem"]["val"]["concat"]): (
                each["elem"]["counter"]["packets"],
                each["elem"]["counter"]["bytes"],
            )
            for each in found.get("elem", ())
        }

    def agree(self) -> Counts:
        """Both say the same, once the last packets have come; what they say."""

        def same() -> bool:
            pair[:] = self.told(), self.truth()
            return pair[0] == pair[1]

        pair: list[Counts] = []
        try:
            wait_until(same, "both say the same", 3.0)
        except AssertionError:
            assert pair[0] == pair[1]
        return pair[0]


@pytest.fixture(params=MODES)
def sight(request: pytest.FixtureRequest) -> Iterator[Sight]:
    with built_farm() as farm:
        yield Sight(farm, request.param)


@pytest.fixture
def direct() -> Iterator[Sight]:
    with built_farm() as farm:
        yield Sight(farm, "dsr")


@pytest.fixture
def opened() -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        some: list[socket.socket] = []
        stack.callback(lambda: list(map(socket.socket.close, some)))
        yield some


def talk(sock: socket.socket, size: int = 1) -> None:
    data = b"x" * size
    sock.sendall(data)
    left = size
    while left:
        left -= len(sock.recv(left))


def open_some(sight: Sight, number: int, port: int = ECHO) -> list[socket.socket]:
    socks = [sight.farm.client.call(connect, vip, port, 2.0) for vip in VIPS for _ in range(number)]
    for sock in socks:
        talk(sock)
    return socks


def connections(counts: Counts) -> int:
    return sum(max(0, each.connections) for each in counts.values())


def test_packets_bytes_and_connections_are_counted_for_their_gateway(sight: Sight) -> None:
    for sock in open_some(sight, 10):
        talk(sock, 100_000)
        sock.close()
    for vip in VIPS:
        for _ in range(10):
            sight.farm.client.call(asked, vip, ECHO, 2.0)
    counts = sight.agree()
    assert connections(counts) == 20
    assert {name for _, name in counts} == {gateway.name for gateway in GATEWAYS}
    assert sum(counts[f"udp/{ECHO}", g.name].packets for g in GATEWAYS) == 20
    shown = sight.shown()
    (tcp,) = (each for each in shown.listeners if each.listener == f"tcp/{ECHO}")
    assert tcp.traffic.connections == 20
    assert shown.traffic.connections == -1, "datagrams open nothing that is known"
    assert shown.traffic.packets_in == sum(each.packets for each in counts.values())
    unknown = (tcp.traffic.active, tcp.traffic.refused, tcp.traffic.dropped)
    assert unknown == (-1, -1, -1)
    passes_by = sight.server.forwarding == "dsr"
    assert (tcp.traffic.packets_out == tcp.traffic.bytes_out == -1) is passes_by
    assert passes_by or tcp.traffic.bytes_out > 20 * 100_000


def test_nothing_is_counted_twice_while_slots_move(
    sight: Sight, opened: list[socket.socket]
) -> None:
    """What has an entry or is remembered, what has none, and what opens a connection."""

    def serve(down: tuple[str, ...] = (), **second: Any) -> None:
        some = (g if g.name.startswith("gw1") else replace(g, **second) for g in GATEWAYS)
        sight.serve(down, gateways=tuple(g for g in some if g.state != "disabled"))

    serve(state="disabled")
    opened += open_some(sight, 8)
    sight.agree()
    for number, step in enumerate(
        (
            {"former": Former(0, 9)},
            {"former": Former(0, 9), "weight": 200},
            {"former": Former(0, 9), "state": "draining"},
            {},
        ),
        start=2,
    ):
        serve(**step)  # type: ignore[arg-type]
        if step:
            for sock in opened:
                talk(sock)
        opened += open_some(sight, 8)
        for sock in opened[-16:]:
            talk(sock, 3000)
        for sock in opened[-4:]:
            sock.close()
        del opened[-4:]
        assert connections(sight.agree()) == number * 16


def test_counters_outlive_changes_of_the_rules_and_agents(sight: Sight) -> None:
    def used(times: int) -> None:
        for sock in open_some(sight, 3):
            sock.close()
        for vip in VIPS:
            sight.farm.client.call(asked, vip, ECHO, 2.0)
        assert connections(sight.agree()) == times * 6

    used(1)
    more = Gateway(name="gw3", address="10.77.0.99", weight=0)
    sight.serve(gateways=(*GATEWAYS, more))
    sight.serve(
        listeners=(*sight.server.listeners, Listener(protocol="tcp", port=9, gateway_port=9))
    )
    used(2)
    shut = tuple(gateway.name for gateway in GATEWAYS)
    sight.serve(down=shut)
    sight.restart()
    sight.serve(down=shut)
    assert connections(sight.told()) == 12
    sight.serve()
    used(3)
    sight.restart()
    sight.serve(gateways=tuple(GATEWAYS))
    used(4)
    sight.restart()
    sight.serve()
    sight.serve(down=("gw1-4", "gw1-6"))
    sight.farm.a.run("nft", "add", "table", "inet", "theirs")
    sight.serve()
    used(5)


def test_totals_go_on_after_somebody_flushed_all_rules(direct: Sight) -> None:
    for sock in open_some(direct, 3):
        sock.close()
    direct.agree()
    direct.farm.a.run("nft", "flush", "ruleset")
    wanted = Desired((direct.server,), {UID: direct.farm.leased})
    assert "table netdev halb_direct was deleted" in direct.farm.a.reconcile(wanted).drift
    direct.farm.a.take(direct.farm.leased)
    for sock in open_some(direct, 3):
        sock.close()
    assert connections(direct.agree()) == 12


def test_what_is_altered_is_mended_and_goes_on(direct: Sight) -> None:
    for sock in open_some(direct, 3):
        sock.close()
    direct.agree()
    element = f"{{ {VIP} . 7e00:0 }}"
    direct.farm.a.run("nft", "delete", "element", "netdev", "halb_direct", "gateways", element)
    direct.told()
    wanted = Desired((direct.server,), {UID: direct.farm.leased})
    drift = direct.farm.a.reconcile(wanted).drift
    assert drift == ("table netdev halb_direct: map gateways was altered",)
    for sock in open_some(direct, 3):
        sock.close()
    assert connections(direct.agree()) == 12


def test_one_that_takes_the_seat_of_another_begins_at_zero(direct: Sight) -> None:
    for sock in open_some(direct, 8):
        sock.close()
    before = direct.agree()
    swapped = {"gw1-4": "10.77.0.98", "gw1-6": "fd77::98"}
    others = tuple(
        replace(g, name=f"new-{g.name}", address=swapped[g.name]) if g.name in swapped else g
        for g in GATEWAYS
    )
    direct.restart()
    direct.serve(gateways=others)
    counts = direct.told()
    assert not [key for key in counts if key[1].startswith("new")]
    assert counts == {key: each for key, each in before.items() if key[1] not in swapped}


def test_each_vip_and_all_ports_of_a_range_count_for_their_listener(direct: Sight) -> None:
    every = (
        Listener(protocol="tcp", port=1, last_port=HIGHEST, gateway_port=1),
        Listener(protocol="udp", port=1, last_port=HIGHEST, gateway_port=1),
    )
    direct.serve(listeners=every)
    direct.also(OTHER_VIP)
    for vip in (*VIPS, OTHER_VIP):
        for port in (ECHO, PUSH):
            direct.farm.client.call(connect, vip, port, 2.0).close()
        direct.farm.client.call(asked, vip, ECHO, 2.0)
    counts = direct.agree()
    assert {key for key, _ in counts} == {"tcp/all", "udp/all"}
    assert connections(counts) == 6
    reading = direct.farm.a.call(direct.farm.a.plane.traffic)[0]
    opened = [sum(n.packets for key, n in reading.sent_first.items() if key[0] == vip)
              for vip in (*VIPS, OTHER_VIP)]  # fmt: skip
    assert opened == [2, 2, 2]
    direct.restart()
    direct.serve()
    assert direct.agree() == counts


def test_what_a_device_opens_itself_and_checks_of_gateways(sight: Sight) -> None:
    """The first is a connection through the VIP, the second is none."""
    for vip in VIPS:
        with sight.farm.a.call(connect, vip, ECHO, 2.0) as sock:
            talk(sock)
    assert connections(sight.told()) == 2
    for gateway in GATEWAYS:
        sight.farm.a.call(connect, gateway.address, ECHO, 2.0).close()
    assert connections(sight.told()) == 2
    assert connections(sight.truth()) == 2 + len(GATEWAYS)


def test_the_table_of_another_release_counts_from_now_on(direct: Sight) -> None:
    """It has maps where this one has sets."""
    table = ("netdev", "halb_direct")
    assert "set sent " in direct.farm.a.run("nft", "list", "table", *table)
    direct.farm.a.run("nft", "flush", "table", *table)
    leading = "type ipv4_addr . inet_proto . inet_service . classid : ipv4_addr; counter;"
    for name in ("sent", "sent_first"):
        direct.farm.a.run("nft", "delete", "set", *table, name)
        direct.farm.a.run("nft", "add", "map", *table, name, f"{{ {leading} }}")
        element = f"{{ {VIP} . tcp . {ECHO} . 7e00:0 : 10.77.0.14 }}"
        direct.farm.a.run("nft", "add", "element", *table, name, element)
    direct.restart()
    server: VirtualServer = direct.server
    direct.farm.a.reconcile(Desired((server,), {UID: direct.farm.leased}))
    for sock in open_some(direct, 3):
        sock.close()
    assert connections(direct.agree()) == 6
