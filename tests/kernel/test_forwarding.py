"""Where flows go: by weight, by hash, past gateways that are away, fast back if none is left."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import pytest

from agent.hashing import assign_slots
from agent.ruleset import Desired
from halbctl.lab.servers import BANNER, ECHO
from protocol.objects import SLOTS, Gateway, Listener
from protocol.seats import seats
from tests.kernel.namespaces import (
    UID,
    VIP,
    VIP6,
    VIPS,
    Device,
    Inside,
    asked,
    connect,
    desired,
    hosts,
    virtual_server,
    wait_until,
)

pytestmark = pytest.mark.kernel

NAMES = ("gw1", "gw2", "gw3")
WEIGHTS = dict(zip(NAMES, (1, 1, 2), strict=True))
ADDRESSES = {4: "10.77.0.{}", 6: "fd77::{}"}
FLOWS = 200


def gateways(state: str = "enabled") -> list[Gateway]:
    """Each gateway by both of its addresses; ``state`` is that of gw3."""
    return [
        Gateway(
            name=f"{name}-{version}",
            address=pattern.format(number),
            weight=WEIGHTS[name],
            state="draining" if state == "draining" and name == "gw3" else "enabled",
        )
        for version, pattern in ADDRESSES.items()
        for number, name in enumerate(NAMES, start=13)
    ]


LISTENERS = [
    Listener(protocol="tcp", port=80, gateway_port=BANNER),
    Listener(protocol="tcp", port=ECHO, gateway_port=ECHO),
    Listener(protocol="udp", port=ECHO, gateway_port=ECHO),
    Listener(protocol="udp", port=53, gateway_port=ECHO, balance="source-hash"),
]
ALL = desired(virtual_server(gateways(), LISTENERS))
NONE = desired(virtual_server(gateways(), LISTENERS), down=[g.name for g in gateways()])


@dataclass
class Farm:
    device: Device
    client: Inside

    def reconcile(self, wanted: Desired) -> None:
        self.device.reconcile(wanted)

    def greeted_by(self, host: str) -> str:
        """Name of the gateway that a new TCP connection reaches."""

        def greet() -> str:
            with connect(host, 80) as sock:
                return sock.recv(100).decode().strip()

        return self.client.call(greet)

    def answered_by(self, host: str, port: int = ECHO) -> str:
        """Name of the gateway that a new UDP flow reaches."""
        return self.client.call(asked, host, port).decode().split()[0]

    def echo(self, sock: socket.socket, data: bytes) -> bool:
        sock.sendall(data)
        return sock.recv(100) == data


@pytest.fixture(scope="module")
def built() -> Iterator[Farm]:
    with hosts("a", "client", *NAMES, servers=NAMES) as network:
        device, client = Device(network, "a"), Inside(network, "client")
        device.reconcile(ALL)
        device.take()
        yield Farm(device, client)
        device.close()
        client.close()


@pytest.fixture
def farm(built: Farm) -> Farm:
    built.reconcile(ALL)
    return built


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_flows_are_spread_by_weight(farm: Farm, vip: str, protocol: str) -> None:
    reach = farm.greeted_by if protocol == "tcp" else farm.answered_by
    found = Counter(reach(vip) for _ in range(FLOWS))
    pattern = ADDRESSES[6 if vip == VIP6 else 4]
    addresses = {name: pattern.format(n) for n, name in enumerate(NAMES, start=13)}
    seat = {n: seats(gateways())[addresses[n]] for n in NAMES}
    slots = Counter(assign_slots({seat[n]: WEIGHTS[n] for n in NAMES}, seed=7))
    for name in NAMES:
        share = slots[seat[name]] / SLOTS
        deviation = sqrt(FLOWS * share * (1 - share))
        assert abs(found[name] - FLOWS * share) < 5 * deviation, (found, slots)


@pytest.mark.parametrize("vip", VIPS)
def test_source_hash_sends_a_client_to_one_gateway(farm: Farm, vip: str) -> None:
    assert len({farm.answered_by(vip, 53) for _ in range(20)}) == 1


def test_a_gateway_that_is_down_gets_no_new_flow(farm: Farm) -> None:
    vs = virtual_server(gateways(), LISTENERS)
    farm.reconcile(desired(vs, down=["gw3-4"]))
    assert {farm.greeted_by(VIP) for _ in range(40)} == {"gw1", "gw2"}
    assert "gw3" in {farm.greeted_by(VIP6) for _ in range(40)}


def test_a_draining_gateway_keeps_its_connections_and_gets_no_new(farm: Farm) -> None:
    socks = [farm.client.call(connect, VIP, ECHO) for _ in range(24)]
    assert all(farm.echo(sock, b"before") for sock in socks)
    before = farm.device.call(farm.device.plane.connections)[UID, "gw3-4"]
    assert before > 0
    farm.reconcile(desired(virtual_server(gateways("draining"), LISTENERS)))
    assert all(farm.echo(sock, b"after") for sock in socks)
    assert farm.device.call(farm.device.plane.connections)[UID, "gw3-4"] == before
    assert "gw3" not in {farm.greeted_by(VIP) for _ in range(40)}
    for sock in socks:
        sock.close()


def test_connections_are_counted_by_gateway_until_they_end(farm: Farm) -> None:
    def total() -> int:
        return sum(farm.device.call(farm.device.plane.connections).values())

    farm.device.run("conntrack", "-F")
    socks = [farm.client.call(connect, vip, ECHO) for vip in VIPS for _ in range(10)]
    assert total() == 20
    assert farm.answered_by(VIP)
    assert total() == 21
    for sock in socks:
        sock.close()
    wait_until(lambda: total() == 1, "closed connections are not counted")


@pytest.mark.parametrize("vip", VIPS)
def test_without_a_gateway_new_flows_are_refused_at_once(farm: Farm, vip: str) -> None:
    farm.reconcile(NONE)
    began = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        farm.client.call(connect, vip, 80)
    with pytest.raises(ConnectionRefusedError):
        farm.client.call(asked, vip, ECHO)
    assert time.monotonic() - began < 0.4


@pytest.mark.parametrize("vip", VIPS)
def test_a_moment_without_gateways_ends_no_connection(farm: Farm, vip: str) -> None:
    with farm.client.call(connect, vip, ECHO) as sock:
        assert farm.echo(sock, b"before")
        farm.reconcile(NONE)
        assert farm.echo(sock, b"during")
        # A new primary does not know the connection, and sees no gateway yet.
        farm.device.run("conntrack", "-F")
        sock.sendall(b"lost")
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            sock.recv(100)
        farm.reconcile(ALL)
        sock.settimeout(3)
        assert sock.recv(100) == b"lost"


@pytest.mark.parametrize("vip", VIPS)
def test_the_guard_keeps_the_local_stack_from_resetting_flows(farm: Farm, vip: str) -> None:
    """A packet for a flow that no rule takes must meet silence."""
    with farm.client.call(connect, vip, ECHO) as sock:
        assert farm.echo(sock, b"before")
        nothing = virtual_server(gateways(), LISTENERS[:1])
        farm.reconcile(desired(nothing))
        farm.device.run("conntrack", "-F")
        sock.sendall(b"unknown")
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            sock.recv(100)
        farm.reconcile(ALL)
        sock.settimeout(3)
        assert sock.recv(100) == b"unknown"


def test_a_gateway_sees_the_vip_as_client(farm: Farm) -> None:
    farm.device.run("conntrack", "-F")
    with farm.client.call(connect, VIP, ECHO) as sock:
        port = sock.getsockname()[1]
        listed = farm.device.run("conntrack", "-L", "-p", "tcp", "--reply-dst", VIP)
    assert f"dport={port}" in listed, "the port of the client is kept"
