"""The two clocks of the agent: one for the protocol, one for people."""

from __future__ import annotations

import asyncio
import math
import time


def boottime() -> int:
    """Nanoseconds since boot, suspend included: never set, never decreasing."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def unix_ms() -> int:
    """Wall clock in milliseconds; may jump, so it decides nothing in the protocol."""
    return time.time_ns() // 1_000_000


def unix_offset() -> int:
    """Nanoseconds from :func:`boottime` to Unix time, as of now."""
    return time.time_ns() - boottime()


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
