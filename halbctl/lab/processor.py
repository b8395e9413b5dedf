"""Processor time of a lab's processes, as the scheduler counts it.

What the kernel does for a packet between two hosts is done in the name of whoever sent
it, mostly; the rest by the kernel's own threads for that. All of it together is
what a lab costs, however many others use the machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path


def seconds_of(pid: int) -> float:
    """All threads of a process so far; 0 for one that is gone."""
    took = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):
            took += int(thread.read_text().split()[0])
    return took / 1e9


def seconds(pids: Iterable[int]) -> float:
    """Several processes together."""
    return sum(map(seconds_of, pids))


def shares(pids: Mapping[str, int], over: float) -> dict[str, float]:
    """Per cent of a core that each process takes in the next ``over`` seconds."""
    before = {name: seconds_of(pid) for name, pid in pids.items()}
    began = time.monotonic()
    time.sleep(over)
    passed = time.monotonic() - began
    return {name: (seconds_of(pid) - before[name]) / passed * 100 for name, pid in pids.items()}


def kernel_threads() -> list[int]:
    """The kernel's threads that handle packets that wait."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "comm").read_text().startswith("ksoftirqd/"):
                found.append(int(entry.name))
    return found
