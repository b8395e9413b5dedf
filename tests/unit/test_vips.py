"""Leases and announcements, as the core decides them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from agent.clock import boottime
from agent.nft import KernelRefused
from agent.opening import AT_ONCE, OPENS_NS
from agent.vips import HELD_UP_NS, Vips
from protocol.effects import Acquire, Input, Lame, LeaseLapsed, Refresh, Release
from protocol.ids import GroupId
from protocol.timing import MILLISECOND, SECOND, Profile
from tests.unit.listening import run, until

WEB, MAIL, RDP = GroupId("1" * 16), GroupId("2" * 16), GroupId("3" * 16)
WEB_VIPS, RDP_VIPS = ("10.0.0.1",), ("10.0.0.3",)
DRAIN_NS = 200 * MILLISECOND
LEASE_NS = 25 * SECOND
EARLY_NS = 5 * MILLISECOND
"""A loop's clock and ours need not tick together."""


class Kernel:
    """Stands for lease, announcer and presence; does what it is asked."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_a_device_goes_on_for_as_long_as_it_forwards_what_it_handed_over() -> None:
    async def test() -> None:
        kernel: Any = Kernel()
        vips = Vips(kernel, kernel, print, lambda _: (), kernel)
        await vips.forwarded()  # nothing was
        began = boottime()
        vips.lame([Lame(WEB, ("10.0.0.1",), DRAIN_NS), Lame(MAIL, ("10.0.0.2",), DRAIN_NS)])
        await vips.forwarded()
        assert boottime() - began >= DRAIN_NS - EARLY_NS

    run(test())


class Nft(Kernel):
    """Opens what it is asked to, after as long as ``takes`` says."""

    def __init__(self, takes: Callable[[Sequence[str]], int]) -> None:
        self.done: list[tuple[str, object]] = []
        self.lasts: list[int] = []
        self._takes = takes

    def acquire(self, vips: list[str], lease_ns: int) -> None:
        self.done.append(("open", tuple(vips)))
        self.lasts.append(boottime() + lease_ns)
        until = boottime() + self._takes(vips)
        while boottime() < until:
            pass

    def release(self, vips: tuple[str, ...]) -> None:
        self.done.append(("close", vips))

    def announce(self, vips: tuple[str, ...]) -> None:
        self.done.append(("announce", tuple(vips)))


def acquire(nft: Nft, *effects: Acquire) -> tuple[set[GroupId], list[Input]]:
    """What is held then, and what the core is told."""
    told: list[Input] = []

    async def test() -> set[GroupId]:
        kernel: Any = nft
        vips = Vips(kernel, kernel, told.append, lambda _: (), kernel)
        vips.acquire(effects)
        await until(lambda: all(e.group in {*vips.held, *lapsed(told)} for e in effects))
        held = set(vips.held)
        vips.close()
        return held

    return run(test()), told


def lapsed(told: list[Input]) -> list[GroupId]:
    return [group for each in told if isinstance(each, LeaseLapsed) for group in each.groups]


def opens(group: GroupId, vip: str, deadline: int) -> Acquire:
    return Acquire(group, 1, (vip,), LEASE_NS, deadline)


def renews(group: GroupId, vips: tuple[str, ...], deadline: int) -> Refresh:
    return Refresh(group, vips, Profile.NORMAL, deadline)


def test_a_lease_that_was_renewed_late_is_closed_at_once() -> None:
    """As by an agent that is stopped between its look at the clock and the frame."""
    kernel: Any = Nft(lambda _: 0)
    told: list[Input] = []
    soon = boottime() + 20 * MILLISECOND

    def is_stopped(vips: list[str], _: Profile) -> None:
        while boottime() <= soon + HELD_UP_NS:
            pass
        kernel.done.append(("renew", tuple(vips)))

    async def test() -> None:
        vips = Vips(kernel, kernel, told.append, lambda _: (), kernel)
        vips.acquire([opens(WEB, *WEB_VIPS, soon), opens(RDP, *RDP_VIPS, soon)])
        await until(lambda: vips.held == {WEB, RDP})
        kernel.done.clear()
        kernel.refresh = is_stopped
        later = soon + 60 * SECOND
        vips.refresh([renews(WEB, WEB_VIPS, soon), renews(RDP, RDP_VIPS, later)])
        assert vips.held == {RDP}
        vips.close()

    run(test())
    assert kernel.done == [("renew", WEB_VIPS + RDP_VIPS), ("close", WEB_VIPS)]
    assert told == [LeaseLapsed((WEB,))]


def test_a_renewal_that_comes_too_late_leaves_a_lease_to_the_next() -> None:
    kernel: Any = Nft(lambda _: 0)
    told: list[Input] = []
    kernel.refresh = lambda vips, _: kernel.done.append(("renew", tuple(vips)))

    async def test() -> None:
        vips = Vips(kernel, kernel, told.append, lambda _: (), kernel)
        vips.acquire([opens(WEB, *WEB_VIPS, boottime() + SECOND)])
        kernel.done.clear()
        vips.refresh([renews(WEB, WEB_VIPS, boottime() - 1)])
        assert (kernel.done, told) == ([], [])
        vips.refresh([renews(WEB, WEB_VIPS, boottime() + 60 * SECOND)])
        assert (kernel.done, told) == ([("renew", WEB_VIPS)], [])
        vips.close()

    run(test())


def test_a_lease_that_is_over_is_told_of_and_not_renewed() -> None:
    kernel: Any = Nft(lambda _: 0)
    told: list[Input] = []

    async def test() -> None:
        vips = Vips(kernel, kernel, told.append, lambda _: (), kernel)
        vips.acquire([Acquire(WEB, 1, WEB_VIPS, MILLISECOND, boottime() + SECOND)])
        vips.refresh([renews(WEB, WEB_VIPS, boottime() + SECOND)])
        vips.close()

    run(test())
    assert told == [LeaseLapsed((WEB,))]


def test_a_renewal_of_what_opens_right_after_it_is_no_lapse() -> None:
    """Two acks in one step: opened by the first, renewed by the second. What lives goes first."""
    kernel: Any = Nft(lambda _: 0)
    told: list[Input] = []

    async def test() -> None:
        vips = Vips(kernel, kernel, told.append, lambda _: (), kernel)
        vips.refresh([renews(WEB, WEB_VIPS, boottime() + SECOND)])
        vips.acquire([opens(WEB, *WEB_VIPS, boottime() + SECOND)])
        assert vips.held == {WEB}
        vips.close()

    run(test())
    assert told == []


def test_leases_that_open_late_are_closed_together_before_others_are_announced() -> None:
    """Of hundreds that open at once, one transaction for each would make all of them late."""
    nft = Nft(lambda vips: 2 * OPENS_NS if "10.0.0.1" in vips else 0)
    now = boottime()
    longer = Acquire(RDP, 1, ("10.0.0.3",), LEASE_NS + 1, now + SECOND)
    held, told = acquire(nft, opens(WEB, "10.0.0.1", now), longer, opens(MAIL, "10.0.0.2", now))
    assert nft.done == [
        ("open", ("10.0.0.1", "10.0.0.2")),
        ("close", ("10.0.0.1", "10.0.0.2")),
        ("open", ("10.0.0.3",)),
        ("announce", ("10.0.0.3",)),
    ]
    assert held == {RDP}
    assert told == [LeaseLapsed((WEB, MAIL))]


def refusing(nft: Nft, *refused: str) -> list[int]:
    """Have a kernel refuse these VIPs, and all that is to open with them; sizes of what it is
    asked for."""
    asked: list[int] = []
    opens = nft.acquire

    def acquire(vips: list[str], lease_ns: int) -> None:
        asked.append(len(vips))
        opens(vips, lease_ns)
        if not set(refused).isdisjoint(vips):
            raise KernelRefused("nftables refused", "Look.")

    nft.acquire = acquire  # type: ignore[method-assign]
    return asked


def groups(count: int) -> list[GroupId]:
    return [GroupId(f"{number:016x}") for number in range(count)]


def test_one_lease_that_the_kernel_refuses_of_many_is_soon_found() -> None:
    nft, later = Nft(lambda _: 0), boottime() + SECOND
    some = groups(AT_ONCE)
    asked = refusing(nft, "vip 77")
    held, told = acquire(nft, *(opens(each, f"vip {at}", later) for at, each in enumerate(some)))
    assert held == {*some} - {some[77]}
    assert told == [LeaseLapsed((some[77],))]
    assert len(asked) == 15


def test_leases_that_were_refused_until_it_was_too_late_are_not_tried_one_by_one() -> None:
    """As where somebody else has just removed the table: all are refused, and the agent waits."""
    nft, later = Nft(lambda _: 3 * MILLISECOND), boottime() + OPENS_NS
    some = groups(AT_ONCE)
    asked = refusing(nft, *(f"vip {at}" for at in range(AT_ONCE)))
    held, told = acquire(nft, *(opens(each, f"vip {at}", later) for at, each in enumerate(some)))
    assert not held
    assert sorted(lapsed(told)) == some
    assert len(asked) <= 12


def test_what_is_late_for_the_sake_of_others_is_said_to_be_late(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def takes(vips: Sequence[str]) -> int:
        if WEB_VIPS[0] in vips:
            raise KernelRefused("no", "try another")
        return 2 * OPENS_NS

    soon = boottime() + OPENS_NS
    held, _ = acquire(
        Nft(takes), opens(WEB, *WEB_VIPS, soon), opens(RDP, *RDP_VIPS, soon + 60 * SECOND)
    )
    assert not held
    (late,) = (each.args for each in caplog.records if "too late" in each.msg)
    assert isinstance(late, tuple)
    assert late[0] == 1
    assert 0 <= cast(int, late[1]) < 60_000


def test_what_opened_before_a_refusal_made_it_late_is_closed() -> None:
    nft, later = Nft(lambda vips: OPENS_NS // 4 * 3), boottime() + OPENS_NS
    some = groups(4)
    refusing(nft, "vip 3")
    held, told = acquire(nft, *(opens(each, f"vip {at}", later) for at, each in enumerate(some)))
    assert not held
    assert sorted(lapsed(told)) == some
    assert [done for done in nft.done if done[0] == "close"] == [("close", ("vip 0", "vip 1"))]


def test_a_lease_that_opens_after_its_deadline_lasts_no_longer_for_it() -> None:
    nft, deadline = Nft(lambda _: 0), boottime()
    held, told = acquire(nft, opens(WEB, "10.0.0.1", deadline))
    assert held == {WEB}
    assert told == []
    assert deadline + LEASE_NS // 2 < nft.lasts[0] <= deadline + LEASE_NS


def test_a_lease_that_would_be_over_before_it_is_renewed_is_not_opened() -> None:
    nft, now = Nft(lambda _: 0), boottime()
    held, told = acquire(
        nft, opens(WEB, "10.0.0.1", now - LEASE_NS // 2), opens(RDP, "10.0.0.3", now)
    )
    assert held == {RDP}
    assert told == [LeaseLapsed((WEB,))]
    assert nft.done[0] == ("open", ("10.0.0.3",))


def test_a_thousand_leases_open_although_that_takes_longer_than_they_may_wait() -> None:
    """They open some at a time. Between two the agent hears its voters, who confirm them anew."""
    kernel: Any = Nft(lambda vips: len(vips) * MILLISECOND // 10)
    some = groups(1000)
    told: list[Input] = []

    async def test() -> None:
        vips = Vips(kernel, kernel, told.append, lambda _: (), kernel)
        soon = boottime() + 40 * MILLISECOND
        vips.acquire([Acquire(each, 1, (f"vip {each}",), LEASE_NS // 100, soon) for each in some])
        while len(vips.held) < len(some):
            now = boottime()
            vips.refresh(
                [Refresh(each, (f"vip {each}",), Profile.NORMAL, now + SECOND) for each in some]
            )
            await asyncio.sleep(0)
        vips.close()

    run(test())
    assert not told
    assert max(len(each) for what, each in kernel.done if what == "open") == AT_ONCE


def test_what_waits_to_be_opened_and_is_to_be_closed_does_not_open() -> None:
    kernel: Any = Nft(lambda _: 0)
    some = groups(2 * AT_ONCE)
    last = some[-1]

    async def test() -> None:
        vips = Vips(kernel, kernel, print, lambda _: (), kernel)
        soon = boottime() + SECOND
        vips.acquire([Acquire(each, 1, ("10.0.0.1",), LEASE_NS, soon) for each in some])
        vips.release([Release(last, ("10.0.0.1",))])
        await until(lambda: len(vips.held) == len(some) - 1)
        await asyncio.sleep(0)
        assert last not in vips.held
        vips.close()

    run(test())
