"""Leases and announcements, as the core decides them."""

from __future__ import annotations

from typing import Any

from agent.clock import boottime
from agent.vips import Vips
from protocol.effects import Lame
from protocol.ids import GroupId
from protocol.timing import MILLISECOND
from tests.unit.listening import run

WEB, MAIL = GroupId("1" * 16), GroupId("2" * 16)
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
