"""Leases and announcements, as the core decides them."""

from __future__ import annotations

from typing import Any

from agent.clock import boottime
from agent.vips import HELD_UP_NS, Vips
from protocol.effects import Acquire, Input, Lame, LeaseLapsed, Refresh
from protocol.ids import GroupId
from protocol.timing import MILLISECOND, SECOND, Profile
from tests.unit.listening import run

WEB, MAIL, RDP = GroupId("1" * 16), GroupId("2" * 16), GroupId("3" * 16)
DRAIN_NS = 200 * MILLISECOND
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
        vips.lame(Lame(WEB, ("10.0.0.1",), DRAIN_NS))
        vips.lame(Lame(MAIL, ("10.0.0.2",), DRAIN_NS))
        await vips.forwarded()
        assert boottime() - began >= DRAIN_NS - EARLY_NS

    run(test())


def test_a_lease_that_was_renewed_late_is_closed_at_once() -> None:
    """As by an agent that is stopped between its look at the clock and the frame."""
    soon = boottime() + 20 * MILLISECOND
    done: list[str] = []
    told: list[Input] = []

    class Stopped(Kernel):
        def refresh(self, vips: tuple[str, ...], profile: Profile) -> None:
            while boottime() <= soon + HELD_UP_NS:
                pass
            done.append("renew")

        def release(self, vips: tuple[str, ...]) -> None:
            done.append(f"close {vips[0]}")

    async def test() -> None:
        kernel: Any = Stopped()
        vips = Vips(kernel, kernel, told.append, lambda _: (), kernel)
        for group, vip, deadline in (
            (WEB, "10.0.0.1", soon),
            (RDP, "10.0.0.3", soon + 60 * SECOND),
        ):
            vips.refresh(Refresh(group, (vip,), Profile.NORMAL, deadline))
        vips.close()

    run(test())
    assert done == ["renew", "close 10.0.0.1", "renew"]
    assert told == [LeaseLapsed((WEB,))]


def test_leases_that_open_late_are_closed_together_before_others_are_announced() -> None:
    """Of hundreds that open at once, one transaction for each would make all of them late."""
    soon = boottime() + 20 * MILLISECOND
    done: list[tuple[str, object]] = []
    told: list[Input] = []

    class Slow(Kernel):
        def acquire(self, vips: list[str], lease_ns: int) -> None:
            done.append(("open", tuple(vips)))
            while boottime() <= soon:
                pass

        def release(self, vips: tuple[str, ...]) -> None:
            done.append(("close", vips))

        def announce(self, vips: tuple[str, ...]) -> None:
            done.append(("announce", vips))

    def opens(group: GroupId, vip: str, deadline: int) -> Acquire:
        return Acquire(group, 1, (vip,), SECOND, deadline)

    async def test() -> None:
        kernel: Any = Slow()
        vips = Vips(kernel, kernel, told.append, lambda _: (), kernel)
        later = soon + 60 * SECOND
        effects = (
            opens(WEB, "10.0.0.1", soon),
            opens(RDP, "10.0.0.3", later),
            opens(MAIL, "10.0.0.2", soon),
        )
        vips.acquire(effects)
        assert vips.held == {RDP}
        vips.close()

    run(test())
    assert done == [
        ("open", ("10.0.0.1", "10.0.0.3", "10.0.0.2")),
        ("close", ("10.0.0.1", "10.0.0.2")),
        ("announce", ("10.0.0.3",)),
    ]
    assert told == [LeaseLapsed((WEB,)), LeaseLapsed((MAIL,))]
