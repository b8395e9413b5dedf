"""A link between gateways and client takes less than both of their networks do.

A router says so to whoever sent what is too large, which is the VIP. The gateway has to hear of
it, or nothing large ever reaches the client.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Literal

import pytest
from msgspec.structs import replace

from agent.ruleset import Desired
from halbctl.lab.namespaces import Network
from halbctl.lab.servers import ECHO
from protocol.objects import Listener
from tests.kernel.gateways import INNER, prepare
from tests.kernel.modes import GATEWAYS, serves
from tests.kernel.namespaces import UID, VIPS, Device, Inside, connect, hosts

pytestmark = pytest.mark.kernel

NAMES = ("gw1", "gw2")
MTU = 1280
CLIENT = {4: "10.78.0.2", 6: "fd78::2"}
ROUTER = {4: "10.77.0.12", 6: "fd77::12"}
BEYOND = {4: "10.78.0.1", 6: "fd78::1"}
"""The router's addresses on the narrow link."""
LARGE = 100_000
WAYS = [("routed", ECHO), ("routed", 80), ("known", ECHO), ("known", 80), ("dsr", ECHO)]
"""Mode and port, which gateways may have by another number, but not with `dsr`."""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with hosts("a", "router", "far", *NAMES, servers=NAMES) as network:
        far = network.namespace("far")
        network.run("far", "ip", "link", "set", "eth0", "down")
        add = "link add narrow type veth peer name near netns"
        network.run("router", "ip", *add.split(), far)
        for host, link, addresses in (("router", "narrow", BEYOND), ("far", "near", CLIENT)):
            network.run(host, "ip", "link", "set", link, "up", "mtu", str(MTU))
            for version, length, more in ((4, 24, ()), (6, 64, ("nodad",))):
                address = f"{addresses[version]}/{length}"
                network.run(host, "ip", "address", "add", address, "dev", link, *more)
        forwarding = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        network.run("router", "sysctl", "-qw", *forwarding)
        for version in (4, 6):
            route = ("ip", f"-{version}", "route", "add", "default", "via")
            # The client asks for segments that only its own network would take.
            network.run("far", *route, BEYOND[version], "advmss", "1440")
            network.run("a", *route, ROUTER[version])
        yield network


@pytest.fixture(scope="module")
def device(network: Network) -> Iterator[Device]:
    device = Device(network, "a")
    yield device
    device.close()


@pytest.fixture(scope="module")
def client(network: Network) -> Iterator[Inside]:
    client = Inside(network, "far")
    yield client
    client.close()


def use(device: Device, mode: str, gateways: tuple[str, ...], port: int) -> None:
    """Serve on a port in this mode, with nothing known of the path."""
    limit = 1000 if mode == "known" else 0
    protocols: tuple[Literal["tcp", "udp"], ...] = ("tcp", "udp")
    listeners = tuple(
        Listener(protocol=each, port=port, gateway_port=ECHO, client_connections=limit)
        for each in protocols
    )
    some = tuple(g for g in GATEWAYS if g.name.startswith(gateways))
    server = replace(serves(mode), listeners=listeners, gateways=some)
    leased = (*VIPS, *(INNER.values() if server.inner_vips else ()))
    device.drop((*VIPS, *INNER.values()))
    device.reconcile(Desired((server,), {UID: leased}))
    device.run("conntrack", "-F")
    for gateway in NAMES:
        prepare(device.network, gateway, mode, CLIENT)
        for version in (4, 6):
            ip, to = ("ip", f"-{version}"), CLIENT[version]
            if mode == "dsr":
                device.network.run(gateway, *ip, "route", "replace", to, "via", ROUTER[version])
            device.network.run(gateway, *ip, "route", "flush", "cache")
    device.take(leased)


def given_back(vip: str, port: int) -> int:
    """How much of what a client says comes back, from the servers that echo it."""
    found = 0
    with closing(connect(vip, port, 2.0)) as sock, suppress(TimeoutError):
        sock.settimeout(3.0)
        sock.sendall(bytes(LARGE))
        while found < LARGE and (some := sock.recv(65536)):
            found += len(some)
    return found


def answers(vip: str, port: int) -> int:
    """The same for a datagram, which may be lost until the gateway knows."""
    family, large = _datagram(vip)
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.3)
        sock.connect((vip, port))
        for _ in range(10):
            sock.send(bytes(large))
            with suppress(TimeoutError):
                return len(sock.recv(65536)) - len("gw1 ")
    return 0


def _datagram(vip: str) -> tuple[socket.AddressFamily, int]:
    """Its family, and as much as the path takes without the name that gateways put before it."""
    if ":" in vip:
        return socket.AF_INET6, MTU - 48
    return socket.AF_INET, MTU - 28


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("gateways", [NAMES, NAMES[:1]], ids=["two gateways", "one gateway"])
@pytest.mark.parametrize(("mode", "port"), WAYS)
def test_what_is_too_large_for_a_link_arrives(
    device: Device, client: Inside, mode: str, gateways: tuple[str, ...], port: int, vip: str
) -> None:
    use(device, mode, gateways, port)
    for _ in range(4):
        assert client.call(given_back, vip, port) == LARGE
    use(device, mode, gateways, port)
    for _ in range(4):
        assert client.call(answers, vip, port) == _datagram(vip)[1]
