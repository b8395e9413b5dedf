"""Listeners with several ports, and what happens to them when they change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from halbctl.lab.servers import BANNER, ECHO
from protocol.objects import Gateway, Listener
from protocol.ports import HIGHEST
from tests.kernel.namespaces import (
    UID,
    VIPS,
    Device,
    Inside,
    asked,
    connect,
    desired,
    hosts,
    virtual_server,
)

pytestmark = pytest.mark.kernel

GATEWAYS = [Gateway(name="gw-4", address="10.77.0.13"), Gateway(name="gw-6", address="fd77::13")]
RANGE = Listener(protocol="tcp", port=ECHO, last_port=BANNER, gateway_port=ECHO)
EVERY = Listener(protocol="udp", port=1, last_port=HIGHEST, gateway_port=1)
SINGLE = Listener(protocol="tcp", port=ECHO, gateway_port=ECHO)


@dataclass
class Farm:
    device: Device
    client: Inside

    def serve(self, listeners: Sequence[Listener]) -> None:
        self.device.reconcile(desired(virtual_server(GATEWAYS, listeners)))

    def accepts(self, vip: str, port: int) -> bool:
        try:
            self.client.call(connect, vip, port, 0.3).close()
        except OSError:
            return False
        return True


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    with hosts("a", "client", "gw", servers=["gw"]) as network:
        device, client = Device(network, "a"), Inside(network, "client")
        device.take()
        yield Farm(device, client)
        device.close()
        client.close()


@pytest.mark.parametrize("vip", VIPS)
def test_each_port_of_a_range_leads_to_the_same_port(farm: Farm, vip: str) -> None:
    farm.serve([RANGE, EVERY])
    assert farm.accepts(vip, ECHO)
    assert farm.accepts(vip, BANNER)
    assert not farm.accepts(vip, BANNER + 1)
    assert farm.client.call(asked, vip, ECHO) == b"gw ?"


@pytest.mark.parametrize("vip", VIPS)
def test_a_range_becomes_a_port_and_a_port_a_range(farm: Farm, vip: str) -> None:
    for listeners, beyond in (([RANGE], True), ([SINGLE], False), ([RANGE, EVERY], True)):
        farm.serve(listeners)
        assert farm.accepts(vip, ECHO)
        assert farm.accepts(vip, BANNER) is beyond


def test_connections_to_any_port_of_a_range_are_counted(farm: Farm) -> None:
    farm.serve([RANGE])
    farm.device.run("conntrack", "-F")
    socks = [farm.client.call(connect, VIPS[0], ECHO) for _ in range(3)]
    assert farm.device.call(farm.device.plane.connections)[UID, "gw-4"] == 3
    for sock in socks:
        sock.close()
