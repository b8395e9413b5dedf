"""A process on a device reaches the VIPs that the device carries, whoever is primary."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from halbctl.lab.namespaces import Network
from halbctl.lab.servers import BANNER, ECHO
from protocol.objects import Gateway, Listener
from tests.kernel.namespaces import (
    VIPS,
    Device,
    asked,
    connect,
    desired,
    hosts,
    virtual_server,
)

pytestmark = pytest.mark.kernel

NAMES = ("gw1", "gw2")
GATEWAYS = [
    Gateway(name=f"{name}-{version}", address=pattern.format(number))
    for version, pattern in ((4, "10.77.0.{}"), (6, "fd77::{}"))
    for number, name in enumerate(NAMES, start=13)
]
LISTENERS = [
    Listener(protocol="tcp", port=80, gateway_port=BANNER),
    Listener(protocol="tcp", port=ECHO, gateway_port=ECHO),
    Listener(protocol="udp", port=ECHO, gateway_port=ECHO),
]
WANTED = desired(virtual_server(GATEWAYS, LISTENERS))


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with hosts("a", "b", *NAMES, servers=NAMES) as built:
        yield built


@pytest.fixture(scope="module")
def devices(network: Network) -> Iterator[tuple[Device, Device]]:
    a, b = Device(network, "a"), Device(network, "b")
    for device in (a, b):
        device.reconcile(WANTED)
    a.take()
    yield a, b
    a.close()
    b.close()


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("who", ["primary", "secondary"])
def test_both_reach_the_gateways(devices: tuple[Device, Device], vip: str, who: str) -> None:
    device = devices[who == "secondary"]

    def greeted() -> str:
        with connect(vip, 80) as sock:
            return sock.recv(100).decode().strip()

    assert {device.call(greeted) for _ in range(20)} == set(NAMES)
    assert device.call(asked, vip, ECHO).decode().split()[0] in NAMES


@pytest.mark.parametrize("vip", VIPS)
def test_their_connections_do_not_depend_on_the_lease(
    devices: tuple[Device, Device], vip: str
) -> None:
    a, b = devices

    def echo(sock: socket.socket, data: bytes) -> bool:
        sock.sendall(data)
        return sock.recv(100) == data

    with a.call(connect, vip, ECHO) as sock:
        assert a.call(echo, sock, b"as primary")
        a.drop()
        b.take()
        assert a.call(echo, sock, b"as secondary")
        b.drop()
        a.take()
        assert a.call(echo, sock, b"as primary again")
