"""A VIP that keeps its hardware address, whoever is primary: what others see of it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import get_args

import pytest
from msgspec.structs import replace as replaced

from agent import macs, neighbour, virtual_mac
from agent.ruleset import Desired
from agent.tap import RETURN, WHOLE, tap
from halbctl.lab.namespaces import SWITCH, Network
from halbctl.lab.servers import ECHO
from protocol.objects import Forwarding, Gateway, Listener
from protocol.timing import MILLISECOND, SECOND
from tests.kernel.gateways import INNER, prepare
from tests.kernel.namespaces import (
    UID,
    VIP,
    VIP6,
    VIPS,
    Device,
    Inside,
    asked,
    connect,
    hosts,
    virtual_server,
    wait_until,
)

pytestmark = pytest.mark.kernel

MAC = "ba:1b:00:00:00:aa"
OTHER = "02:00:5e:10:00:01"
MAC_A, MAC_CLIENT = "02:48:41:4c:42:0b", "02:48:41:4c:42:0d"
CLIENT = {4: "10.77.0.13", 6: "fd77::13"}
"""Its addresses: it is the third host."""
GATEWAY = {4: "10.77.0.14", 6: "fd77::14"}
LISTENERS = [Listener(protocol=p, port=ECHO, gateway_port=ECHO) for p in ("tcp", "udp")]
ASKED = 50
MODES: tuple[Forwarding, ...] = get_args(Forwarding)


@dataclass
class Place:
    """Devices ``a`` and ``b``, a client, and a gateway that answers with what it is sent."""

    network: Network
    a: Device
    b: Device
    client: Inside
    leased: tuple[str, ...] = VIPS

    def wish(self, mode: Forwarding = "snat", mac: str = MAC) -> Desired:
        gateways = [Gateway(name=f"gw-{v}", address=address) for v, address in GATEWAY.items()]
        server = replaced(virtual_server(gateways, LISTENERS), forwarding=mode, virtual_mac=mac)
        if mode == "routed":
            inner = (f"{INNER[4]}/24", f"{INNER[6]}/64")
            server = replaced(server, inner_vips=inner)
        self.leased = (*VIPS, *(INNER.values() if mode == "routed" else ()))
        return Desired((server,), {UID: self.leased})

    def serve(self, mode: Forwarding = "snat", mac: str = MAC) -> None:
        """Both devices carry it, and nobody is primary or remembers anything."""
        wish = self.wish(mode, mac)
        for device in (self.a, self.b):
            device.drop((*VIPS, *INNER.values()))
            device.reconcile(Desired())
            device.reconcile(wish)
            device.run("conntrack", "-F")
            device.run("ip", "neighbour", "flush", "dev", "eth0")
        prepare(self.network, "gw1", mode, CLIENT)
        for host in ("client", "gw1"):
            self.network.run(host, "ip", "neighbour", "flush", "dev", "eth0", "nud", "all")

    def move(self) -> None:
        """From ``a`` to ``b``, after a failure."""
        self.a.drop(self.leased)
        self.b.take(self.leased)

    def know_by_heart(self, host: str, mac: str = MAC) -> None:
        """A host takes no announcement, as a router that ignores them."""
        for vip in VIPS:
            entry = (vip, "lladdr", mac, "dev", "eth0", "nud", "permanent")
            self.network.run(host, "ip", "neighbour", "replace", *entry)

    def believed(self, vip: str, host: str = "client") -> str:
        """Hardware address of the VIP in a host's cache; empty if there is none."""
        words = self.network.run(host, "ip", "neighbour", "show", "to", vip).split()
        return words[words.index("lladdr") + 1] if "lladdr" in words else ""


@pytest.fixture(scope="module")
def built() -> Iterator[Place]:
    with hosts("a", "b", "client", "gw1", servers=["gw1"]) as network:
        place = Place(
            network, Device(network, "a"), Device(network, "b"), Inside(network, "client")
        )
        yield place
        for each in (place.a, place.b, place.client):
            each.close()


@pytest.fixture
def place(built: Place) -> Place:
    built.serve()
    return built


def sources(place: Place, device: Device, vip: str) -> set[str]:
    """Where frames come from while a device sends something from a VIP to the client.

    A frame of a kind of its own that is sent behind them, and arrives, ends that.
    """
    end = 0x88B5
    client = CLIENT[6 if ":" in vip else 4]
    # No question has to be answered first, which a device without a lease could not ask.
    entry = (client, "lladdr", MAC_CLIENT, "dev", "eth0", "nud", "permanent")
    device.run("ip", "neighbour", "replace", *entry)
    with closing(place.client.call(tap, "eth0", [(RETURN, 0, 0, WHOLE)])) as listener:
        listener.setblocking(True)
        listener.settimeout(5)
        device.call(speak, vip)
        last = neighbour.ethernet(b"\xff" * 6, b"\x02" * 6, end, bytes(46))
        device.call(device.announcer._send, last)
        found = set()
        while (frame := listener.recv(2048))[12:14] != end.to_bytes(2, "big"):
            found.add(frame[6:12].hex(":"))
    return found


