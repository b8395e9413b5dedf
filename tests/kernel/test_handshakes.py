"""Connections that are being opened while their VIP moves as planned, where gateways take turns."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from agent.passive import half_open
from halbctl.lab.namespaces import Network
from halbctl.lab.servers import ECHO
from protocol.objects import Gateway, Listener
from tests.kernel.namespaces import (
    LONG,
    VIP,
    VIP6,
    VIPS,
    Device,
    Inside,
    connect,
    desired,
    hosts,
    virtual_server,
    wait_until,
)
from tests.kernel.swallowing import PATIENCE_S, knock, wait_open

pytestmark = pytest.mark.kernel

NAMES = ("gw1", "gw2")
GATEWAYS = [
    Gateway(name=f"{name}-{version}", address=pattern.format(number))
    for version, pattern in ((4, "10.77.0.{}"), (6, "fd77::{}"))
    for number, name in enumerate(NAMES, start=14)
]
LISTENERS = [Listener(protocol="tcp", port=ECHO, gateway_port=ECHO, balance="round-robin")]
WANTED = desired(virtual_server(GATEWAYS, LISTENERS))
PREDECESSOR = ("10.77.0.11", "fd77::11")
OTHER_ORDER = (0, 2, 1, 3)
"""In which four connections that took turns between two gateways cannot find them by turns."""


@pytest.fixture
def network() -> Iterator[Network]:
    with hosts("a", "b", "client", *NAMES, servers=NAMES) as built:
        yield built


@pytest.fixture
def devices(network: Network) -> Iterator[tuple[Device, Device]]:
    a, b = Device(network, "a"), Device(network, "b")
    for device in (a, b):
        device.reconcile(WANTED)
    a.take()
    yield a, b
    a.close()
    b.close()


@contextmanager
def held_back(network: Network, host: str, packets: str) -> Iterator[None]:
    """Let a host lose ``packets`` that it sends."""
    network.run(host, "nft", "add table inet held")
    hook = "{ type filter hook output priority 0; }"
    network.run(host, "nft", f"add chain inet held output {hook}")
    network.run(host, "nft", f"add rule inet held output {packets} drop")
    yield
    network.run(host, "nft", "delete table inet held")


def hand_over(network: Network, devices: tuple[Device, Device], vip: str) -> None:
    """From the first device to the second one, of which client and gateways know at once."""
    a, b = devices
    a.call(a.lease.lame, [VIPS], LONG)
    b.call(b.lease.relay, VIPS, PREDECESSOR, LONG)
    b.take()
    mac = b.run("cat", "/sys/class/net/eth0/address").strip()
    for host in ("client", *NAMES):
        network.run(host, "ip", "neigh", "replace", vip, "lladdr", mac, "dev", "eth0")


def assert_answered(sock: socket.socket) -> None:
    sock.settimeout(PATIENCE_S)
    sock.sendall(b"?")
    assert sock.recv(1) == b"?"


@pytest.mark.parametrize("vip", [VIP, VIP6])
def test_a_client_that_agreed_last_stays_with_its_gateway(
    network: Network, devices: tuple[Device, Device], vip: str
) -> None:
    client = Inside(network, "client")
    with ExitStack() as stack:
        with held_back(network, "client", f"tcp dport {ECHO} tcp flags & syn == 0"):
            opened = [
                stack.enter_context(closing(client.call(connect, vip, ECHO, PATIENCE_S)))
                for _ in OTHER_ORDER
            ]
            hand_over(network, devices, vip)
        for at in OTHER_ORDER:
            assert_answered(opened[at])
    client.close()


@pytest.mark.parametrize("vip", [VIP, VIP6])
def test_a_gateway_that_agrees_afterwards_is_heard(
    network: Network, devices: tuple[Device, Device], vip: str
) -> None:
    a, _ = devices
    client = Inside(network, "client")
    with ExitStack() as stack:
        with ExitStack() as silence:
            for name in NAMES:
                silence.enter_context(held_back(network, name, f"tcp sport {ECHO}"))
            sock = stack.enter_context(closing(client.call(knock, vip, ECHO)))
            wait_until(lambda: bool(a.call(half_open, VIPS)), "the gateway was asked", PATIENCE_S)
            # A second SYN would open the connection anew.
            stack.enter_context(held_back(network, "client", "tcp flags & (syn | ack) == syn"))
            hand_over(network, devices, vip)
        wait_open(sock)
        assert_answered(sock)
    client.close()
