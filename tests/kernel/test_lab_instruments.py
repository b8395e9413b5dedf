"""The instruments of the lab, judged by truths that are made by hand."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from halbctl.lab.namespaces import Host, Network
from halbctl.lab.probes import Probes, python_environment
from halbctl.lab.realm import open_realm

pytestmark = pytest.mark.kernel

VIP, VIP6 = "10.77.0.100", "fd77::100"
HOSTS = [
    Host("a", 11),
    Host("b", 12),
    Host("gw1", 31),
    Host("client", 201),
    Host("observer", 202),
]
MAC_A, MAC_B = HOSTS[0].mac, HOSTS[1].mac
FORWARDING = f"""table ip hand {{
  chain pre {{
    type nat hook prerouting priority dstnat;
    ip daddr {VIP} dnat to 10.77.0.31
  }}
  chain post {{
    type nat hook postrouting priority srcnat;
    ct status dnat snat to {VIP}
  }}
  chain guard {{
    type filter hook input priority filter;
    ip daddr {VIP} meta l4proto tcp drop
  }}
}}
"""
SETTINGS = [
    "net.ipv4.ip_forward=1",
    "net.netfilter.nf_conntrack_tcp_be_liberal=1",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.eth0.send_redirects=0",
]


class Hand:
    """Two devices whose VIP is moved by hand."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.server = self._serve("gw1")
        for device in ("a", "b"):
            network.run(device, "nft", "-f", "-", text=FORWARDING)
            network.run(device, "sysctl", "-qw", *SETTINGS)

    def _serve(self, name: str) -> subprocess.Popen[bytes]:
        argv = self.network.within("gw1", [sys.executable, "-m", "halbctl.lab.servers", name])
        server = subprocess.Popen(argv, stdout=subprocess.PIPE, env=python_environment())
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        server.stdout.close()
        return server

    def stop_serving(self) -> None:
        self.server.kill()
        self.server.wait()

    def serve_as(self, name: str) -> None:
        """Have another gateway answer at the same address."""
        self.stop_serving()
        self.server = self._serve(name)

    def give(self, device: str) -> None:
        self.network.run(device, "ip", "address", "add", f"{VIP}/32", "dev", "eth0")
        v6 = ("ip", "address", "add", f"{VIP6}/128", "dev", "eth0", "nodad")
        self.network.run(device, *v6)

    def take(self, device: str) -> None:
        self.network.run(device, "ip", "address", "del", f"{VIP}/32", "dev", "eth0")
        self.network.run(device, "ip", "address", "del", f"{VIP6}/128", "dev", "eth0")

    def forget_neighbours(self) -> None:
        """Make the client and the gateway ask again: the work of a gratuitous ARP."""
        for host in ("client", "gw1"):
            self.network.run(host, "ip", "neighbour", "flush", "to", VIP)


@pytest.fixture
def hand(request: pytest.FixtureRequest) -> Iterator[Hand]:
    realm = open_realm()
    network = Network(f"i{os.getpid()}", realm)
    made: Hand | None = None
    try:
        network.build(HOSTS)
        made = Hand(network)
        yield made
    finally:
        if made is not None:
            made.stop_serving()
        network.remove()
        realm.close()


def test_calm_then_two_owners_then_an_outage(hand: Hand) -> None:
    hand.give("a")
    with Probes(hand.network, [VIP, VIP6], connections=40) as probes:
        probes.begin()
        time.sleep(1.0)
        calm = probes.end()
        assert calm["echo"]["survivors"] == calm["echo"]["connections"] == 40
        assert calm["echo"]["stall_ms"] < 100
        assert calm["newcomers"]["outage_ms"] < 150
        assert set(calm["newcomers"]["gateways"]) == {"gw1"}
        for vip in (VIP, VIP6):
            assert calm["owners"]["vips"][vip]["two_owners_ms"] == 0
            assert set(calm["owners"]["vips"][vip]["owners"]) == {MAC_A}

        probes.begin()
        time.sleep(0.3)
        moments = [time.monotonic()]
        hand.give("b")
        moments.append(time.monotonic())
        time.sleep(0.5)
        moments.append(time.monotonic())
        hand.take("b")
        moments.append(time.monotonic())
        at_most, at_least = (1000 * (moments[-1 - i] - moments[i]) for i in (0, 1))
        time.sleep(0.3)
        both = probes.end()["owners"]["vips"]
        for vip in (VIP, VIP6):
            assert at_least - 30 <= both[vip]["two_owners_ms"] <= at_most + 30
            assert both[vip]["changes"][1][1] == sorted([MAC_A, MAC_B])

        probes.begin()
        hand.forget_neighbours()
        hand.network.unplug("a")
        time.sleep(0.5)
        hand.give("b")
        hand.forget_neighbours()
        time.sleep(1.5)
        moved = probes.end()
        assert 400 < moved["newcomers"]["outage_ms"] < 1000
        assert sum(moved["newcomers"]["failed"].values()) > 50
        assert moved["echo"]["survivors"] == 40
        assert 400 < moved["echo"]["stall_ms"] < 1500
        owners = moved["owners"]["vips"][VIP]
        assert 470 <= owners["longest_silence_ms"] <= 800
        assert owners["two_owners_ms"] == 0
        assert owners["changes"][-1][1] == [MAC_B]


def test_connections_that_end_or_hang_are_no_survivors(hand: Hand) -> None:
    hand.give("a")
    with Probes(hand.network, [VIP], connections=40, kinds=("push",)) as probes:
        probes.begin()
        time.sleep(0.3)
        assert probes.end()["push"]["survivors"] == 40

        probes.begin()
        hand.network.cut("a", "client")
        time.sleep(1.4)
        silent = probes.end()["push"]
        assert (silent["survivors"], silent["silent"]) == (0, 40)
        hand.network.heal_all()

    with Probes(hand.network, [VIP], connections=40) as probes:
        probes.begin()
        hand.server.kill()
        time.sleep(0.7)
        ended = probes.end()["echo"]
        assert ended["survivors"] == ended["silent"] == 0
        assert sum(ended["lost"].values()) == 40


def test_a_flow_of_datagrams_that_another_gateway_answers_is_lost(hand: Hand) -> None:
    hand.give("a")
    with Probes(hand.network, [VIP], connections=40, kinds=("udp",)) as probes:
        probes.begin()
        assert probes.end()["udp"]["survivors"] == 40
        probes.begin()
        hand.serve_as("gw2")
        time.sleep(0.5)
        assert probes.end()["udp"]["lost"] == {"moved": 40}


def test_idle_connections_and_equal_source_ports_are_judged_by_their_echo(hand: Hand) -> None:
    hand.give("a")
    with Probes(hand.network, [VIP], connections=40, kinds=("idle", "ports")) as probes:
        probes.begin()
        time.sleep(1.5)
        calm = probes.end()
        assert [calm[kind]["survivors"] for kind in ("idle", "ports")] == [40, 40]
        probes.begin()
        hand.stop_serving()
        time.sleep(0.3)
        ended = probes.end()
        assert [ended[kind]["survivors"] for kind in ("idle", "ports")] == [0, 0]
