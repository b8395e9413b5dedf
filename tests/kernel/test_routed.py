"""``routed`` as gateways see it: what they send themselves, and datagrams as they were sent."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from agent.ruleset import Desired
from halbctl.lab.servers import ECHO
from protocol.objects import Gateway, Listener, VirtualServer
from protocol.ports import HIGHEST
from tests.kernel.gateways import INNER, prepare
from tests.kernel.namespaces import UID, VIP, VIPS, Device, Inside, asked, hosts

pytestmark = pytest.mark.kernel

CLIENT = {4: "10.77.0.12", 6: "fd77::12"}
NAMES = ("gw1", "gw2")
GATEWAYS = tuple(
    Gateway(name=f"{name}-{version}", address=pattern.format(number))
    for version, pattern in ((4, "10.77.0.{}"), (6, "fd77::{}"))
    for number, name in enumerate(NAMES, start=13)
)
FROM = 41000
SO_NO_CHECK = 11


@dataclass
class Farm:
    device: Device
    client: Inside
    gateways: tuple[Inside, ...]

    def serve(
        self,
        *listeners: Listener,
        more: tuple[str, ...] = (),
        gateways: tuple[Gateway, ...] = GATEWAYS,
    ) -> VirtualServer:
        """Serve the VIPs, and ``more`` of them, and remember nothing of the test before."""
        server = VirtualServer(
            uid=UID,
            name="web",
            vips=tuple(f"{vip}/{64 if ':' in vip else 24}" for vip in (*VIPS, *more)),
            inner_vips=(f"{INNER[4]}/24", f"{INNER[6]}/64"),
            forwarding="routed",
            gateways=gateways,
            listeners=listeners,
            seed=7,
        )
        leased = (*VIPS, *more, *INNER.values())
        self.device.reconcile(Desired((server,), {UID: leased}))
        self.device.run("conntrack", "-F")
        self.device.take(leased)
        return server


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    with hosts("a", "client", *NAMES, servers=["client"]) as network:
        gateways = tuple(Inside(network, name) for name in NAMES)
        found = Farm(Device(network, "a"), Inside(network, "client"), gateways)
        for name in NAMES:
            prepare(network, name, "routed", CLIENT)
        yield found
        for each in (found.device, found.client, *gateways):
            each.close()


def spoken(host: str) -> bytes:
    """What a server answers to a connection that comes from a port of our choice."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.settimeout(2)
        sock.bind(("", FROM))
        sock.connect((host, ECHO))
        sock.send(b"?")
        return sock.recv(1)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("more", [(), ("10.77.0.110", "fd77::110")], ids=["a VIP", "two VIPs"])
@pytest.mark.parametrize(("first", "last"), [(40000, 50000), (1, HIGHEST - 1), (1, HIGHEST)])
def test_a_gateway_speaks_for_itself_from_a_port_of_a_range(
    farm: Farm, first: int, last: int, more: tuple[str, ...], version: int
) -> None:
    farm.serve(
        Listener(protocol="tcp", port=first, last_port=last, gateway_port=first),
        Listener(protocol="udp", port=first, last_port=last, gateway_port=first),
        more=more,
    )
    # An answer that the device took for a question would reach one of them.
    for gateway in farm.gateways:
        assert gateway.call(spoken, CLIENT[version]) == b"?"
        assert gateway.call(asked, CLIENT[version], ECHO, 2.0, FROM).startswith(b"client")


@pytest.mark.parametrize("checked", [True, False], ids=["with checksum", "without"])
def test_datagrams_reach_another_port_and_their_answers_come_back(
    farm: Farm, checked: bool
) -> None:
    farm.serve(Listener(protocol="udp", port=53, gateway_port=5353), gateways=GATEWAYS[::2])
    gateway = farm.gateways[0]

    def opened() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, not checked)
        sock.settimeout(2)
        return sock

    with closing(gateway.call(opened)) as server, closing(farm.client.call(opened)) as client:
        server.bind(("", 5353))
        client.connect((VIP, 53))
        client.send(b"question")
        question, source = server.recvfrom(100)
        server.sendto(b"answer", source)
        assert (question, client.recv(100)) == (b"question", b"answer")
