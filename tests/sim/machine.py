"""One host of the simulation: its clock, its disk and its kernel.

The kernel outlives the agent: a lease opened by a process that was killed
ends by its timeout alone. A power cut ends kernel state at once and restarts
the clock. Real time is the simulator's; a device sees only its own clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from protocol.config import Config
from protocol.effects import Ballot
from protocol.ids import NO_REVISION, DeviceId, GroupId, Revision
from protocol.local import Local
from protocol.timing import MILLISECOND, SECOND
from protocol.versions import OURS, Range

JIFFY_NS = 4 * MILLISECOND
"""A kernel timer may fire this much late (HZ = 250)."""

MILLION = 1_000_000
UNIX_S = 1_700_000_000
"""Unix time at which every simulation begins, seconds."""


@dataclass(frozen=True, slots=True)
class PauseWatch:
    """A clock that goes on while the device is paused, as the agent reads it."""

    least: int
    """Pauses that are longer than this are noticed, nanoseconds."""
    every: int
    """It is read at most so often: what is noticed may be so late."""


TICKS = PauseWatch(50 * MILLISECOND, 0)
"""The processor's time stamp counter, compared before each step."""
RTC = PauseWatch(3 * SECOND, 250 * MILLISECOND)
"""The battery-backed clock, which counts whole seconds."""


class Clock:
    """CLOCK_BOOTTIME of one host: an offset and a rate against real time."""

    __slots__ = ("offset", "ppm")

    def __init__(self, offset: int, ppm: int) -> None:
        self.offset = offset
        self.ppm = ppm

    def local(self, real: int) -> int:
        return self.offset + real + real * self.ppm // MILLION

    def real(self, local: int) -> int:
        """The first real time at which this clock shows ``local`` or more."""
        return -((self.offset - local) * MILLION // (MILLION + self.ppm))

    def restart(self, real: int, uptime: int) -> None:
        """Make this clock show ``uptime`` at ``real``: the host has booted."""
        self.offset = 0
        self.offset = uptime - self.local(real)


class Kernel:
    """The two lease sets: VIP to the real time at which its element expires."""

    __slots__ = ("_asleep", "accept", "announce")

    def __init__(self) -> None:
        self.announce: dict[str, int] = {}
        self.accept: dict[str, int] = {}
        self._asleep: tuple[dict[str, int], dict[str, int]] = ({}, {})
        """What was left of both while the whole device is paused."""

    def suspend(self, now: int) -> None:
        """Answer nothing; timers stand still."""
        self._asleep = (_left(self.announce, now), _left(self.accept, now))
        self.clear()

    def resume(self, now: int) -> None:
        """Go on where :meth:`suspend` stopped: what was open is open for what was left."""
        announce, accept = self._asleep
        self._asleep = ({}, {})
        self.announce.update({vip: now + left for vip, left in announce.items()})
        self.accept.update({vip: now + left for vip, left in accept.items()})

    def acquire(self, vips: Sequence[str], until: int) -> None:
        for vip in vips:
            self.announce[vip] = until
            self.accept[vip] = until

    def refresh(self, vips: Sequence[str], now: int, until: int) -> bool:
        """Renew what still lives, as the marked datagram does; whether anything announced did."""
        renewed = False
        for vip in vips:
            if self.announce.get(vip, 0) > now:
                self.announce[vip] = until
                renewed = True
            if until > self.accept.get(vip, 0) > now:
                self.accept[vip] = until
        return renewed

    def release(self, vips: Sequence[str]) -> None:
        for vip in vips:
            self.announce.pop(vip, None)
            self.accept.pop(vip, None)

    def lame(self, vips: Sequence[str], now: int, until: int) -> None:
        """Stop announcing; go on accepting until ``until`` what is accepted now."""
        for vip in vips:
            self.announce.pop(vip, None)
            if self.accept.get(vip, 0) > now:
                self.accept[vip] = until

    def clear(self) -> None:
        self.announce.clear()
        self.accept.clear()

    def announces(self, vip: str, now: int) -> bool:
        return self.announce.get(vip, 0) > now

    def accepts(self, vip: str, now: int) -> bool:
        return self.accept.get(vip, 0) > now


def _left(ends: dict[str, int], now: int) -> dict[str, int]:
    return {vip: end - now for vip, end in ends.items() if end > now}


@dataclass(slots=True)
class Disk:
    """What is durable. Writes are atomic: old or new, never a mixture."""

    config: Config = field(default_factory=Config)
    former: Config = field(default_factory=Config)
    """The configuration before."""
    committed: Revision = NO_REVISION
    ballots: dict[GroupId, Ballot] = field(default_factory=dict)
    incarnation: int = 0
    local: Local | None = None
    """Break-glass edits."""
    torn: bool = False
    """The ballots could not be read at the last start, and none were written since."""
    lost: bool = False
    """The ballots could not be read at some start."""
    full: bool = False
    """Refuses every write."""
    fsync_ns: int = MILLISECOND // 2
    """Mean time of one durable write."""

    def write_ns(self, random: Random) -> int:
        return 50_000 + int(random.expovariate(1.0) * self.fsync_ns)


class Machine:
    """A host: what survives a killed agent, and what survives a power cut."""

    __slots__ = (
        "clock",
        "disk",
        "id",
        "index",
        "kernel",
        "pause_watch",
        "paused_at",
        "powered",
        "random",
        "speaks",
        "wall_error",
    )  # fmt: skip

    def __init__(self, index: int, device: DeviceId, random: Random) -> None:
        self.index = index
        self.id = device
        self.random = random
        self.clock = Clock(random.randrange(1, 10_000) * SECOND, random.randint(-1000, 1000))
        self.kernel = Kernel()
        self.disk = Disk()
        self.powered = True
        self.paused_at: int | None = None
        """Real time since which the whole device stands still, as a paused virtual machine."""
        chance = random.random()
        self.pause_watch = TICKS if chance < 0.4 else RTC if chance < 0.7 else None
        """How its agent finds out that the whole device was paused, if it can."""
        self.speaks: Range = OURS
        """Protocol versions of the release that is installed."""
        self.wall_error = random.randint(-500, 500) * MILLISECOND
        """Of its wall clock, against Unix time."""

    def unix_offset(self, now: int) -> int:
        """Nanoseconds from the own clock to what this device takes for Unix time."""
        return UNIX_S * SECOND + now + self.wall_error - self.clock.local(now)

    def pause(self, now: int) -> None:
        """Clock, kernel and process stop; nothing of it notices."""
        self.paused_at = now
        self.kernel.suspend(now)

    def resume(self, now: int) -> None:
        assert self.paused_at is not None
        self.clock.offset -= self.clock.local(now) - self.clock.local(self.paused_at)
        self.paused_at = None
        self.kernel.resume(now)

    def lease_end(self, now: int, duration: int) -> int:
        """Real time at which a kernel timer of ``duration`` set now fires at the latest."""
        local_end = self.clock.local(now) + duration
        return self.clock.real(local_end) + self.random.randrange(JIFFY_NS)

    def lose_power(self) -> None:
        self.kernel = Kernel()
        self.paused_at = None
        self.powered = False

    def boot(self, now: int) -> None:
        self.clock.restart(now, self.random.randrange(1, 30) * SECOND)
        self.powered = True
