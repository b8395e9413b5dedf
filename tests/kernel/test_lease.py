"""What the kernel lets a device do for a VIP, with and without a lease."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agent import nft
from agent.clock import boottime
from agent.gate import REFRESH_PORT
from agent.lease import Held, KernelLease
from agent.nft import KernelBusy
from agent.opening import AT_ONCE
from agent.vips import Vips
from protocol.effects import Acquire, Input, LeaseLapsed
from protocol.errors import HalbError
from protocol.ids import GroupId
from protocol.objects import Gateway, Listener, VirtualServer
from protocol.timing import MILLISECOND, SECOND, Profile, Timing
from tests.kernel.namespaces import (
    LONG,
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

pytestmark = pytest.mark.kernel

PORT = 80
NEAR, FAR = "10.77.0.99", "192.0.2.99"
"""Gateways that take nothing: in the network of the service interface, and elsewhere."""


def refusing(gateway: str) -> VirtualServer:
    """A Virtual Server that refuses connections fast: so a refusal shows that packets are taken."""
    listener = Listener(protocol="tcp", port=PORT, gateway_port=PORT)
    return virtual_server([Gateway(name="gw", address=gateway, state="disabled")], [listener])


SHORT = Timing.of(Profile.NORMAL).lease


@pytest.fixture(scope="module", params=[NEAR, FAR], ids=["outward", "inward"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Device, Inside]]:
    """With a gate that looks at packets from VIPs alone, and with one that looks at both ways."""
    with hosts("a", "client") as network:
        device, client = Device(network, "a"), Inside(network, "client")
        device.reconcile(desired(refusing(request.param)))
        assert ("chain ingress" in gate_of(device)) is (request.param == FAR)
        yield device, client
        device.close()
        client.close()


@pytest.fixture
def device(pair: tuple[Device, Inside]) -> Device:
    pair[0].drop()
    return pair[0]


@pytest.fixture
def client(pair: tuple[Device, Inside], device: Device) -> Inside:
    return pair[1]


def takes_packets(client: Inside, vip: str) -> bool:
    """Whether the device takes a packet to the VIP; it refuses the connection if it does."""
    try:
        client.call(connect, vip, PORT, 0.2).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    raise AssertionError("nobody listens there")


def gate_of(device: Device) -> str:
    return device.run("nft", "list", "table", "netdev", "halb_lease")


def know_by_heart(device: Device, client: Inside) -> None:
    """Give the client neighbour entries that need no answer: the worst of stale caches."""
    mac = device.run("cat", "/sys/class/net/eth0/address").strip()
    for vip in VIPS:
        client.run("ip", "neighbour", "replace", vip, "lladdr", mac, "dev", "eth0")


@pytest.mark.parametrize("vip", VIPS)
def test_without_a_lease_nobody_answers_and_nothing_is_taken(
    device: Device, client: Inside, vip: str
) -> None:
    know_by_heart(device, client)
    assert client.owner_of(vip) is None
    assert not takes_packets(client, vip)
    device.take()
    assert client.owner_of(vip) == "02:48:41:4c:42:0b"
    assert takes_packets(client, vip)


@pytest.mark.parametrize("vip", VIPS)
def test_without_a_lease_nothing_leaves_in_the_name_of_the_vip(
    device: Device, client: Inside, vip: str
) -> None:
    family = socket.AF_INET6 if ":" in vip else socket.AF_INET
    target = ("fd77::12" if ":" in vip else "10.77.0.12", 9999)

    def listen() -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.bind(target)
        sock.settimeout(0.2)
        return sock

    def send() -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((vip, 0))
            sock.sendto(b"from the VIP", target)

    with client.call(listen) as receiver:
        device.call(send)
        with pytest.raises(TimeoutError):
            receiver.recv(100)
        device.take()
        device.call(send)
        # The question for the client's MAC was held back too; the kernel repeats it each second.
        receiver.settimeout(5.0)
        assert receiver.recv(100) == b"from the VIP"


@pytest.mark.parametrize("vip", VIPS)
def test_announcements_without_a_lease_do_not_leave(
    device: Device, client: Inside, vip: str
) -> None:
    client.run("ip", "neighbour", "replace", vip, "lladdr", "02:00:00:00:00:99", "dev", "eth0",
               "nud", "stale")  # fmt: skip

    def believed() -> str:
        return client.run("ip", "neighbour", "show", vip)

    device.call(device.announcer.announce, VIPS)
    assert client.owner_of(vip, wait=0.1) is None
    assert "02:00:00:00:00:99" in believed()
    device.take()
    wait_until(lambda: "02:48:41:4c:42:0b" in believed(), "the client learns the new MAC")


def test_a_lease_ends_by_itself(device: Device, client: Inside) -> None:
    device.take()
    assert client.owner_of(VIP) is not None
    device.take(lease_ns=SHORT)
    left = device.call(device.lease.held).announced.get(VIP, 0)
    assert left <= SHORT // MILLISECOND
    # From here on no code of the device runs.
    wait_until(lambda: client.owner_of(VIP, 0.01) is None, "the VIP falls silent")
    assert client.owner_of(VIP6, 0.05) is None
    assert not takes_packets(client, VIP)
    assert not takes_packets(client, VIP6)


def test_refreshes_keep_a_lease_open_beyond_its_time(device: Device) -> None:
    device.take(lease_ns=SHORT)
    end = time.monotonic() + 3 * SHORT / SECOND
    while time.monotonic() < end:
        device.call(device.lease.refresh, VIPS, Profile.NORMAL)
        held = device.call(device.lease.held)
        assert held.announced.keys() == held.accepted.keys() == set(VIPS)
        time.sleep(0.02)


@pytest.mark.parametrize("profile", list(Profile))
def test_each_profile_refreshes_for_its_own_time(device: Device, profile: Profile) -> None:
    device.take(lease_ns=LONG)
    asked = Timing.of(profile).lease // MILLISECOND

    def renewed() -> bool:
        device.call(device.lease.refresh, VIPS, profile)
        held = device.call(device.lease.held)
        left = [held.announced.get(vip, 0) for vip in VIPS]
        left += [held.accepted.get(vip, 0) for vip in VIPS]
        return all(asked - 50 <= each <= asked for each in left)

    wait_until(renewed, f"{asked} ms left after a refresh", 1.0)


def test_a_late_refresh_opens_nothing(device: Device, client: Inside) -> None:
    device.take(lease_ns=50 * MILLISECOND)
    # Both sets end at the same time, but for a tick of the kernel's clock.
    wait_until(lambda: device.call(device.lease.held) == Held({}, {}), "the lease ends", 1.0)
    for _ in range(3):
        device.call(device.lease.refresh, VIPS, Profile.WAN)
    held = device.call(device.lease.held)
    assert not held.announced
    assert not held.accepted
    assert client.owner_of(VIP, 0.1) is None


def test_a_datagram_without_the_mark_renews_nothing(device: Device) -> None:
    def send() -> None:
        for family, vip in ((socket.AF_INET, VIP), (socket.AF_INET6, VIP6)):
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"", (vip, REFRESH_PORT[Profile.WAN]))

    device.take(lease_ns=500 * MILLISECOND)
    device.call(send)
    assert max(device.call(device.lease.held).announced.values()) <= 500


def test_no_firewall_of_the_host_keeps_a_lease_from_being_renewed(device: Device) -> None:
    """As firewalld does while it is reloaded: nothing new passes, not even on ``lo``."""
    hooks = ("prerouting", "input", "forward", "output", "postrouting")
    chains = "".join(
        f" chain {hook} {{ type filter hook {hook} priority -450; policy drop; }}\n"
        for hook in hooks
    )
    device.network.run(device.host, "nft", "-f", "-", text=f"table inet closed {{{chains} }}")
    try:
        device.take(lease_ns=500 * MILLISECOND)
        device.call(device.lease.refresh, VIPS, Profile.WAN)
    finally:
        device.run("nft", "delete", "table", "inet", "closed")
    held = device.call(device.lease.held)
    assert min(held.announced[vip] for vip in VIPS) > 500
    assert min(held.accepted[vip] for vip in VIPS) > 500


@pytest.mark.parametrize("vip", VIPS)
def test_a_lame_device_takes_packets_but_does_not_answer(
    device: Device, client: Inside, vip: str
) -> None:
    know_by_heart(device, client)
    device.take()
    # A lame device serves those that it served: it knows them. It cannot ask for new neighbours.
    assert takes_packets(client, vip)
    assert device.call(device.lease.lame, [VIPS], SECOND)
    assert client.owner_of(vip, 0.05) is None
    assert takes_packets(client, vip)
    device.call(device.lease.refresh, VIPS, Profile.WAN)
    wait_until(lambda: not takes_packets(client, vip), "the drain ends, refreshed or not", 2.0)


@pytest.mark.parametrize("vip", VIPS)
def test_a_lame_device_that_forwards_does_not_draw_the_vip_to_itself(
    device: Device, client: Inside, vip: str
) -> None:
    """A question for a neighbour must not carry the VIP as its sender: that enters caches."""
    successor = "02:00:00:00:00:99"
    client.run(*f"ip neighbour replace {vip} lladdr {successor} dev eth0 nud stale".split())
    target, family = ("fd77::12", socket.AF_INET6) if ":" in vip else ("10.77.0.12", socket.AF_INET)
    device.take()
    client.run(*f"ip neighbour replace {vip} lladdr {successor} dev eth0 nud stale".split())
    device.call(device.lease.lame, [VIPS], LONG)
    device.run("ip", "neighbour", "flush", "to", target)

    def send() -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((vip, 0))
            sock.sendto(b"forwarded", (target, 9))

    device.call(send)
    wait_until(lambda: target in device.run("ip", "neighbour", "show"), "the device asks")
    assert client.owner_of(vip, 0.1) is None
    assert successor in client.run("ip", "neighbour", "show", vip)


def test_a_lease_that_ran_out_cannot_turn_lame(device: Device) -> None:
    assert not device.call(device.lease.lame, [VIPS], LONG)
    held = device.call(device.lease.held)
    assert not held.announced
    assert not held.accepted


def test_one_expired_vip_of_several_closes_all_when_turning_lame(device: Device) -> None:
    device.call(device.lease.acquire, [VIP6], LONG)
    assert not device.call(device.lease.lame, [VIPS], LONG)
    assert not device.call(device.lease.held).accepted


def test_an_element_without_timeout_ends_all_the_same(device: Device) -> None:
    device.run("nft", "add", "element", "netdev", "halb_lease", "announced", f"{{ {VIP} }}")
    wait_until(lambda: not device.call(device.lease.held).announced, "the default ends it", 1.0)


def test_a_kernel_that_cannot_renew_is_found_out(device: Device) -> None:
    device.call(device.lease.verify)
    device.run("ip", "link", "set", "lo", "down")
    try:
        with pytest.raises(HalbError, match="`lo` up"):
            device.call(device.lease.verify)
    finally:
        device.run("ip", "link", "set", "lo", "up")
    device.call(device.lease.verify)


def test_a_kernel_is_not_blamed_for_a_process_that_reads_late(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reading waits for a processor longer than timeouts are off by."""
    prompt = KernelLease.held

    def late(lease: KernelLease) -> Held:
        time.sleep(0.08)
        return prompt(lease)

    monkeypatch.setattr(KernelLease, "held", late)
    device.call(device.lease.verify)


