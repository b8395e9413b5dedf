"""Each mode of forwarding: who sees the client, and that connections outlive a takeover."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace as replaced

from agent.ruleset import Desired
from halbctl.lab.namespaces import Network
from halbctl.lab.probes import Probe
from halbctl.lab.servers import BANNER, ECHO, PUSH
from protocol.objects import Gateway, Listener, VirtualServer
from protocol.timing import SECOND
from tests.kernel.namespaces import (
    UID,
    VIP,
    VIP6,
    VIPS,
    Device,
    Inside,
    asked,
    connect,
    hosts,
    virtual_server,
)

pytestmark = pytest.mark.kernel

INNER = {4: "10.77.0.101", 6: "fd77::101"}
CLIENT = {4: "10.77.0.13", 6: "fd77::13"}
"""Its addresses: it is the third host."""
NAMES = ("gw1", "gw2")
GATEWAYS = [
    Gateway(name=f"{name}-{version}", address=pattern.format(number))
    for version, pattern in ((4, "10.77.0.{}"), (6, "fd77::{}"))
    for number, name in enumerate(NAMES, start=14)
]
LISTENERS = [
    Listener(protocol="tcp", port=ECHO, gateway_port=ECHO),
    Listener(protocol="tcp", port=PUSH, gateway_port=PUSH),
    Listener(protocol="udp", port=ECHO, gateway_port=ECHO),
]
SHIFTED = Listener(protocol="tcp", port=80, gateway_port=BANNER)
KNOWN = [replaced(each, client_connections=100_000) for each in LISTENERS]
"""Listeners with a limit, for which the kernel has to remember each flow."""
CONNECTIONS = 200
OUTAGE_S = 0.3
SETTLING_S = 2.0


def serves(mode: str) -> VirtualServer:
    """The Virtual Server of a mode; ``known`` is `routed` with memory."""
    if mode == "dsr":
        return replaced(virtual_server(GATEWAYS, LISTENERS), forwarding="dsr")
    listeners = [*(KNOWN if mode == "known" else LISTENERS), SHIFTED]
    inner = (f"{INNER[4]}/24", f"{INNER[6]}/64")
    return replaced(virtual_server(GATEWAYS, listeners), forwarding="routed", inner_vips=inner)


MODES = ("routed", "known", "dsr")


@dataclass
class Farm:
    network: Network
    a: Device
    b: Device
    client: Inside
    leased: tuple[str, ...] = ()

    def use(self, mode: str) -> None:
        """Serve in this mode, with ``a`` as the primary."""
        server = serves(mode)
        self.leased = (*VIPS, *(INNER.values() if server.inner_vips else ()))
        for device in (self.a, self.b):
            device.drop(self.leased)
            device.reconcile(Desired((server,), {UID: self.leased}))
            device.run("conntrack", "-F")
        for gateway in NAMES:
            prepare(self.network, gateway, mode)
        self.a.take(self.leased)

    def answered_by(self, vip: str) -> str:
        return self.client.call(asked, vip, ECHO, 1.0).decode().split()[0]


def prepare(network: Network, gateway: str, mode: str) -> None:
    """What the operator of a gateway does for a mode: a route, or the VIP on ``lo``."""
    loose = "conf.all.{0}={1} conf.eth0.{0}={1}"
    settings = " ".join(
        f"net.ipv4.{each}"
        for name, value in (("arp_ignore", 1), ("arp_announce", 2))
        for each in loose.format(name, value if mode == "dsr" else 0).split()
    )
    network.run(gateway, "sysctl", "-qw", *settings.split())
    for version, vip in ((4, VIP), (6, VIP6)):
        ip = ("ip", f"-{version}")
        length = 32 if version == 4 else 128
        if mode == "dsr":
            network.run(gateway, *ip, "address", "replace", f"{vip}/{length}", "dev", "lo")
            network.run(gateway, *ip, "route", "flush", f"{CLIENT[version]}/{length}")
        else:
            network.run(gateway, *ip, "address", "flush", "to", f"{vip}/{length}", "dev", "lo")
            route = (f"{CLIENT[version]}/{length}", "via", INNER[version])
            network.run(gateway, *ip, "route", "replace", *route)


@pytest.fixture(scope="module")
def built() -> Iterator[Farm]:
    with hosts("a", "b", "client", *NAMES, servers=NAMES) as network:
        a, b, client = Device(network, "a"), Device(network, "b"), Inside(network, "client")
        yield Farm(network, a, b, client)
        for each in (a, b, client):
            each.close()


@pytest.fixture(params=MODES)
def farm(built: Farm, request: pytest.FixtureRequest) -> Farm:
    built.use(request.param)
    return built


@pytest.mark.parametrize("vip", VIPS)
def test_gateways_see_the_client(farm: Farm, vip: str) -> None:
    version = 6 if ":" in vip else 4
    socks = [farm.client.call(connect, vip, ECHO, 1.0) for _ in range(8)]
    for sock in socks:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
    seen = "".join(farm.network.run(gw, "ss", "-Htn", "state", "established") for gw in NAMES)
    for sock in socks:
        host, port = sock.getsockname()[:2]
        assert host == CLIENT[version]
        assert (f"[{host}]:{port}" if version == 6 else f"{host}:{port}") in seen
        sock.close()


@pytest.mark.parametrize("vip", VIPS)
def test_datagrams_are_spread_and_keep_their_gateway(farm: Farm, vip: str) -> None:
    assert {farm.answered_by(vip) for _ in range(30)} == set(NAMES)
    family = socket.AF_INET6 if ":" in vip else socket.AF_INET

    def opened() -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.settimeout(1.0)
        sock.connect((vip, ECHO))
        return sock

    flows = [farm.client.call(opened) for _ in range(10)]

    def owners() -> list[bytes]:
        for flow in flows:
            flow.send(b"?")
        return [flow.recv(100) for flow in flows]

    before = owners()
    farm.a.drop(farm.leased)
    farm.b.take(farm.leased)
    assert owners() == before
    for flow in flows:
        flow.close()


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("speaker", ["client", "gateway"])
def test_all_connections_survive_abrupt_and_planned_moves(
    farm: Farm, vip: str, speaker: str
) -> None:
    a, b = farm.a, farm.b
    pushed = ("push",) if speaker == "gateway" else ()
    probe = Probe(farm.network, "client", "established", vip, str(CONNECTIONS), *pushed)

    def window(move: Any) -> dict[str, Any]:
        probe.begin()
        time.sleep(0.3)
        move()
        time.sleep(SETTLING_S)
        return probe.end()

    def crash() -> None:
        farm.network.unplug("a")
        time.sleep(OUTAGE_S)
        b.take(farm.leased)

    def hand_back() -> None:
        b.call(b.lease.lame, farm.leased, 2 * SECOND)
        a.take(farm.leased)

    try:
        abrupt = window(crash)
        a.drop(farm.leased)
        farm.network.plug("a")
        planned = window(hand_back)
    finally:
        probe.close()
    assert abrupt["survivors"] == CONNECTIONS, abrupt
    assert planned["survivors"] == CONNECTIONS, planned
