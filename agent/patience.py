"""Answers to one question handled in one wake-up, not one each.

A beat goes to all peers at once, and their acks come within a millisecond or so of
each other. Waking up for each costs more than all else that an agent at rest does;
so after a beat the loop, once the first answer has come, waits a moment for the
others. Network cards do the same with their interrupts.
"""

from __future__ import annotations

import asyncio
import time
from selectors import EpollSelector, SelectorKey

ANSWERS_S = 0.001
"""Seconds from the first answer to the look at all: far less than 0.2 T, which is late."""
ASKED_S = 0.02
"""Seconds after a question within which what comes is taken for the first answer."""


class _PatientSelector(EpollSelector):
    asked = float("-inf")

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        found = super().select(timeout)
        # Nothing found: a timer is due. No timeout: something else waits to be done.
        if found and timeout != 0 and time.monotonic() < self.asked + ASKED_S:
            self.asked = float("-inf")
            time.sleep(ANSWERS_S)
            return super().select(0)
        return found


class PatientLoop(asyncio.SelectorEventLoop):
    """An event loop that can wait for several answers."""

    def __init__(self) -> None:
        self._patient = _PatientSelector()
        super().__init__(self._patient)

    def asked(self) -> None:
        """A question went out: the first answer waits for the others, once."""
        self._patient.asked = time.monotonic()
