"""What libzmq tells of a socket's connections beside their frames: whose end came, and how many.

It tells of them one by one and waits where nobody reads. So what is left is read before it is
asked to tell no more, which waits for what it has under way.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket as plain
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import zmq
from zmq.utils.monitor import recv_monitor_message

from agent.sockets import Socket

MOST = 256
"""Connections to the control socket at a time."""
READ_AT_ONCE = 16
"""Events that are read before the loop sees to others."""

_DONTWAIT = int(zmq.DONTWAIT)
_log = logging.getLogger(__name__)


class Handshakes:
    """Which of a socket's connections the other side ended instead of agreeing on keys.

    That is all that CURVE shows of a server which does not own the key that was asked
    for. To be made before the socket connects, and closed before it is.
    """

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._events = socket.told_of(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
        self._ended = 0

    def ended(self) -> int:
        """How many so far."""
        while self._events.poll(0):
            failure = recv_monitor_message(self._events, _DONTWAIT)["value"]
            # Another value is a handshake that took too long.
            self._ended += failure in (errno.EPIPE, errno.ECONNRESET)
        return self._ended

    def close(self) -> None:
        self._socket.untold()


@contextmanager
def _kept(descriptor: int) -> Iterator[plain.socket]:
    """The socket that has this descriptor now, whoever closes it; OSError if none has."""
    kept = os.dup(descriptor)
    try:
        connection = plain.socket(fileno=kept)
    except OSError:
        os.close(kept)
        raise
    with connection:
        yield connection


class Callers:
    """Those connected to a socket of this host: where there are many, the oldest makes room.

    Each takes a file descriptor for as long as its owner likes, and libzmq ends the process that
    has none left. What still wants something connects again by itself. To be made before the
    socket is bound, and closed before it is.
    """

    def __init__(self, socket: Socket, path: Path, most: int) -> None:
        self._socket, self._path, self._most = socket, path, most
        self._events = socket.told_of(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._inside: dict[int, None] = {}
        """Their descriptors, in the order in which they came."""
        self._loop = asyncio.get_running_loop()
        self._fd = int(self._events.getsockopt(zmq.FD))
        self._again: asyncio.Handle | None = None
        self._loop.add_reader(self._fd, self._look)
        self._look()

    def _look(self) -> None:
        self._again = None
        for _ in range(READ_AT_ONCE):
            if not self._events.poll(0):
                break
            self._read()
        else:
            self._again = self._loop.call_soon(self._look)
        if len(self._inside) > self._most:
            _log.warning("%s: more than %d connections: the oldest are ended",
                         self._path, self._most)  # fmt: skip
        while len(self._inside) > self._most:
            oldest = next(iter(self._inside))
            del self._inside[oldest]
            self._end(oldest)

    def _read(self) -> None:
        told = recv_monitor_message(self._events, _DONTWAIT)
        self._inside.pop(told["value"], None)
        if told["event"] == zmq.EVENT_ACCEPTED:
            self._inside[told["value"]] = None

    def _end(self, descriptor: int) -> None:
        """It may be gone, and its number another's: so what is ended is looked at, and kept."""
        with suppress(OSError), _kept(descriptor) as connection:
            if connection.getsockname() == str(self._path):
                connection.shutdown(plain.SHUT_RDWR)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        if self._again is not None:
            self._again.cancel()
        while self._events.poll(0):
            self._read()
        self._socket.untold()
        self._events.close(0)
