"""Connections live on when a VIP moves between two devices, in both directions."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from halbctl.lab.namespaces import Network
from halbctl.lab.probes import Probe
from halbctl.lab.servers import ECHO
from protocol.objects import Gateway, Listener
from protocol.timing import SECOND
from tests.kernel.namespaces import VIP, VIP6, Device, Inside, desired, hosts, virtual_server

pytestmark = pytest.mark.kernel

NAMES = ("gw1", "gw2")
CONNECTIONS = 200
FLOWS = 40
GATEWAYS = [
    Gateway(name=f"{name}-{version}", address=pattern.format(number))
    for version, pattern in ((4, "10.77.0.{}"), (6, "fd77::{}"))
    for number, name in enumerate(NAMES, start=14)
]
LISTENERS = [
    Listener(protocol="tcp", port=ECHO, gateway_port=ECHO),
    Listener(protocol="udp", port=ECHO, gateway_port=ECHO),
]
WANTED = desired(virtual_server(GATEWAYS, LISTENERS))
OUTAGE_S = 0.3
"""As long as a failover takes."""
SETTLING_S = 2.0
"""TCP doubles its timer during the outage, so flows speak again within twice of it."""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with hosts("a", "b", "client", *NAMES, servers=NAMES) as built:
        yield built


@pytest.fixture(scope="module")
def devices(network: Network) -> Iterator[tuple[Device, Device]]:
    a, b = Device(network, "a"), Device(network, "b")
    for device in (a, b):
        device.reconcile(WANTED)
    yield a, b
    a.close()
    b.close()


@pytest.mark.parametrize("vip", [VIP, VIP6])
def test_all_connections_survive_abrupt_and_planned_moves(
    network: Network, devices: tuple[Device, Device], vip: str
) -> None:
    a, b = devices
    b.drop()
    a.take()
    probe = Probe(network, "client", "established", vip, str(CONNECTIONS))

    def window(move: Any) -> dict[str, Any]:
        probe.begin()
        time.sleep(0.3)
        move()
        time.sleep(SETTLING_S)
        return probe.end()

    def crash() -> None:
        network.unplug("a")
        time.sleep(OUTAGE_S)
        b.take()

    def hand_back() -> None:
        b.call(b.lease.lame, [(VIP, VIP6)], 2 * SECOND)
        a.take()

    try:
        abrupt = window(crash)
        a.drop()
        network.plug("a")
        planned = window(hand_back)
    finally:
        probe.close()
    assert abrupt["survivors"] == CONNECTIONS, abrupt
    assert planned["survivors"] == CONNECTIONS, planned
    assert planned["stall_ms"] < 100 + planned["late_ms"], planned


@pytest.mark.parametrize("vip", [VIP, VIP6])
def test_datagram_flows_stay_with_their_gateway(
    network: Network, devices: tuple[Device, Device], vip: str
) -> None:
    a, b = devices
    client = Inside(network, "client")
    family = socket.AF_INET6 if ":" in vip else socket.AF_INET

    def open_flows() -> list[socket.socket]:
        flows = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(FLOWS)]
        for flow in flows:
            flow.settimeout(1.0)
            flow.connect((vip, ECHO))
        return flows

    def gateways_of(flows: list[socket.socket]) -> list[bytes]:
        for flow in flows:
            flow.send(b"?")
        return [flow.recv(100) for flow in flows]

    b.drop()
    a.take()
    flows = client.call(open_flows)
    before = gateways_of(flows)
    assert len(set(before)) == len(NAMES)
    a.drop()
    b.take()
    assert gateways_of(flows) == before
    for flow in flows:
        flow.close()
    client.close()
