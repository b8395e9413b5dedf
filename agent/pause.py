"""Was this whole machine paused? Clocks that stop with it, compared with one that does not.

A hypervisor that pauses a guest stops its clocks, its timers and so the lease in
its kernel: when the guest goes on, all of them believe that no time went by,
and another device may have been primary for minutes. Two clocks of a guest go
on: the processor's time stamp counter under KVM, and the battery-backed clock
(RTC) that the hypervisor emulates. Before each step of the core they are
compared with the clock that the core lives by; after a pause it gives up
whatever it held, on the strength of answers from before.

That is an additional guard, and for a moment it is too late: packets are
answered from the moment on that the guest goes on, until the agent runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from protocol.timing import MILLISECOND, SECOND

TSC_MARGIN_NS = 50 * MILLISECOND
RTC_MARGIN_NS = 2 * SECOND
"""The RTC counts whole seconds, and is corrected by fractions of one."""
RTC_EVERY_NS = 250 * MILLISECOND
"""Reading it is an exit to the hypervisor."""
TOLERANCE = 200
"""Clocks may differ by one part in so many before that is a pause."""
CALIBRATION_NS = 1 * SECOND
"""How long ticks are counted to learn their rate, twice: both must agree."""


@dataclass
class Comparison:
    """Finds the time that one clock has lost against another."""

    margin: int
    """Differences up to this are none, nanoseconds."""
    _before: tuple[int, int] | None = None

    def lost(self, stops: int, goes_on: int) -> int:
        """Nanoseconds by which ``goes_on`` went further since the last call than ``stops``."""
        before, self._before = self._before, (stops, goes_on)
        if before is None:
            return 0
        elapsed = stops - before[0]
        ahead = goes_on - before[1] - elapsed
        return ahead if ahead > self.margin + elapsed // TOLERANCE else 0


@dataclass
class Battery:
    """The battery-backed clock, less what this host itself set it to: to its clock for people.

    A kernel whose clock was corrected by a time server sets this one some minutes later.
    """

    _before: tuple[int, int, int] | None = None
    _set_by: int = 0

    def shown(self, own: int, battery: int, people: int) -> int:
        """What it would show, nanoseconds; ``own`` is the clock that the core lives by."""
        before, self._before = self._before, (own, battery, people)
        if before is not None:
            jump = battery - before[1] - (own - before[0])
            behind = before[2] - before[1]
            # After a pause it is ahead of people's clock, which stood still as well.
            far = jump > RTC_MARGIN_NS
            if far and max(abs(battery - people), abs(jump - behind)) <= RTC_MARGIN_NS:
                self._set_by += jump
        return battery - self._set_by


@dataclass
class Ticks:
    """Makes nanoseconds of a counter whose rate is unknown at first."""

    _began: tuple[int, int] | None = None
    _length: int = 0
    """Ticks in the first period of calibration."""
    _rate: tuple[int, int] | None = None
    """(nanoseconds, ticks) that are the same."""

    def nanoseconds(self, now: int, ticks: int) -> int | None:
        """The counter in nanoseconds; None while its rate is not known."""
        if self._rate is not None:
            return ticks * self._rate[0] // self._rate[1]
        if self._began is None:
            self._began = now, ticks
            return None
        elapsed, counted = now - self._began[0], ticks - self._began[1]
        if elapsed < CALIBRATION_NS:
            return None
        per_period = counted * CALIBRATION_NS // elapsed
        if per_period > 0 and abs(per_period - self._length) * 1000 < per_period:
            self._rate = CALIBRATION_NS, per_period
        self._began, self._length = (now, ticks), per_period
        return None


Reading = tuple[int, int]
"""The clock of the core, and the other one in nanoseconds or ticks, read together."""


@dataclass
class Clock:
    """A clock that goes on while the machine is paused."""

    name: str
    read: Callable[[], Reading | None]
    """None: not now."""
    comparison: Comparison
    ticks: Ticks | None = None
    every: int = 0
    """It is read at most so often, nanoseconds."""
    _due: int = field(default=0, init=False)

    def lost(self, now: int) -> int:
        """Nanoseconds that the clock of the core, which shows about ``now``, has lost."""
        if now < self._due:
            return 0
        self._due = now + self.every
        reading = self.read()
        if reading is None:
            return 0
        at, value = reading
        shown = value if self.ticks is None else self.ticks.nanoseconds(at, value)
        return 0 if shown is None else self.comparison.lost(at, shown)


class PauseWatch:
    """Asked before each step whether the machine was paused since the last one."""

    def __init__(self, clocks: Sequence[Clock]) -> None:
        self.clocks = tuple(clocks)

    def lost(self, now: int) -> int:
        """Nanoseconds that went by without this machine since it was last asked; 0 if none."""
        return max((clock.lost(now) for clock in self.clocks), default=0)

    def __str__(self) -> str:
        return " and ".join(clock.name for clock in self.clocks) or "nothing"
