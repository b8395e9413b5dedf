"""A child process that is started without holding up the threads of this one.

Python's own ways hold its lock until the child runs its program, which on a busy host was
measured to take 0.4 s: longer than a lease lives. The C library's ``posix_spawn``, called as any
foreign function, lets the other threads go on.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import shutil
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

_ROOM = 512
"""Bytes for a ``posix_spawn_file_actions_t``, or the attributes, or a ``sigset_t``: several times
what C libraries need."""
_DEFAULT_SIGNALS, _SCHEDULER, _OWN_SESSION = 0x04, 0x20, 0x80
"""Flags of the attributes (spawn.h)."""
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_libc = ctypes.CDLL(None)
_CLOSE_FROM = getattr(_libc, "posix_spawn_file_actions_addclosefrom_np", None)
"""Closes what libraries left open for children; glibc has it since 2.34."""


_TIED = ("setpriv", "--pdeathsig", "KILL", "--")
"""What follows is killed when the thread that started it ends, however it does. Of util-linux;
``posix_spawn`` has no word for it."""


class TooSlow(Exception):
    """The child did not end in time, and was killed."""


def run(
    argv: Sequence[str], given: BinaryIO, printed: BinaryIO, said: BinaryIO, timeout: float
) -> int:
    """Run a program of the path on these files, and wait in this thread; its exit status.

    It has this thread's scheduling policy and priority, whether others inherit them or not.
    It does not outlive this process, where the host has ``setpriv``: what it would do late
    would undo what the next life of this one has done by then.
    A signal that ended it counts below zero. Raises OSError where it cannot be started,
    :class:`TooSlow` after ``timeout`` seconds.
    """
    if shutil.which(argv[0]) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
    tied = _TIED if shutil.which(_TIED[0]) else ()
    files = (given.fileno(), printed.fileno(), said.fileno())
    policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
    priority = ctypes.c_int(os.sched_getparam(0).sched_priority)
    with _made("_file_actions") as actions, _made("attr") as attributes:
        _demand_files(files, actions)
        _demand(_libc.posix_spawnattr_setschedpolicy(attributes, policy))
        _demand(_libc.posix_spawnattr_setschedparam(attributes, ctypes.byref(priority)))
        _demand(_libc.posix_spawnattr_setflags(attributes, ctypes.c_short(_SCHEDULER)))
        pid = _spawn((*tied, *argv), os.environb, actions, attributes)
    in_time = False
    try:
        in_time = _ends_within(pid, timeout)
    finally:
        if not in_time:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if not in_time:
        raise TooSlow
    return os.waitstatus_to_exitcode(status)


def _ends_within(pid: int, timeout: float) -> bool:
    ended = os.pidfd_open(pid)
    try:
        waiting = select.poll()
        waiting.register(ended, select.POLLIN)
        return bool(waiting.poll(timeout * 1000))
    finally:
        os.close(ended)


def start(argv: Sequence[str], files: Sequence[int], environment: Mapping[str, str]) -> int:
    """Start a program that is given nothing of this process but ``files``; its process id.

    These are its first descriptors. It has a session of its own, the root as its directory,
    and ignores no signal. To be called in a worker, which waits until the program runs.
    Raises OSError where it cannot be started.
    """
    told = {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
    signals = ctypes.create_string_buffer(_ROOM)
    _libc.sigemptyset(signals)
    for number in _IGNORED_BY_PYTHON:
        _libc.sigaddset(signals, int(number))
    flags = ctypes.c_short(_DEFAULT_SIGNALS | _OWN_SESSION)
    with _made("_file_actions") as actions, _made("attr") as attributes:
        _demand_files(files, actions)
        if _CLOSE_FROM is not None:
            _demand(_CLOSE_FROM(actions, len(files)))
        _demand(_libc.posix_spawn_file_actions_addchdir_np(actions, b"/"))
        _demand(_libc.posix_spawnattr_setsigdefault(attributes, signals))
        _demand(_libc.posix_spawnattr_setflags(attributes, flags))
        return _spawn(argv, told, actions, attributes)


@contextmanager
def _made(kind: str) -> Iterator[Any]:
    """What ``posix_spawn`` is to do first, or with which attributes; empty."""
    made = ctypes.create_string_buffer(_ROOM)
    _demand(getattr(_libc, f"posix_spawn{kind}_init")(made))
    try:
        yield made
    finally:
        getattr(_libc, f"posix_spawn{kind}_destroy")(made)


def _demand_files(files: Sequence[int], actions: Any) -> None:
    for number, file in enumerate(files):
        _demand(_libc.posix_spawn_file_actions_adddup2(actions, file, number))


def _spawn(
    argv: Sequence[str], environment: Mapping[bytes, bytes], actions: Any, attributes: Any
) -> int:
    """Process id of the program."""
    pid = ctypes.c_int()
    arguments = _strings(os.fsencode(each) for each in argv)
    told = _strings(b"%b=%b" % pair for pair in environment.items())
    code = _libc.posix_spawnp(ctypes.byref(pid), arguments[0], actions, attributes, arguments, told)
    _demand(code, argv[0])
    return pid.value


def _strings(some: Iterable[bytes]) -> Any:
    """A list of strings as C has it."""
    texts = [*some, None]
    return (ctypes.c_char_p * len(texts))(*texts)


def _demand(code: int, program: str | None = None) -> None:
    if code:
        raise OSError(code, os.strerror(code), program)
