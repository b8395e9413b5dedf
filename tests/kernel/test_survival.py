"""Connections live on when a VIP moves between two devices, in both directions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from halbctl.lab.namespaces import Network
from halbctl.lab.probes import Probe
from halbctl.lab.servers import ECHO
from protocol.objects import Gateway, Listener
from protocol.timing import SECOND
from tests.kernel.namespaces import VIP, VIP6, Device, desired, hosts, virtual_server

pytestmark = pytest.mark.kernel

NAMES = ("gw1", "gw2")
CONNECTIONS = 200
GATEWAYS = [
    Gateway(name=f"{name}-{version}", address=pattern.format(number))
    for version, pattern in ((4, "10.77.0.{}"), (6, "fd77::{}"))
    for number, name in enumerate(NAMES, start=14)
]
WANTED = desired(virtual_server(GATEWAYS, [Listener(protocol="tcp", port=ECHO, gateway_port=ECHO)]))
OUTAGE_S = 0.3
"""As long as a failover takes."""


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
        time.sleep(1.2)
        return probe.end()

    def crash() -> None:
        network.unplug("a")
        time.sleep(OUTAGE_S)
        b.take()

    def hand_back() -> None:
        b.call(b.lease.lame, (VIP, VIP6), 2 * SECOND)
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
    assert planned["stall_ms"] < 100, planned
