"""A device, gateways and a client with ten addresses, for tests of how flows are shared."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from agent.distribution import AT_REST as REST
from agent.distribution import Moment
from agent.ruleset import Desired
from halbctl.lab.servers import BANNER, ECHO
from protocol.objects import Gateway, Listener
from tests.kernel.namespaces import (
    UID,
    VIP,
    VIP6,
    VIPS,
    Device,
    Inside,
    hosts,
    virtual_server,
)

NAMES = ("gw1", "gw2", "gw3")
ADDRESSES = {4: "10.77.0.{}", 6: "fd77::{}"}
GREET = Listener(protocol="tcp", port=80, gateway_port=BANNER)
HOLD = Listener(protocol="tcp", port=ECHO, gateway_port=ECHO)
UDP = Listener(protocol="udp", port=ECHO, gateway_port=ECHO)
LISTENERS = (GREET, HOLD, UDP)
SOURCES = {VIP: "10.77.0.2{:02}", VIP6: "fd77::2{:02}"}
"""Addresses of clients, 0 to 9, by the VIP that they speak to."""


def farm_gateways(*weights: int, most: int = 0) -> list[Gateway]:
    """Each gateway by both of its addresses, named ``gw1-4`` and ``gw1-6``."""
    return [
        Gateway(
            name=f"{name}-{version}",
            address=pattern.format(number),
            weight=weight,
            max_connections=most,
        )
        for version, pattern in ADDRESSES.items()
        for number, (name, weight) in enumerate(
            zip(NAMES, weights or (1, 1, 1), strict=True), start=13
        )
    ]


def version(vip: str) -> int:
    return 6 if ":" in vip else 4


@dataclass
class Farm:
    device: Device
    client: Inside
    stack: ExitStack

    def serve(
        self,
        gateways: Sequence[Gateway],
        listeners: Sequence[Listener] = LISTENERS,
        down: Sequence[str] = (),
        moment: Moment = REST,
    ) -> Desired:
        """Make the device carry this, and nothing that it remembers from before."""
        vs = virtual_server(gateways, listeners)
        gone = frozenset((UID, name) for name in down)
        done = self.device.reconcile(Desired((vs,), {UID: VIPS}, gone, moment))
        assert not done.drift
        self.device.take()
        return done.in_force

    def greeted(self, vip: str, client: int = 0, port: int = 0, listener: Listener = GREET) -> str:
        """Name of the gateway that answers a new TCP connection of a client."""
        return self.client.call(greeted_at, source_of(vip, client, port), vip, listener.port)

    def hold(self, vip: str, client: int = 0, timeout: float = 0.5) -> socket.socket:
        """A TCP connection that stays open until the test ends."""
        sock = self.client.call(connect_from, source_of(vip, client, 0), vip, ECHO, timeout)
        self.stack.callback(sock.close)
        return sock

    def held(self, vip: str) -> Counter[str]:
        """Open connections by gateway, as the kernel counts them."""
        counts = self.device.call(self.device.plane.connections)
        family = f"-{version(vip)}"
        return Counter(
            {name.removesuffix(family): n for (_, name), n in counts.items() if family in name}
        )


def source_of(vip: str, client: int, port: int) -> tuple[str, int]:
    return SOURCES[vip].format(client), port


def connect_from(
    source: tuple[str, int], vip: str, port: int, timeout: float = 0.5
) -> socket.socket:
    return socket.create_connection((vip, port), timeout, source_address=source)


def greeted_at(source: tuple[str, int], vip: str, port: int) -> str:
    with connect_from(source, vip, port, 3) as sock:
        return sock.recv(100).decode().strip()


@contextmanager
def farmland() -> Iterator[tuple[Device, Inside]]:
    """The device and the client of a farm."""
    with hosts("a", "client", *NAMES, servers=NAMES) as network:
        device, client = Device(network, "a"), Inside(network, "client")
        for vip, pattern in SOURCES.items():
            length = 128 if version(vip) == 6 else 32
            nodad = ["nodad"] if version(vip) == 6 else []
            for number in range(10):
                address = f"{pattern.format(number)}/{length}"
                client.run("ip", "address", "add", address, "dev", "eth0", *nodad)
        yield device, client
        device.close()
        client.close()


@contextmanager
def fallow(device: Device, client: Inside) -> Iterator[Farm]:
    """A farm that remembers nothing of the test before."""
    device.reconcile(Desired())
    device.run("conntrack", "-F")
    with ExitStack() as stack:
        yield Farm(device, client, stack)
