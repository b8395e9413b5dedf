"""A bounded rate: what comes too fast is refused, and counted by the caller."""

from __future__ import annotations


class Rate:
    """A bucket that holds ``burst`` permits and refills at ``per_second``."""

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
