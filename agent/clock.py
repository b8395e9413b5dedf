"""The two clocks of the agent: one for the protocol, one for people."""

from __future__ import annotations

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
