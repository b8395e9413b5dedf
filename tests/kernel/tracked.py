"""A device whose connection table is watched, and connections of a client through it."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address

from agent.dataplane import Desired
from agent.flowtable import FlowTable
from halbctl.lab.namespaces import Network
from halbctl.lab.servers import ECHO, PUSH
from protocol.flows import Flow
from protocol.objects import Gateway, Listener
from tests.kernel.namespaces import VIP, VIPS, Device, Inside, desired, hosts, virtual_server

NAMES = ("gw1", "gw2", "gw3")
FIRST_GATEWAY = 14
BY_TURNS = 7101
"""Port whose flows no hash tells of."""
ANYWHERE = [("10.77.0.13", 0)]
"""The client's own address, any port."""
CLIENTS, PORTS = 20, range(40000, 40010)
PACKED = frozenset(ip_address(vip).packed for vip in VIPS)
LISTENERS = [
    Listener(protocol="tcp", port=ECHO, gateway_port=ECHO),
    Listener(protocol="udp", port=ECHO, gateway_port=ECHO),
    Listener(protocol="tcp", port=PUSH, gateway_port=PUSH),
    Listener(protocol="tcp", port=BY_TURNS, gateway_port=ECHO, balance="round-robin"),
]
PATIENCE_S = 5.0


def gateways(*names: str) -> Desired:
    """The Virtual Server with these gateways, of both IP versions."""
    numbers = {name: number for number, name in enumerate(NAMES, start=FIRST_GATEWAY)}
    some = [
        Gateway(name=f"{name}-{version}", address=pattern.format(numbers[name]))
        for version, pattern in ((4, "10.77.0.{}"), (6, "fd77::{}"))
        for name in names
    ]
    return desired(virtual_server(some, LISTENERS))


@contextmanager
def farm() -> Iterator[Network]:
    """Devices ``a`` and ``b``, a client with many addresses, and gateways."""
    with hosts("a", "b", "client", *NAMES, servers=NAMES) as built:
        for number in range(CLIENTS):
            built.run(
                "client", "ip", "address", "add", f"10.77.0.{100 + number + 1}/24", "dev", "eth0"
            )
        yield built


class Tracked(Device):
    """A device whose connection table is watched."""

    def __init__(self, network: Network, host: str) -> None:
        super().__init__(network, host)
        self.table = self.call(FlowTable)

    def flows(self) -> set[Flow]:
        return set(self.call(lambda: list(self.table.all(PACKED))))

    def close(self) -> None:
        self.call(self.table.close)
        super().close()


@contextmanager
def paired(network: Network) -> Iterator[tuple[Tracked, Tracked]]:
    """Device ``a``, which has the VIPs, and ``b``, which is told of its flows."""
    a, b = Tracked(network, "a"), Tracked(network, "b")
    for device in (a, b):
        device.reconcile(gateways("gw1", "gw2"))
        device.call(device.table.share, True)
        device.call(device.table.listen, True)
    a.take()
    yield a, b
    for device in (a, b):
        device.drop()
        network.plug(device.host)
        device.run("conntrack", "-F")
        device.close()


@contextmanager
def connected(
    network: Network, sources: Sequence[tuple[str, int]], port: int = ECHO
) -> Iterator[list[socket.socket]]:
    """One echo connection of the client to the VIP from each source address and port."""
    client = Inside(network, "client")
    with ExitStack() as stack:
        stack.callback(client.close)
        connections = []
        for source in sources:
            sock = stack.enter_context(client.call(socket.socket))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.settimeout(PATIENCE_S)
            sock.bind(source)
            sock.connect((VIP, port))
            connections.append(sock)
        yield connections


def alive(connections: Sequence[socket.socket]) -> int:
    """How many still give back what they are told."""
    for sock in connections:
        sock.send(b"?")
    count = 0
    for sock in connections:
        with suppress(OSError):
            count += sock.recv(1) == b"?"
    return count
