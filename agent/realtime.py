"""Being on time on a busy host: real-time priority, locked memory, no surprise of the collector.

None of it is required: each part that the host does not allow is reported,
and the agent runs without it. What it is good for was measured: with eight
busy processes beside it on two cores, the agent's wake-ups were 21 ms late
(p99) without real-time priority and 1 ms with it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from agent import capability

PRIORITY = 10
"""Of SCHED_RR, 1 to 99: above ordinary processes, below the kernel's own threads."""

FULL_COLLECTION = 100
"""So many of Python's collections of young objects between two of all; its own is 10."""

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_TRANSPORT_THREAD = "ZMQbg"
"""How libzmq names the threads that carry every message of ours."""
_WHOLE_RANGE = ["0", "0", "4294967295"]
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Realtime:
    """What was asked of the host and what came of it, in phrases for people."""

    got: tuple[str, ...]
    missing: tuple[str, ...]


def enter(*, priority: int = PRIORITY) -> Realtime:
    """Ask for all of it; call once everything is started. Never fails."""
    settle_memory()
    refusals = {
        f"real-time priority (SCHED_RR {priority})": raise_priority(priority),
        "memory locked": lock_memory(),
    }
    return Realtime(
        got=tuple(what for what, reason in refusals.items() if not reason),
        missing=tuple(f"{what}: {reason}" for what, reason in refusals.items() if reason),
    )


def on_time() -> bool:
    """Whether the heartbeat has real-time priority; may be asked in any thread."""
    policy = os.sched_getscheduler(os.getpid()) & ~os.SCHED_RESET_ON_FORK
    return policy in (os.SCHED_RR, os.SCHED_FIFO)


def settle_memory() -> None:
    """Collect once, then never look at what exists now again, and seldom at all of what follows.

    A look at all of it holds every thread up, with 10,000 gateways for 35 ms; Python itself takes
    one each second there, for what each second counts anew, and finds next to nothing.
    """
    gc.collect()
    gc.freeze()
    youngest, young, _ = gc.get_threshold()
    gc.set_threshold(youngest, young, FULL_COLLECTION)


def keep_memory() -> None:
    """Never look again at what exists now, such as a configuration that has come into force.

    What was kept before and nobody needs any more goes first, or it would stay for ever: a check
    that was under way and failed, with its connection. That is a look at all of it: for rare use.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def raise_priority(priority: int = PRIORITY) -> str:
    """Run this thread and libzmq's by SCHED_RR; the reason where it cannot be, else empty.

    Threads and processes that start later begin as ordinary ones: the worker
    that loads rulesets must not compete with the heartbeat.
    """
    policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
    try:
        for thread in (0, *_transport_threads()):
            os.sched_setscheduler(thread, policy, os.sched_param(priority))
    except PermissionError:
        return f"not allowed; {priority_remedy()}"
    except OSError as error:
        return f"refused: {error.strerror}"
    return ""


def priority_remedy() -> str:
    """What lets this process have real-time priority where the host refuses it."""
    if _holds("CAP_SYS_NICE"):
        # Kernels with CONFIG_RT_GROUP_SCHED, which give a new control group no share of it.
        return (
            "give its control group a share of real time: cpu.rt_runtime_us, "
            "--cpu-rt-runtime with containers"
        )
    return "grant CAP_SYS_NICE, or LimitRTPRIO=10 in the unit"


@contextmanager
def ahead() -> Iterator[None]:
    """Run this thread before all ordinary ones, while it holds what the heartbeat may wait for.

    Else a busy host holds that up for as long as it likes: a transaction of 30 ms was measured
    to take 0.6 s. It keeps to one processor meanwhile, and the heartbeat goes on elsewhere. For
    moments only; the heartbeat, in the main thread, still comes first. Does nothing for a thread
    that has a priority, and where the heartbeat has none.
    """
    raised = stay_ahead()
    try:
        with _in_place() if raised else nullcontext():
            yield
    finally:
        if raised:
            # Who may raise itself may not always take back that children are not raised.
            os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))


@contextmanager
def _in_place() -> Iterator[None]:
    """Keep this thread, and children that it starts, on the processor that it is on.

    Many kernels do not let go of a processor within a transaction, for 2 s with 1000 Virtual
    Servers of a hundred gateways, and who was there last waits to go on there. Not so a thread
    with a real-time priority, if who holds it up has one and may be on no other processor
    (``select_task_rq_rt`` of Linux): then it goes on elsewhere.
    """
    former = os.sched_getaffinity(0)
    with suppress(OSError):  # that processor may have gone, or a sandbox forbid it
        os.sched_setaffinity(0, {_libc.sched_getcpu()})
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, former)


def stay_ahead() -> bool:
    """As :func:`ahead`, for good: for a thread that the heartbeat waits for, and that does little.

    Whether this thread, an ordinary one, has got the priority next to the heartbeat's.
    """
    heartbeat = os.getpid()
    if _ordinary(heartbeat) or not _ordinary(0):
        return False
    beside = max(1, os.sched_getparam(heartbeat).sched_priority - 1)
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(beside))
    except PermissionError:
        return False  # somebody else gave the heartbeat its own
    return True


def _ordinary(thread: int) -> bool:
    return os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER


def _transport_threads() -> list[int]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            name = (task / "comm").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
        if name.startswith(_TRANSPORT_THREAD):
            found.append(int(task.name))
    return found


def lock_memory() -> str:
    """Keep in memory each page from its first use on; the reason where it cannot be, else empty.

    Pages that were never used stay unmapped, so that idle thread stacks cost nothing.
    """
    if not may_lock_everything():
        return "not allowed; grant CAP_IPC_LOCK, or LimitMEMLOCK=infinity in the unit"
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0:
        return ""
    return f"refused: {os.strerror(ctypes.get_errno())}"


def may_lock_everything() -> bool:
    """Whether no limit applies to locked memory.

    With a limit, locking could succeed now and make a later allocation fail,
    which would end the agent. CAP_IPC_LOCK lifts the limit only where it is
    held in the first user namespace.
    """
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        return True
    return _holds("CAP_IPC_LOCK")


def _holds(name: str) -> bool:
    """Whether a capability is in effect on the host itself, not in a user namespace only."""
    whole = Path("/proc/self/uid_map").read_text().split() == _WHOLE_RANGE
    return whole and capability.holds(name)
