"""Answers to one question handled in one wake-up, not one each.

A beat goes to all peers at once, and their acks come within a millisecond or so of
each other. Waking up for each costs more than all else that an agent at rest does.
So after a beat the loop sleeps at once for as long as the answers to the last ones
took; where that is not known, or too long, the first answer waits a moment for the
others. Network cards do the same with their interrupts.
"""

from __future__ import annotations

import asyncio
import time
from selectors import EpollSelector, SelectorKey

ANSWERS_S = 0.001
"""Seconds from the first answer to the look at all: far less than 0.2 T, which is late."""
ASKED_S = 0.02
"""Seconds after a question within which what comes is taken for an answer."""
USUAL_S = 0.005
"""Answers that take longer are waited for as anything else is."""
IMPATIENCE = 0.99
"""The next sleep is shorter by so much, until it is too short for an answer."""


class PatientSelector(EpollSelector):
    """Waits for what comes; after a question, for all answers."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = float("-inf")
        self._slept = True
        self._usual = float("inf")
        """Seconds from a question to its last answer, by what was seen lately."""

    def asked(self) -> None:
        """A question went out just now."""
        self._asked = time.monotonic()
        self._slept = False

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        if timeout == 0:  # something else waits to be done
            return super().select(0)
        room = USUAL_S if timeout is None else min(USUAL_S, timeout)
        if not self._slept and self._usual < room:
            self._slept = True
            time.sleep(self._usual)
            self._usual *= IMPATIENCE
            if found := super().select(0):
                return found
        found = super().select(timeout)
        # Nothing found: a timer is due.
        if found and time.monotonic() < self._asked + ASKED_S:
            time.sleep(ANSWERS_S)
            self._usual = time.monotonic() - self._asked
            self._asked = float("-inf")
            return super().select(0)
        return found


class PatientLoop(asyncio.SelectorEventLoop):
    """An event loop that can wait for several answers."""

    def __init__(self) -> None:
        self._patient = PatientSelector()
        super().__init__(self._patient)

    def asked(self) -> None:
        """A question went out: what comes soon is answers, to be waited for together."""
        self._patient.asked()
