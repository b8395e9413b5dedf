"""What each Python process of the soak runs first: agents read people's clock shifted.

A namespace has no ``CLOCK_REALTIME`` of its own. So the two functions by which an agent asks
for that clock add what the soak has written for its device; certificates are not looked at.
The product knows nothing of this: it is found because the soak puts its folder into PYTHONPATH.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time
from pathlib import Path

FOLDER = "HALB_SOAK_CLOCKS"
"""Environment: where a file for each device has nanoseconds to add."""


def _shift(file: Path) -> None:
    with file.open("rb") as opened:
        shift = mmap.mmap(opened.fileno(), 8, access=mmap.ACCESS_READ)
    true_ns = time.time_ns

    def time_ns() -> int:
        return true_ns() + int(struct.unpack_from("=q", shift)[0])

    def seconds() -> float:
        return time_ns() / 1e9

    time.time_ns, time.time = time_ns, seconds


_argv = sys.orig_argv
if FOLDER in os.environ and "agent" in _argv[:3] and "--name" in _argv:
    _shift(Path(os.environ[FOLDER]) / _argv[_argv.index("--name") + 1])
