"""A takeover that neighbours have learnt of, or have not; a foreign owner; in namespaces."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from agent import owners, presence, segment, takeover
from agent.announce import Announcer
from agent.ping import Pinger
from agent.presence import Presence
from protocol.effects import Event
from protocol.ids import GroupId
from protocol.objects import Listener
from tests.kernel.namespaces import (
    UID,
    VIP,
    VIP6,
    VIPS,
    Device,
    Inside,
    desired,
    hosts,
    virtual_server,
    wait_until,
)

pytestmark = pytest.mark.kernel

WANTED = desired(virtual_server([], [Listener(protocol="tcp", port=80, gateway_port=80)]))
ROUTER, ROUTER6 = "10.77.0.12", "fd77::12"
FOREIGN = "02:00:00:00:00:99"


@dataclass
class News:
    """What was told, with the time."""

    events: list[Event] = field(default_factory=list)
    verified: list[float] = field(default_factory=list)

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def on_verified(self, group: GroupId, took_ns: int) -> None:
        assert group == UID
        self.verified.append(took_ns / 1e6)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


@pytest.fixture
def place() -> Iterator[tuple[Device, Inside]]:
    with hosts("a", "router") as network:
        device, router = Device(network, "a"), Inside(network, "router")
        device.reconcile(WANTED)
        yield device, router
        device.close()
        router.close()


def watch(
    device: Device, news: News, until: Callable[[Presence], bool], seconds: float = 15.0
) -> list[str]:
    """Hold the VIPs, announced, until the condition; the warnings at that moment."""

    async def test() -> list[str]:
        routers = (ROUTER, ROUTER6)
        around = Presence(
            "eth0", device.announcer, Random(1), lambda _: routers, news, lambda _: None
        )
        try:
            device.lease.acquire(VIPS, 30 * 10**9)
            device.announcer.announce(VIPS)
            around.held(UID, VIPS)
            deadline = time.monotonic() + seconds
            while not until(around):
                assert time.monotonic() < deadline, news
                await asyncio.sleep(0.01)
            return list(around.warnings(str))
        finally:
            around.close()

    return device.call(lambda: asyncio.run(test()))


def test_a_takeover_is_verified_when_the_router_answers_to_here(
    place: tuple[Device, Inside],
) -> None:
    device, _ = place
    news = News()
    assert watch(device, news, lambda _: bool(news.verified)) == []
    assert 0 < news.verified[0] < 5000
    assert news.events == []


def test_a_neighbour_that_holds_another_address_is_an_alarm_until_it_has_learnt(
    place: tuple[Device, Inside], monkeypatch: pytest.MonkeyPatch
) -> None:
    device, router = place
    for vip in VIPS:
        # Permanent: no announcement changes it, as on a router that ignores them.
        entry = (vip, "lladdr", FOREIGN, "dev", "eth0", "nud", "permanent")
        router.run("ip", "neigh", "replace", *entry)
    monkeypatch.setattr(takeover, "AFTER_S", (0.2,) * 6)
    monkeypatch.setattr(takeover, "PATIENCE_S", 1.0)
    monkeypatch.setattr(presence, "REFRESH_S", 4.0)
    news = News()
    warnings: list[str] = []

    def mended(around: Presence) -> bool:
        if news.kinds() == ["not-learnt"] and not warnings:
            warnings.extend(around.warnings(str))
            for vip in VIPS:
                router.run("ip", "neigh", "del", vip, "dev", "eth0")
        return "learnt" in news.kinds()

    assert watch(device, news, mended, seconds=30) == []
    assert news.kinds() == ["not-learnt", "learnt"]
    assert f"{ROUTER} (for {VIP})" in warnings[0]
    assert f"{ROUTER6} (for {VIP6})" in warnings[0]


def test_a_stale_entry_is_corrected_by_asking_in_the_name_of_the_vip(
    place: tuple[Device, Inside],
) -> None:
    device, router = place
    device.take()
    router.run("ip", "neigh", "replace", VIP, "lladdr", FOREIGN, "dev", "eth0", "nud", "reachable")
    assert device.call(lambda: device.announcer.insist(VIP, ROUTER)) is None
    own = "02:48:41:4c:42:0b"
    wait_until(lambda: _told(device, router) == own, "the router has learnt")


def _told(device: Device, router: Inside) -> str:
    device.call(lambda: device.announcer.insist(VIP, ROUTER))
    words = router.run("ip", "neigh", "show", "to", VIP).split()
    return words[words.index("lladdr") + 1]


def test_a_neighbour_that_answers_no_ping_is_no_alarm(
    place: tuple[Device, Inside], monkeypatch: pytest.MonkeyPatch
) -> None:
    device, router = place
    for rule in (
        "add table inet mute",
        "add chain inet mute in { type filter hook input priority 0; }",
        "add rule inet mute in icmp type echo-request drop",
        "add rule inet mute in icmpv6 type echo-request drop",
    ):
        router.run("nft", rule)
    monkeypatch.setattr(takeover, "AFTER_S", (0.05,) * 6)
    monkeypatch.setattr(takeover, "PATIENCE_S", 0.2)
    news = News()
    done: list[takeover.Verdict] = []
    heard = Presence._on_verdict

    def on_verdict(around: Presence, verdict: takeover.Verdict) -> None:
        done.append(verdict)
        heard(around, verdict)

    monkeypatch.setattr(Presence, "_on_verdict", on_verdict)
    assert watch(device, news, lambda _: bool(done)) == []
    assert done == [takeover.Verdict(UID, (), (), 0)]
    assert not news.events
    assert not news.verified


@pytest.mark.parametrize("vip", VIPS)
def test_a_foreign_owner_is_heard_at_any_time_and_answered_with_limits(
    place: tuple[Device, Inside], vip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, router = place
    monkeypatch.setattr(owners, "GRACE_NS", 0)
    news = News()
    thief = router.call(Announcer, "eth0")

    def claim(_: Presence) -> bool:
        if not news.events:
            router.call(lambda: thief.announce([vip]))
        return bool(news.events)

    try:
        warnings = watch(device, news, claim)
    finally:
        thief.close()
    assert news.kinds() == ["foreign-owner"]
    assert news.events[0].group == UID
    assert "02:48:41:4c:42:0c" in news.events[0].text
    assert any(vip in each and "02:48:41:4c:42:0c" in each for each in warnings)


def test_no_socket_sees_all_packets_while_a_vip_is_held(place: tuple[Device, Inside]) -> None:
    """Each packet that is forwarded would pay for it."""
    device, _ = place
    kinds: set[str] = set()

    def seen(_: Presence) -> bool:
        sockets = Path("/proc/thread-self/net/packet").read_text().splitlines()[1:]
        kinds.update(line.split()[3] for line in sockets)
        return {"0806", "86dd"} <= kinds

    watch(device, News(), seen)
    assert "0003" not in kinds


def test_the_router_is_found_by_the_route_through_the_interface(
    place: tuple[Device, Inside],
) -> None:
    device, _ = place
    assert device.call(segment.routers, "eth0") == ()
    device.run("ip", "route", "add", "default", "via", ROUTER)
    device.run("ip", "-6", "route", "add", "default", "via", ROUTER6)
    assert device.call(segment.routers, "eth0") == (ROUTER, ROUTER6)
    assert device.call(segment.routers, "lo") == ()
    assert device.call(segment.routers, "eth9") == ()


def test_an_address_that_nobody_answers_for_is_unresolved(place: tuple[Device, Inside]) -> None:
    device, _ = place
    gone = "10.77.0.99"
    assert device.call(segment.is_unresolved, ROUTER) is False
    assert device.call(segment.is_unresolved, "127.0.0.1") is False
    device.run("ip", "neigh", "replace", gone, "dev", "eth0", "nud", "failed")
    assert device.call(segment.is_unresolved, gone) is True
    assert device.call(segment.is_unresolved, "192.0.2.7") is False


@pytest.mark.parametrize("times", [0, 1, 2])
def test_an_interface_that_went_away_and_came_back_is_asked_on_again(
    place: tuple[Device, Inside], monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """So often it goes away again in the very moment in which it is followed."""
    device, _ = place
    index_of = socket.if_nametoindex
    answered: set[int] = set()
    numbers = iter(range(1, 1000))
    left = times

    def make() -> None:
        device.run("ip", "link", "add", "gone0", "link", "eth0", "type", "macvlan")
        device.run("ip", "address", "add", "10.77.0.50/24", "dev", "gone0")
        device.run("ip", "link", "set", "gone0", "up")

    def remove() -> None:
        device.run("ip", "link", "del", "gone0")

    def looked_up(name: str) -> int:
        nonlocal left
        index = index_of(name)
        if left:
            left -= 1
            remove()
        return index

    async def is_answered(pinger: Pinger) -> bool:
        asked: set[int] = set()
        deadline = time.monotonic() + 2
        while not answered & asked and time.monotonic() < deadline:
            asked.add(number := next(numbers))
            pinger.ask(ROUTER, number, "10.77.0.50")
            await asyncio.sleep(0.05)
        return bool(answered & asked)

    async def test() -> None:
        make()
        pinger = Pinger("gone0", answered.add)
        assert await is_answered(pinger)
        remove()
        pinger.follow()
        monkeypatch.setattr(socket, "if_nametoindex", looked_up)
        for _ in range(times + 1):
            pinger.ask(ROUTER, next(numbers))
            pinger.ask(ROUTER6, next(numbers))
            make()
            pinger.follow()
        assert await is_answered(pinger)
        pinger.close()

    device.call(lambda: asyncio.run(test()))
    remove()


def test_an_interface_that_does_not_exist_yet_is_asked_on_once_it_does(
    place: tuple[Device, Inside],
) -> None:
    device, _ = place

    async def test() -> None:
        pinger = Pinger("late0", lambda _: None)
        pinger.ask(ROUTER, 1)
        device.run("ip", "link", "add", "late0", "type", "veth", "peer", "name", "late1")
        pinger.follow()
        assert pinger.index == socket.if_nametoindex("late0")
        pinger.close()

    device.call(lambda: asyncio.run(test()))
    device.run("ip", "link", "del", "late0")
