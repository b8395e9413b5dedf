"""Clocks, one on each processor, that say when they came late.

``python tests/ticks.py`` prints a line for each tick that was late: when it came, on
the monotonic clock, and by how much, both in seconds. It ends with its standard input.
"""

from __future__ import annotations

import os
import sys
import threading
import time

TICK_S = 0.01
LATE_S = 0.02
"""A fifth of T at the profile ``normal``: agents that come later than this are ranked last."""


def _tick(processor: int) -> None:
    os.sched_setaffinity(0, {processor})
    while True:
        due = time.monotonic() + TICK_S
        time.sleep(TICK_S)
        now = time.monotonic()
        if now - due >= LATE_S:
            # One write for a line: the clocks share the file.
            os.write(sys.stdout.fileno(), f"{now} {now - due}\n".encode())


if __name__ == "__main__":
    for each in os.sched_getaffinity(0):
        threading.Thread(target=_tick, args=(each,), daemon=True).start()
    sys.stdin.read()
