"""A device has interfaces that HALB does not serve on: what they learnt, and do, stays, and they
answer for no VIP."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from agent.addresses import link
from agent.gate import TABLE
from agent.ruleset import Desired
from halbctl.lab.namespaces import SWITCH
from protocol.objects import Listener
from tests.kernel.namespaces import (
    VIP,
    Device,
    Inside,
    desired,
    hosts,
    virtual_server,
    wait_until,
)

pytestmark = pytest.mark.kernel

ACCEPTS = "net.ipv6.conf.mgmt0.accept_ra"
ROUTER_LIFETIME_S = 1800
SECOND = "10.77.0.111"
"""Address of a second interface in the network of the VIPs."""
WANTED = desired(virtual_server([], [Listener(protocol="tcp", port=80, gateway_port=80)]))
_IPPROTO_ICMPV6, _ADVERTISEMENT, _HOPS = 58, 134, 255


def advertise(interface: str) -> None:
    """Be a router on the link of ``interface`` (RFC 4861, 4.2)."""
    words = struct.pack("!BBHBBHII", _ADVERTISEMENT, 0, 0, 64, 0, ROUTER_LIFETIME_S, 0, 0)
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, _IPPROTO_ICMPV6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOPS)
        sock.sendto(words, ("ff02::1", 0, 0, socket.if_nametoindex(interface)))


@dataclass
class Managed:
    """A host that learns its default route by another interface than the service interface."""

    host: Inside
    router: Inside

    def route(self) -> str:
        return self.host.run("ip", "-6", "route", "show", "default", "dev", "mgmt0")

    def linked(self) -> bool:
        return "LOWER_UP" in self.host.run("ip", "link", "show", "mgmt0")

    def learns(self) -> None:
        self.router.call(advertise, "port0")
        wait_until(lambda: "proto ra" in self.route(), "the route is learnt")


@pytest.fixture
def managed() -> Iterator[Managed]:
    with hosts("a", "router") as network:
        there = network.namespace("router")
        peer = ("peer", "name", "port0", "netns", there)
        network.run("a", "ip", "link", "add", "mgmt0", "type", "veth", *peer)
        network.run("a", "sysctl", "-qw", f"{ACCEPTS}=1")
        for host, interface, address in (("a", "mgmt0", "fe80::a"), ("router", "port0", "fe80::b")):
            network.run(host, "ip", "link", "set", interface, "up")
            network.run(host, "ip", "address", "add", f"{address}/64", "dev", interface, "nodad")
        made = Managed(Inside(network, "a"), Inside(network, "router"))
        wait_until(made.linked, "the link is up")
        made.learns()
        yield made
        made.host.close()
        made.router.close()


def test_a_device_keeps_the_default_route_that_another_interface_learnt(managed: Managed) -> None:
    device = Device(managed.host.network, "a")
    assert "proto ra" in managed.route()
    managed.host.run("ip", "-6", "route", "flush", "default", "dev", "mgmt0")
    managed.learns()
    device.call(device.plane.remove)
    assert managed.host.run("sysctl", "-n", ACCEPTS).strip() == "1"
    assert "proto ra" in managed.route()
    device.close()


def test_a_later_process_puts_back_what_it_hears(managed: Managed) -> None:
    Device(managed.host.network, "a").close()
    second = Device(managed.host.network, "a")
    second.call(second.plane.remove)
    assert managed.host.run("sysctl", "-n", ACCEPTS).strip() == "1"
    second.close()


def test_a_router_that_hears_none_hears_none_afterwards(managed: Managed) -> None:
    managed.host.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    device = Device(managed.host.network, "a")
    assert managed.host.run("sysctl", "-n", ACCEPTS).strip() == "1"
    device.close()


def test_interfaces_that_forwarded_alone_do_so_afterwards_and_redirects_stay_refused(
    managed: Managed,
) -> None:
    """The kernel makes all interfaces forward with the host, none without it, and redirects go
    the other way."""
    settings = {
        "net.ipv4.conf.mgmt0.forwarding": "1",
        "net.ipv6.conf.mgmt0.forwarding": "1",
        "net.ipv4.conf.eth0.forwarding": "0",
        "net.ipv4.conf.default.forwarding": "0",
        "net.ipv4.conf.all.accept_redirects": "0",
    }
    managed.host.run("sysctl", "-qw", *(f"{name}={value}" for name, value in settings.items()))

    def found() -> dict[str, str]:
        return dict(zip(settings, managed.host.run("sysctl", "-n", *settings).split(), strict=True))

    Device(managed.host.network, "a").close()
    second = Device(managed.host.network, "a")
    second.call(second.plane.remove)
    assert found() == settings
    second.close()


@pytest.fixture
def doubled() -> Iterator[tuple[Device, Inside]]:
    """A device with two interfaces in the network of its VIPs, as hosts have that use one of
    them for the link to their peers; and a client there."""
    with hosts("a", "client") as network:
        added = "link add second type veth peer name eth1 netns"
        plugged = "link set second up master br0"
        network.run(SWITCH, "ip", *added.split(), network.namespace("a"))
        network.run(SWITCH, "ip", *plugged.split())
        network.run("a", "ip", "link", "set", "eth1", "up")
        network.run("a", "ip", "address", "add", f"{SECOND}/24", "dev", "eth1")
        device, client = Device(network, "a"), Inside(network, "client")
        device.reconcile(WANTED)
        yield device, client
        device.close()
        client.close()


def test_no_interface_but_its_own_answers_for_a_vip(doubled: tuple[Device, Inside]) -> None:
    """A host answers ARP on each interface for all its addresses, whatever its lease says."""
    device, client = doubled
    own = device.call(link, "eth0").mac.hex(":")
    wait_until(lambda: client.owner_of(SECOND) is not None, "the second interface answers")
    assert client.owner_of(VIP) is None
    device.take()
    assert {client.owner_of(VIP) for _ in range(5)} == {own}
    device.drop()
    assert client.owner_of(VIP) is None


def test_what_keeps_other_interfaces_silent_is_mended(doubled: tuple[Device, Inside]) -> None:
    device, client = doubled
    device.run("nft", "delete", "table", "arp", TABLE)
    assert device.reconcile(WANTED).drift == (f"table arp {TABLE} was deleted",)
    assert client.owner_of(VIP) is None
    device.run("nft", "flush", "set", "arp", TABLE, "vips")
    assert device.reconcile(WANTED).drift == (f"table arp {TABLE}: its VIPs were altered",)
    assert client.owner_of(VIP) is None
    again = device.reconcile(WANTED)
    assert not again.changed
    assert not again.drift


def test_an_address_that_is_no_vip_any_more_is_answered_for_again(
    doubled: tuple[Device, Inside],
) -> None:
    device, client = doubled
    device.reconcile(Desired())
    device.run("ip", "address", "add", f"{VIP}/32", "dev", "lo")
    assert client.owner_of(VIP) is not None
    device.call(device.plane.remove)
    assert "halb" not in device.run("nft", "list", "tables")
