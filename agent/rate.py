"""Bounds on how much is done: so many times a second, or a share of a processor."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class Rate:
    """What comes too fast is refused, and counted by the caller.

    A bucket that holds ``burst`` permits and refills at ``per_second``.
    """

    __slots__ = ("_burst", "_filled", "_left", "_per_second")

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._left = burst
        self._filled = 0.0

    def admit(self, now: float) -> bool:
        """Take one permit at ``now``, seconds that never decrease; False if there is none."""
        left = min(self._burst, self._left + (now - self._filled) * self._per_second)
        self._filled = now
        self._left = left - 1 if left >= 1 else left
        return left >= 1

    def charge(self, permits: float) -> None:
        """What was admitted turned out to be worth so many permits more."""
        self._left = max(0.0, self._left - permits)


class Share:
    """Work of one thread that may take a share of a processor: after it, when there may be more."""

    def __init__(self, share: float, clock: Callable[[], float]) -> None:
        """``clock`` gives seconds that never decrease."""
        self._share = share
        self._clock = clock
        self.free_at = 0.0
        """From then on, by the clock."""

    def count(self, job: Callable[[], Result]) -> Result:
        """Do ``job`` in this thread, and count what it takes of a processor."""
        began = time.thread_time()
        try:
            return job()
        finally:
            took = time.thread_time() - began
            self.free_at = max(self.free_at, self._clock()) + took / self._share

    def rest(self, seconds: float) -> None:
        """No more work within ``seconds`` from now."""
        self.free_at = max(self.free_at, self._clock() + seconds)
