"""The two clocks of the agent: one for the protocol, one for people.

People's may be set, backward and forward, at any moment. What people want to happen at a time of
theirs is looked up once, and then waits by the clock that nobody sets.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Hashable


def boottime() -> int:
    """Nanoseconds since boot, suspend included: never set, never decreasing."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def unix_ms() -> int:
    """Wall clock in milliseconds; may jump, so it decides nothing in the protocol."""
    return time.time_ns() // 1_000_000


def unix_offset() -> int:
    """Nanoseconds from :func:`boottime` to Unix time, as of now."""
    return time.time_ns() - boottime()


MAX_DEADLINES = 100_000
"""More than one device can be told of; the oldest are looked up again."""


class Deadlines:
    """Moments of Unix time as they were when they were first asked for."""

    def __init__(
        self,
        unix_s: Callable[[], float] = time.time,
        own_s: Callable[[], float] = lambda: boottime() / 1e9,
    ) -> None:
        self._unix_s = unix_s
        self.now = own_s
        """Seconds of the clock that they wait by."""
        self._at: dict[Hashable, float] = {}

    def left(self, key: Hashable, until: float, most: float) -> float:
        """Seconds until Unix time ``until``, which ``key`` stands for.

        What is over already, or as much as ``most`` ahead, may be so by a clock that is wrong, and
        is looked up again.
        """
        known = self._at.get(key)
        if known is not None:
            return known - self.now()
        left = until - self._unix_s()
        if 0 < left < most:
            if len(self._at) >= MAX_DEADLINES:
                del self._at[next(iter(self._at))]
            self._at[key] = self.now() + left
        return left


def until_round(seconds: float) -> float:
    """Seconds from now to the next multiple of ``seconds`` of the loop's clock.

    What is done now and then is so done in the same wake-ups, those of beats among
    them: at rest most of the agent's cost is waking up.
    """
    now = asyncio.get_running_loop().time()
    return math.floor(now / seconds + 1) * seconds - now


async def next_round(seconds: float) -> None:
    """Sleep until then."""
    await asyncio.sleep(until_round(seconds))


LONGEST_REST_S = 10.0
"""What took very long has rather waited for something else, such as a busy host."""


async def rest(took: float, share: float, period: float) -> None:
    """Sleep beyond ``period`` if what is done once in it, and took so many seconds just now,
    would take more than a ``share`` of the time; for :data:`LONGEST_REST_S` at most."""
    await asyncio.sleep(min(max(0.0, took / share - period), LONGEST_REST_S))
