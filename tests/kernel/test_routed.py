"""``routed`` as gateways see it: who speaks, from where, and what becomes of datagrams."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial

import pytest
from msgspec.structs import replace

from agent.conntrack import count_flows
from agent.leftovers import Leftovers
from agent.ruleset import Desired
from halbctl.lab.servers import ECHO, PUSH
from protocol.ids import GroupId
from protocol.objects import Gateway, Listener, VirtualServer
from protocol.ports import HIGHEST
from tests.kernel.gateways import INNER, by_both, prepare
from tests.kernel.namespaces import (
    UID,
    VIP,
    VIPS,
    Device,
    Inside,
    asked,
    connect,
    hosts,
    wait_until,
)

pytestmark = pytest.mark.kernel

CLIENT = {4: "10.77.0.12", 6: "fd77::12"}
NAMES = ("gw1", "gw2")
GATEWAYS = tuple(by_both(NAMES, 13))
OTHERS = ("10.77.0.110", "fd77::110")
"""Further VIPs."""
SILENT = ("arp_ignore=1", "arp_announce=2")
"""What a gateway of `dsr` needs, so that it does not say that it has the VIP."""
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
    ) -> Desired:
        """Serve the VIPs, and ``more`` of them."""
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
        done = self.device.reconcile(Desired((server,), {UID: leased}))
        self.device.take(leased)
        return done.in_force


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    with hosts("a", "client", *NAMES, servers=["client", *NAMES]) as network:
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
@pytest.mark.parametrize("more", [(), OTHERS], ids=["a VIP", "two VIPs"])
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


def next_message(sock: socket.socket) -> bytes:
    """What a gateway says that was not on its way yet."""
    sock.setblocking(False)
    with suppress(BlockingIOError):
        while sock.recv(65536):
            pass
    sock.settimeout(2)
    return sock.recv(100)


@pytest.mark.parametrize("vip", VIPS)
def test_a_gateway_goes_on_speaking_when_another_vip_comes(farm: Farm, vip: str) -> None:
    push = Listener(protocol="tcp", port=PUSH, gateway_port=PUSH)
    other = OTHERS[":" in vip]
    farm.serve(push)
    with ExitStack() as stack:

        def opened(to: str) -> socket.socket:
            return stack.enter_context(farm.client.call(connect, to, PUSH, 2.0))

        before = [opened(vip) for _ in range(4)]
        assert all(map(next_message, before))
        farm.serve(push, more=(other,))
        since = [opened(to) for to in (vip, other) for _ in range(4)]
        assert all(map(next_message, (*before, *since)))
        farm.serve(push)
        assert all(map(next_message, (*before, *since[:4])))


@pytest.mark.parametrize("vip", VIPS)
def test_a_client_whom_gateways_see_no_more_is_reset_at_once(farm: Farm, vip: str) -> None:
    echo = Listener(protocol="tcp", port=ECHO, gateway_port=ECHO, client_connections=1000)
    before = farm.serve(echo)
    farm.device.run("conntrack", "-F")

    async def looked(now: Desired) -> None:
        leftovers = Leftovers()
        for each in (before, now):
            leftovers.on_pass(each)
        gone = partial(wait_until, lambda: sum(count_flows(VIPS).values()) == 1, "one is gone")
        await asyncio.to_thread(gone)
        await leftovers.close()

    with (
        closing(farm.client.call(connect, vip, ECHO, 2.0)) as sock,
        closing(farm.device.call(connect, vip, ECHO, 2.0)) as own,
    ):
        for each in (sock, own):
            each.send(b"?")
            assert each.recv(1) == b"?"
        (server,) = before.virtual_servers
        snat = replace(server, forwarding="snat", inner_vips=())
        now = farm.device.reconcile(Desired((snat,), {UID: VIPS})).in_force
        farm.device.call(asyncio.run, looked(now))
        sock.send(b"?")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        own.send(b"?")
        assert own.recv(1) == b"?"


def test_a_gateway_of_dsr_too_answers_by_another_route(farm: Farm) -> None:
    echo, other = Listener(protocol="tcp", port=ECHO, gateway_port=ECHO), GroupId("b" * 16)
    vip = OTHERS[0]
    (routed,) = farm.serve(echo).virtual_servers
    direct = replace(routed, uid=other, name="direct", forwarding="dsr", inner_vips=())
    served = Desired((routed, direct), {UID: routed.leased, other: (vip,)})
    farm.device.reconcile(served)
    farm.device.take((vip,))
    for gateway in farm.gateways:
        gateway.run("sysctl", "-qw", *(f"net.ipv4.conf.all.{each}" for each in SILENT))
        gateway.run("ip", "address", "add", f"{vip}/32", "dev", "lo")
    with pytest.raises(TimeoutError):
        farm.client.call(connect, vip, ECHO, 0.5)
    for gateway in farm.gateways:
        gateway.run("ip", "route", "add", CLIENT[4], "dev", "eth0", "table", "100")
        gateway.run("ip", "rule", "add", "from", vip, "lookup", "100")
    for each in (vip, VIP):
        with closing(farm.client.call(connect, each, ECHO, 2.0)) as sock:
            sock.send(b"?")
            assert sock.recv(1) == b"?"
    for gateway in farm.gateways:
        gateway.run("ip", "rule", "delete", "from", vip)
        gateway.run("ip", "address", "delete", f"{vip}/32", "dev", "lo")
