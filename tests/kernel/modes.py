"""Two devices, a client and two gateways of both IP versions, for each mode of forwarding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from msgspec.structs import replace as replaced

from agent.ruleset import Desired
from halbctl.lab.namespaces import Network
from halbctl.lab.servers import BANNER, ECHO, PUSH
from protocol.objects import Listener, VirtualServer
from tests.kernel.gateways import INNER, by_both, prepare
from tests.kernel.namespaces import UID, VIPS, Device, Inside, asked, hosts, virtual_server

CLIENT = {4: "10.77.0.13", 6: "fd77::13"}
"""Its addresses: it is the third host."""
NAMES = ("gw1", "gw2")
GATEWAYS = by_both(NAMES, 14)
LISTENERS = [
    Listener(protocol="tcp", port=ECHO, gateway_port=ECHO),
    Listener(protocol="tcp", port=PUSH, gateway_port=PUSH),
    Listener(protocol="udp", port=ECHO, gateway_port=ECHO),
]
SHIFTED = Listener(protocol="tcp", port=80, gateway_port=BANNER)
KNOWN = [replaced(each, client_connections=100_000) for each in LISTENERS]
"""Listeners with a limit, for which the kernel has to remember each flow."""


def serves(mode: str) -> VirtualServer:
    """The Virtual Server of a mode; ``known`` is `routed` with memory."""
    if mode == "snat":
        return virtual_server(GATEWAYS, LISTENERS)
    if mode == "dsr":
        return replaced(virtual_server(GATEWAYS, LISTENERS), forwarding="dsr")
    listeners = [*(KNOWN if mode == "known" else LISTENERS), SHIFTED]
    inner = (f"{INNER[4]}/24", f"{INNER[6]}/64")
    return replaced(virtual_server(GATEWAYS, listeners), forwarding="routed", inner_vips=inner)


MODES = ("routed", "known", "dsr")
"""Those in which gateways see the client."""


@dataclass
class Farm:
    network: Network
    a: Device
    b: Device
    client: Inside
    leased: tuple[str, ...] = ()

    def use(self, mode: str, *listeners: Listener, vips: Sequence[str] = VIPS) -> None:
        """Serve in this mode, with ``a`` as the primary; with these listeners if given."""
        written = tuple(f"{vip}/{64 if ':' in vip else 24}" for vip in vips)
        server = replaced(serves(mode), vips=written)
        if listeners:
            server = replaced(server, listeners=listeners)
        self.leased = (*vips, *(INNER.values() if server.inner_vips else ()))
        for device in (self.a, self.b):
            device.drop(self.leased)
            device.reconcile(Desired((server,), {UID: self.leased}))
            device.run("conntrack", "-F")
        for gateway in NAMES:
            prepare(self.network, gateway, mode, CLIENT, vips)
        self.a.take(self.leased)

    def answered_by(self, vip: str) -> str:
        return self.client.call(asked, vip, ECHO, 1.0).decode().split()[0]


@contextmanager
def built_farm() -> Iterator[Farm]:
    with hosts("a", "b", "client", *NAMES, servers=NAMES) as network:
        a, b, client = Device(network, "a"), Device(network, "b"), Inside(network, "client")
        yield Farm(network, a, b, client)
        for each in (a, b, client):
            each.close()