class Elsewhere:
    """Stands for who announces, which is not looked at."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_a_lease_that_the_kernel_refuses_keeps_no_other_from_being_opened() -> None:
    """As after somebody has taken away the set of one IP version, and what uses it."""
    told: list[Input] = []
    some = [GroupId(f"{number:016x}") for number in range(AT_ONCE)]
    vip_of = {each: f"10.77.9.{number}" for number, each in enumerate(some)}
    refused = some[77]
    vip_of[refused] = VIP6

    async def test(lease: KernelLease) -> None:
        elsewhere: Any = Elsewhere()
        vips = Vips(lease, elsewhere, told.append, lambda _: (), elsewhere)
        later = boottime() + SECOND
        vips.acquire([Acquire(each, 1, (vip_of[each],), SHORT, later) for each in some])
        assert lease.held().announced.keys() == {*vip_of.values()} - {VIP6}
        assert vips.held == {*some} - {refused}

    with hosts("a") as network:
        device = Device(network, "a")
        device.reconcile(desired(refusing(NEAR)))
        for name in ("egress", "refresh"):
            device.run("nft", f"flush chain netdev halb_lease {name}")
        device.run("nft", "delete set netdev halb_lease announced6")
        # Whatever is opened is read back of both IP versions.
        device.run("nft", "add set netdev halb_lease announced6 { type ether_addr; }")
        device.call(lambda: asyncio.run(test(device.lease)))
        device.close()
    assert told == [LeaseLapsed((refused,))]


def test_a_lease_is_not_opened_late_behind_rules_that_are_being_loaded(
    device: Device, client: Inside
) -> None:
    know_by_heart(device, client)
    with nft._turn, pytest.raises(KernelBusy):
        device.call(device.lease.acquire, VIPS, LONG)
    assert not takes_packets(client, VIP)
    device.call(device.lease.acquire, VIPS, LONG)
    wait_until(lambda: takes_packets(client, VIP), "open")


def test_whoever_closes_a_lease_waits_for_other_rules_no_longer_than_it_lasts(
    device: Device, client: Inside
) -> None:
    """The loop does nothing else meanwhile, for this Virtual Server or any other."""
    know_by_heart(device, client)
    lease = device.call(KernelLease, "eth0")
    device.call(lease.acquire, VIPS, SHORT)
    loaded = threading.Event()

    def load() -> None:
        with nft._turn:
            loaded.wait(60.0)

    loading = threading.Thread(target=load)
    loading.start()
    try:
        wait_until(nft._turn.locked, "rules are being loaded")
        assert not device.call(lease.lame, [VIPS], LONG)
        device.call(lease.release, VIPS)
        assert loading.is_alive()
    finally:
        loaded.set()
        loading.join()
        lease.close()
    assert not takes_packets(client, VIP)
    assert not device.call(device.lease.held).accepted
