"""The loop that every measuring instrument of the lab runs in, a process each.

An instrument measures all the time; its parent says on standard input which
part counts: ``begin`` starts a window (``renew`` does too, with connections
that are all new), ``end`` closes it, and each is answered by one line of JSON.
End of input ends the process. Times are CLOCK_MONOTONIC, which all namespaces
of a machine share.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import sys
import time
from abc import ABC, abstractmethod

MILLI = 1e-3
_COMMANDS = "commands"


class Instrument(ABC):
    """One way of measuring. ``period`` is the time between two ticks in seconds."""

    period: float

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()

    @abstractmethod
    def tick(self, now: float) -> None:
        """Do what is due each :attr:`period`."""

    @abstractmethod
    def ready(self, data: object, events: int, now: float) -> None:
        """A socket registered with ``data`` has ``events``."""

    @abstractmethod
    def begin(self, now: float) -> None:
        """Start a window."""

    def renew(self, now: float) -> None:  # noqa: B027 - most instruments keep nothing
        """Forget everything that was opened before."""

    @abstractmethod
    def begun(self, now: float) -> bool:
        """Everything is in place, the window may start to count."""

    def ending(self, now: float) -> None:  # noqa: B027 - most instruments have nothing to do
        """The window is to be closed."""

    def ended(self, now: float) -> bool:
        """Everything is in place for :meth:`end`."""
        return True

    @abstractmethod
    def end(self, now: float) -> dict[str, object]:
        """What was measured since :meth:`begin`."""


def run(instrument: Instrument) -> None:
    """Measure until standard input ends."""
    _be_punctual()
    selector = instrument.selector
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ, _COMMANDS)
    os.set_blocking(sys.stdin.fileno(), False)
    due = time.monotonic()
    waiting, closing, late = False, False, 0.0
    while True:
        for key, events in selector.select(max(0.0, due - time.monotonic())):
            now = time.monotonic()
            if key.data is not _COMMANDS:
                instrument.ready(key.data, events, now)
                continue
            command = os.read(sys.stdin.fileno(), 4096).decode().strip()
            if not command:
                return
            if command == "renew":
                instrument.renew(now)
            if command in ("begin", "renew"):
                instrument.begin(now)
                waiting = True
            else:
                instrument.ending(now)
                closing = True
        now = time.monotonic()
        if now >= due:
            late = max(late, now - due)
            instrument.tick(now)
            due = max(due + instrument.period, now - 10 * instrument.period)
        if waiting and instrument.begun(now):
            waiting, late = False, 0.0
            _answer({"at": now})
        if closing and instrument.ended(now):
            closing = False
            _answer({**instrument.end(now), "late_ms": round(late / MILLI, 1)})


def _answer(result: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def _be_punctual() -> None:
    """Keep the instrument's own lateness small; where not allowed, ``late_ms`` shows it."""
    gc.disable()
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
