"""Flows that nobody answers, as the kernel lists them, and flows that are ended."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from agent.conntrack import Route, count_flows, end_flows, end_flows_to, end_unanswered
from agent.passive import half_open
from halbctl.lab.servers import ECHO
from protocol.objects import Gateway, Listener
from protocol.ports import HIGHEST
from tests.kernel.namespaces import (
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
from tests.kernel.swallowing import knock
from tests.kernel.test_coexistence import ZONE

pytestmark = pytest.mark.kernel

LISTENERS = [Listener(protocol="tcp", port=ECHO, gateway_port=ECHO)]
SERVES = {4: "10.77.0.13", 6: "fd77::13"}
IS_GONE = {4: "10.77.0.99", 6: "fd77::99"}


def gateways(addresses: dict[int, str]) -> list[Gateway]:
    return [Gateway(name=f"gw-{v}", address=address) for v, address in addresses.items()]


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Device, Inside]]:
    with hosts("a", "client", "gw", servers=("gw",)) as network:
        device, client = Device(network, "a"), Inside(network, "client")
        yield device, client
        device.close()
        client.close()


@contextmanager
def answered(place: tuple[Device, Inside], vip: str) -> Iterator[socket.socket]:
    """A connection through a gateway that serves."""
    device, client = place
    device.reconcile(desired(virtual_server(gateways(SERVES), LISTENERS)))
    device.take()
    with closing(client.call(connect, vip, ECHO, 5.0)) as sock:
        yield sock


@pytest.mark.parametrize(("version", "vip"), [(4, VIP), (6, VIP6)])
def test_a_connection_that_is_not_answered_is_half_open_and_one_that_is_is_not(
    place: tuple[Device, Inside], version: int, vip: str
) -> None:
    device, client = place
    with answered(place, vip):
        assert device.call(half_open, VIPS) == ()
    device.reconcile(desired(virtual_server(gateways(IS_GONE), LISTENERS)))
    with closing(client.call(knock, vip, ECHO)):
        wait_until(lambda: bool(device.call(half_open, VIPS)), "the flow is listed")
        (found,) = device.call(half_open, VIPS)
        assert (found.vip, found.port, found.gateway) == (vip, ECHO, IS_GONE[version])
        other = "10.77.0.101" if version == 4 else "fd77::101"
        assert device.call(half_open, [other]) == ()
    device.call(end_flows, VIPS, IS_GONE.values())
    assert device.call(half_open, VIPS) == ()


@pytest.mark.parametrize(("version", "vip"), [(4, VIP), (6, VIP6)])
def test_flows_to_a_gateway_are_ended_and_no_others(
    place: tuple[Device, Inside], version: int, vip: str
) -> None:
    device, _ = place
    flow = (vip, "tcp", ECHO, SERVES[version])
    with answered(place, vip) as sock:
        sock.sendall(b"?")
        assert sock.recv(1) == b"?"
        before = device.call(count_flows, VIPS).get(flow, 0)
        assert before
        assert device.call(end_flows, VIPS, [IS_GONE[version]]) == 0
        assert device.call(end_flows, [IS_GONE[version]], [SERVES[version]]) == 0
        assert device.call(end_flows, VIPS, [SERVES[version]]) >= before
        assert flow not in device.call(count_flows, VIPS)


@pytest.mark.parametrize(("version", "vip"), [(4, VIP), (6, VIP6)])
def test_flows_that_were_closed_are_taken_out_and_not_counted_as_ended(
    place: tuple[Device, Inside], version: int, vip: str
) -> None:
    device, _ = place
    device.call(end_flows_to, VIPS)
    flow = (vip, "tcp", ECHO, SERVES[version])
    with answered(place, vip):
        pass
    wait_until(lambda: flow not in device.call(count_flows, VIPS), "both ends closed it")

    def known() -> bool:
        return "dport" in device.run("conntrack", "-L", "-f", f"ipv{version}", "-d", vip)

    assert known(), "the kernel remembers it for a while"
    assert device.call(end_flows, VIPS, [SERVES[version]]) == 0
    assert not known()


@pytest.mark.parametrize(("version", "vip"), [(4, VIP), (6, VIP6)])
def test_flows_that_a_gateway_has_not_answered_are_taken_out_and_no_others(
    place: tuple[Device, Inside], version: int, vip: str
) -> None:
    device, client = place
    with ExitStack() as stack:
        stack.enter_context(answered(place, vip))
        device.reconcile(desired(virtual_server(gateways(IS_GONE), LISTENERS)))
        for _ in range(5):
            stack.enter_context(closing(client.call(knock, vip, ECHO)))
        wait_until(lambda: len(device.call(half_open, VIPS)) == 5, "they are listed")
        here, there = ((vip, "tcp", ports) for ports in ((1, ECHO), (ECHO + 1, HIGHEST)))
        others = [
            Route((IS_GONE[version], "tcp", (1, HIGHEST)), IS_GONE[version], (1, HIGHEST)),
            Route((vip, "udp", (1, HIGHEST)), IS_GONE[version], (1, HIGHEST)),
            Route(there, IS_GONE[version], (1, HIGHEST)),
            Route(here, IS_GONE[version], (1, ECHO - 1)),
            Route(here, SERVES[version], (1, HIGHEST)),
        ]
        assert device.call(end_unanswered, others) == 0
        last = Route(here, IS_GONE[version], (ECHO, ECHO))
        assert device.call(end_unanswered, [*others, last]) == 5
        assert device.call(count_flows, VIPS).get((vip, "tcp", ECHO, SERVES[version]))


@pytest.fixture
def zoned(place: tuple[Device, Inside]) -> Iterator[tuple[Device, Inside]]:
    """Rules of somebody else put what comes in into a zone of the connection table."""
    network = place[0].network
    network.run("a", "nft", "-f", "-", text=ZONE)
    yield place
    network.run("a", "nft", "delete", "table", "inet", "zones")


@pytest.mark.parametrize(("version", "vip"), [(4, VIP), (6, VIP6)])
def test_flows_in_a_zone_are_taken_out_as_others_are(
    zoned: tuple[Device, Inside], version: int, vip: str
) -> None:
    device, client = zoned
    device.call(end_flows_to, VIPS)

    def known() -> int:
        return sum(device.call(count_flows, VIPS).values())

    with answered(zoned, vip):
        assert known() == 1
        assert "zone=5" in device.run("conntrack", "-L", "-f", f"ipv{version}", "-d", vip)
        assert device.call(end_flows, VIPS, [SERVES[version]]) == 1
        assert not known()
    with answered(zoned, vip):
        assert device.call(end_flows_to, VIPS) >= 1
        assert not known()
    device.reconcile(desired(virtual_server(gateways(IS_GONE), LISTENERS)))
    with closing(client.call(knock, vip, ECHO)):
        wait_until(lambda: bool(device.call(half_open, VIPS)), "it is listed")
        route = Route((vip, "tcp", (ECHO, ECHO)), IS_GONE[version], (ECHO, ECHO))
        assert device.call(end_unanswered, [route]) == 1
        assert device.call(half_open, VIPS) == ()