def speak(vip: str) -> None:
    """From inside a device."""
    with socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind((vip, 0))
        s.sendto(b"from the VIP", (CLIENT[6 if ":" in vip else 4], 9999))


def served(place: Place, vip: str) -> bool:
    """Wait until it is."""
    wait_until(lambda: is_served(place, vip), f"{vip} is served", 10.0)
    return True


def is_served(place: Place, vip: str) -> bool:
    try:
        return place.client.call(asked, vip, ECHO, 1.0) == b"gw1 ?"
    except OSError:
        return False


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("mode", MODES)
def test_no_cache_has_to_learn_of_a_takeover_and_connections_live_on(
    built: Place, mode: Forwarding, vip: str
) -> None:
    built.serve(mode)
    built.a.take(built.leased)
    with built.client.call(connect, vip, ECHO, 5.0) as sock:
        sock.sendall(b"before")
        assert sock.recv(100) == b"before"
        assert built.believed(vip) == MAC
        for host in ("client", "gw1"):
            if mode != "dsr":
                built.know_by_heart(host)
        built.move()
        sock.settimeout(10)
        sock.sendall(b"after")
        assert sock.recv(100) == b"after"
    assert built.believed(vip) == MAC
    assert served(built, vip)


@pytest.mark.parametrize("vip", VIPS)
def test_whoever_asks_is_told_the_virtual_address_before_and_after(place: Place, vip: str) -> None:
    for device in (place.a, place.b):
        place.a.drop()
        device.take()
        assert place.client.owner_of(vip, 5.0) == MAC
        place.client.run("ip", "neighbour", "flush", "dev", "eth0")
        assert served(place, vip)
        assert place.believed(vip) == MAC


@pytest.mark.parametrize("vip", VIPS)
def test_a_question_of_the_primary_in_the_name_of_the_vip_teaches_the_virtual_address(
    place: Place, vip: str
) -> None:
    """A kernel asks for a gateway with the source of the packet that it has for it."""
    place.a.take()
    for host in ("client", "gw1"):
        place.network.run(host, "ip", "neighbour", "flush", "dev", "eth0")
    place.a.run("ip", "neighbour", "flush", "dev", "eth0")
    assert served(place, vip)
    assert place.believed(vip, "gw1") == MAC


@pytest.mark.parametrize("vip", VIPS)
def test_a_device_without_a_lease_takes_no_frame_and_sends_none(place: Place, vip: str) -> None:
    place.know_by_heart("client")
    place.a.take()
    assert served(place, vip)
    # The switch leads there still, and both devices know their neighbours.
    place.a.drop()
    assert not is_served(place, vip)
    for device in (place.a, place.b):
        assert MAC not in sources(place, device, vip)


@pytest.mark.parametrize("vip", VIPS)
def test_of_two_devices_that_get_every_frame_one_takes_it(place: Place, vip: str) -> None:
    """As where a switch does not know the address, and floods."""
    flooding = ("ip", "link", "set", "br0", "type", "bridge", "ageing_time")
    place.network.run(SWITCH, *flooding, "0")
    try:
        place.a.take()
        answers = place.client.call(numbered, vip)
        place.move()
        answers += place.client.call(numbered, vip)
    finally:
        place.network.run(SWITCH, *flooding, "30000")
    assert answers == [b"gw1 %d" % number for number in range(ASKED)] * 2


def numbered(vip: str) -> list[bytes]:
    """What is answered to numbered questions, which follow one another; and what comes twice."""
    with socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        s.connect((vip, ECHO))
        found: list[bytes] = []
        for number in range(ASKED):
            s.send(b"%d" % number)
            found.append(s.recv(100))
        return found


@pytest.mark.parametrize("vip", VIPS)
def test_a_device_whose_agent_stopped_is_silent_when_its_lease_is_over(
    place: Place, vip: str
) -> None:
    place.know_by_heart("client")
    place.a.take(VIPS, 300 * MILLISECOND)
    wait_until(lambda: not place.a.call(place.a.lease.held).accepted, "the lease ends")
    assert not is_served(place, vip)
    assert place.client.owner_of(vip) is None
    assert MAC not in sources(place, place.a, vip)


