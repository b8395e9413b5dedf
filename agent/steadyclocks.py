"""Clocks of a virtual machine that go on while it is paused; none on other machines."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

from agent.clock import boottime
from agent.pause import (
    RTC_EVERY_NS,
    RTC_MARGIN_NS,
    TSC_MARGIN_NS,
    Battery,
    Clock,
    Comparison,
    PauseWatch,
    Reading,
    Ticks,
)
from protocol.timing import MILLISECOND, SECOND

CPUINFO = Path("/proc/cpuinfo")
RTC = Path("/sys/class/rtc/rtc0/since_epoch")
"""Needs no device, and no capability."""
READ_TSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")
"""rdtsc; shl rdx, 32; or rax, rdx; ret"""
UNDISTURBED_NS = 1 * MILLISECOND
"""A reading that took longer says nothing: this process waited in the middle of it."""


def pause_watch() -> PauseWatch:
    """A watch by all such clocks that this machine has."""
    flags = _processor_flags()
    if "hypervisor" not in flags:
        return PauseWatch(())
    clocks = []
    if {"constant_tsc", "nonstop_tsc"} <= flags and (tsc := tsc_reader()) is not None:
        comparison = Comparison(TSC_MARGIN_NS)
        clocks.append(Clock("the time stamp counter", undisturbed(tsc), comparison, Ticks()))
    if (rtc := rtc_reader(RTC)) is not None:
        clocks.append(Clock("the RTC", rtc, Comparison(RTC_MARGIN_NS), every=RTC_EVERY_NS))
    return PauseWatch(clocks)


def _processor_flags() -> frozenset[str]:
    try:
        text = CPUINFO.read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    lines = (line.partition(":") for line in text.splitlines())
    return next(
        (frozenset(v.split()) for key, _, v in lines if key.strip() == "flags"), frozenset()
    )


def rtc_reader(path: Path) -> Callable[[], Reading | None] | None:
    """Reads the RTC; None where there is none that can be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None

    battery = Battery()

    def read() -> Reading | None:
        try:
            own, shown = boottime(), int(os.pread(fd, 32, 0)) * SECOND
        except (OSError, ValueError):
            return None
        return own, battery.shown(own, shown, time.time_ns())

    return None if read() is None else read


def tsc_reader() -> Callable[[], int] | None:
    """Reads the time stamp counter; None where that cannot be done.

    Python has no such instruction. Its four are mapped from memory that is
    never writable and executable at once, which hardened units forbid.
    """
    if platform.machine() != "x86_64":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    )  # fmt: skip
    try:
        fd = os.memfd_create("halb-tsc", os.MFD_CLOEXEC)
    except OSError:
        return None
    try:
        os.write(fd, READ_TSC)
        access = mmap.PROT_READ | mmap.PROT_EXEC
        address = libc.mmap(None, mmap.PAGESIZE, access, mmap.MAP_PRIVATE, fd, 0)
    finally:
        os.close(fd)
    if address is None or address == ctypes.c_void_p(-1).value:
        return None
    return ctypes.PYFUNCTYPE(ctypes.c_uint64)(address)


def undisturbed(read: Callable[[], int]) -> Callable[[], Reading | None]:
    """``read`` with the time of reading, unless this process was held up meanwhile."""

    def attempt() -> Reading | None:
        before = boottime()
        value = read()
        return (before, value) if boottime() - before < UNDISTURBED_NS else None

    return attempt
