"""A child process that is started without holding up the threads of this one.

Python's own ways hold its lock until the child runs its program, which on a busy host was
measured to take 0.4 s: longer than a lease lives. The C library's ``posix_spawn``, called as any
foreign function, lets the other threads go on.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

_ROOM = 512
"""Bytes for a ``posix_spawn_file_actions_t``: several times what C libraries need."""
_libc = ctypes.CDLL(None)


class TooSlow(Exception):
    """The child did not end in time, and was killed."""


def run(
    argv: Sequence[str], given: BinaryIO, printed: BinaryIO, said: BinaryIO, timeout: float
) -> int:
    """Run a program of the path on these files, and wait in this thread; its exit status.

    A signal that ended it counts below zero. Raises OSError where it cannot be started,
    :class:`TooSlow` after ``timeout`` seconds.
    """
    pid = _spawn(argv, (given.fileno(), printed.fileno(), said.fileno()))
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


def _spawn(argv: Sequence[str], files: Sequence[int]) -> int:
    """Process id of the program, with ``files`` as its first descriptors."""
    actions = ctypes.create_string_buffer(_ROOM)
    pid = ctypes.c_int()
    arguments = _strings(os.fsencode(each) for each in argv)
    environment = _strings(b"%b=%b" % pair for pair in os.environb.items())
    _demand(_libc.posix_spawn_file_actions_init(actions), argv[0])
    try:
        for number, file in enumerate(files):
            _demand(_libc.posix_spawn_file_actions_adddup2(actions, file, number), argv[0])
        _demand(
            _libc.posix_spawnp(
                ctypes.byref(pid), arguments[0], actions, None, arguments, environment
            ),
            argv[0],
        )
    finally:
        _libc.posix_spawn_file_actions_destroy(actions)
    return pid.value


def _strings(some: Iterable[bytes]) -> Any:
    """A list of strings as C has it."""
    texts = [*some, None]
    return (ctypes.c_char_p * len(texts))(*texts)


def _demand(code: int, program: str) -> None:
    if code:
        raise OSError(code, os.strerror(code), program)