@pytest.mark.parametrize("vip", VIPS)
def test_a_device_that_hands_over_forwards_with_its_own_address(place: Place, vip: str) -> None:
    """Else switches would look for the successor there."""
    place.a.take()
    assert served(place, vip)
    assert MAC in sources(place, place.a, vip)
    place.a.call(place.a.lease.lame, [VIPS], 30 * SECOND)
    assert served(place, vip), "the switch leads there still"
    heard = sources(place, place.a, vip)
    assert MAC_A in heard
    assert MAC not in heard
    place.b.take()
    assert served(place, vip)


@pytest.mark.parametrize("vip", VIPS)
def test_it_is_taken_up_and_given_up_while_connections_last(
    built: Place, vip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built.serve(mac="")
    built.a.take()
    with built.client.call(connect, vip, ECHO, 5.0) as sock:
        for mac, seen in ((OTHER, OTHER), (MAC, MAC), ("", MAC_A)):
            done = built.a.reconcile(built.wish(mac=mac))
            assert done.moved == {UID}
            assert not done.drift
            # Caches that are wrong still are served.
            sock.sendall(b"between")
            assert sock.recv(100) == b"between"
            wait_until(lambda: learns(built, vip, seen), f"{seen} is learnt", 10.0)  # noqa: B023
            sock.sendall(b"after")
            assert sock.recv(100) == b"after"
    assert not built.a.reconcile(built.wish(mac="")).moved
    built.know_by_heart("client")
    assert served(built, vip)
    monkeypatch.setattr(macs, "boottime", lambda: 1 << 62)
    built.a.reconcile(built.wish(mac=""))
    assert not is_served(built, vip)
    assert "mac_" not in built.a.run("nft", "list", "table", "netdev", "halb_lease")


def learns(place: Place, vip: str, mac: str) -> bool:
    """Announce it once more, and look. Linux takes no second change within a second."""
    place.a.call(place.a.announcer.announce, VIPS)
    return place.believed(vip) == mac


def test_what_others_change_is_repaired_and_costs_no_lease(place: Place) -> None:
    place.a.take()
    for damage, said in (
        ("flush chain netdev halb_lease mac_egress", "chain mac_egress was altered"),
        (f"delete element netdev halb_lease mac_of {{ {VIP} }}", "map mac_of was altered"),
        (f"delete element netdev halb_lease mac_option6 {{ {VIP6} }}", "map mac_option6"),
        (
            "flush chain netdev halb_lease mac_ingress; delete chain netdev halb_lease mac_ingress",
            "chain mac_ingress was deleted",
        ),
    ):
        place.a.run("nft", damage)
        done = place.a.reconcile(place.wish())
        assert said in " ".join(done.drift)
        assert not done.lease_lost
        assert not done.moved
        assert not place.a.reconcile(place.wish()).drift
        assert place.client.owner_of(VIP, 5.0) == MAC
        assert place.client.owner_of(VIP6, 5.0) == MAC


def test_an_interface_with_another_address_of_its_own_is_followed(place: Place) -> None:
    place.a.take()
    other = "02:00:00:00:00:77"
    try:
        for own in (other, MAC_A):
            place.a.run("ip", "link", "set", "eth0", "address", own)
            assert place.client.owner_of(VIP6) is None, "never a wrong one"
            place.a.reconcile(place.wish())
            assert place.client.owner_of(VIP6, 5.0) == MAC
            assert place.client.owner_of(VIP, 5.0) == MAC
    finally:
        place.a.run("ip", "link", "set", "eth0", "address", MAC_A)


def test_the_network_card_takes_the_address_for_as_long_as_it_is_needed(place: Place) -> None:
    def taken() -> list[str]:
        found = json.loads(place.a.run("bridge", "-json", "fdb", "show", "dev", "eth0"))
        return [entry["mac"] for entry in found]

    assert MAC in taken()
    place.a.reconcile(Desired())
    assert MAC not in taken()
    place.a.reconcile(place.wish())
    assert MAC in taken()
    place.a.call(place.a.plane.remove)
    assert MAC not in taken()
    assert "halb" not in place.a.run("nft", "list", "tables")
    place.a.call(place.a.plane.prepare)


def test_a_host_that_does_not_take_the_rules_serves_with_its_own_address(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = place.wish()
    place.a.reconcile(Desired())
    monkeypatch.setattr(virtual_mac, "sample", lambda _: "add rule netdev halb_lease no such\n")
    place.a.call(place.a.plane.prepare)
    done = place.a.reconcile(wish)
    assert "no virtual MAC: nftables refused" in done.outdated[UID]
    assert not done.unfit
    place.a.take()
    assert place.client.owner_of(VIP, 5.0) == MAC_A
    monkeypatch.undo()
    place.a.call(place.a.plane.prepare)
    assert not place.a.reconcile(wish).outdated
    assert place.client.owner_of(VIP, 5.0) == MAC
