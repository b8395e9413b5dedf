"""The instrument for established connections: who survives, and how long each stalls.

``python -m halbctl.lab.established HOST COUNT [push]`` holds COUNT connections
open. With the echo server each sends 16 numbered bytes per 100 ms and checks
what comes back; with ``push`` only the gateway speaks. The stall of a
connection is its longest time without a message beyond that pace; it has
survived a window if it was never reset and a message came in the last second.
"""

from __future__ import annotations

import errno
import selectors
import socket
import sys
from dataclasses import dataclass, field

from halbctl.lab.instrument import MILLI, Instrument, run
from halbctl.lab.servers import ECHO, PUSH, PUSH_MESSAGE

PACE = 0.1
"""Seconds between two messages of a connection."""
ALIVE_WITHIN = 1.0
"""A survivor had a message within this many seconds before the end of the window."""
_GROUPS = 20
_SIZE = len(PUSH_MESSAGE)
_DIALLING_LIMIT = 5.0
_PENDING = {errno.EINPROGRESS, errno.EAGAIN}


@dataclass(eq=False)
class Connection:
    """One connection of the instrument."""

    sock: socket.socket
    opened: bool = False
    lost: str = ""
    """Why it is of no use any more; empty while it is."""
    sent: int = 0
    received: int = 0
    buffer: bytes = b""
    last: float = 0.0
    """When the newest message came."""
    worst: float = 0.0
    """Longest time between two messages in this window, seconds."""
    counted: bool = field(default=False)
    """Was open when the window began."""


class Established(Instrument):
    """Holds ``count`` connections to ``host`` open."""

    period = PACE / _GROUPS

    def __init__(self, host: str, count: int, push: bool) -> None:
        super().__init__()
        self._target = (host, PUSH if push else ECHO)
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._count, self._push = count, push
        self._connections: list[Connection] = []
        self._group = 0
        self._began = 0.0

    def tick(self, now: float) -> None:
        if self._push:
            return
        for connection in self._connections[self._group :: _GROUPS]:
            if connection.opened and not connection.lost:
                self._send(connection)
        self._group = (self._group + 1) % _GROUPS

    def _send(self, connection: Connection) -> None:
        try:
            connection.sock.send(connection.sent.to_bytes(_SIZE, "big"))
            connection.sent += 1
        except BlockingIOError:
            return  # its send buffer is full: it stalls, which is what is measured
        except OSError as error:
            self._lose(connection, errno.errorcode.get(error.errno or 0, "error"))

    def ready(self, data: object, events: int, now: float) -> None:
        assert isinstance(data, Connection)
        if data.lost:
            return  # given up earlier in the same round of events
        if not data.opened:
            failed = data.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failed:
                self._lose(data, errno.errorcode.get(failed, str(failed)))
                return
            data.opened = True
            self.selector.modify(data.sock, selectors.EVENT_READ, data)
            return
        try:
            chunk = data.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(data, errno.errorcode.get(error.errno or 0, "error"))
            return
        if chunk:
            self._receive(data, chunk, now)
        else:
            self._lose(data, "closed")

    def _receive(self, connection: Connection, chunk: bytes, now: float) -> None:
        buffer = connection.buffer + chunk
        whole = len(buffer) // _SIZE
        for index in range(whole):
            message = buffer[index * _SIZE : (index + 1) * _SIZE]
            wanted = PUSH_MESSAGE if self._push else connection.received.to_bytes(_SIZE, "big")
            if message != wanted:
                self._lose(connection, "corrupt")
                return
            connection.received += 1
        connection.buffer = buffer[whole * _SIZE :]
        if whole:
            if connection.last:
                connection.worst = max(connection.worst, now - connection.last)
            connection.last = now

    def _lose(self, connection: Connection, reason: str) -> None:
        connection.lost = reason
        self.selector.unregister(connection.sock)
        connection.sock.close()

    def renew(self, now: float) -> None:
        for connection in self._connections:
            if not connection.lost:
                self._lose(connection, "renewed")

    def begin(self, now: float) -> None:
        for connection in self._connections:
            if not connection.lost and now - connection.last > ALIVE_WITHIN:
                self._lose(connection, "silent")
        self._connections = [c for c in self._connections if not c.lost]
        while len(self._connections) < self._count:
            sock = socket.socket(self._family, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            failed = sock.connect_ex(self._target)
            connection = Connection(sock)
            self._connections.append(connection)
            if failed and failed not in _PENDING:
                connection.lost = errno.errorcode.get(failed, str(failed))
                sock.close()
            else:
                self.selector.register(sock, selectors.EVENT_WRITE, connection)
        self._began = now

    def begun(self, now: float) -> bool:
        """All connections speak, or five seconds have passed."""
        speaking = sum(1 for c in self._connections if c.received > 1 and not c.lost)
        if speaking < self._count and now - self._began < _DIALLING_LIMIT:
            return False
        for connection in self._connections:
            connection.counted = connection.received > 0 and not connection.lost
            connection.worst = 0.0
        return True

    def end(self, now: float) -> dict[str, object]:
        counted = [c for c in self._connections if c.counted]
        lost: dict[str, int] = {}
        for connection in counted:
            if connection.lost:
                lost[connection.lost] = lost.get(connection.lost, 0) + 1
        alive = [c for c in counted if not c.lost]
        survivors = [c for c in alive if now - c.last <= ALIVE_WITHIN]
        stalls = sorted(max(c.worst, now - c.last) for c in survivors)
        return {
            "connections": len(counted),
            "survivors": len(survivors),
            "silent": len(alive) - len(survivors),
            "lost": lost,
            "stall_ms": _beyond_pace(stalls[-1]) if stalls else None,
            "stall_median_ms": _beyond_pace(stalls[len(stalls) // 2]) if stalls else None,
        }


def _beyond_pace(seconds: float) -> float:
    return round(max(0.0, seconds - PACE) / MILLI, 1)


if __name__ == "__main__":
    run(Established(sys.argv[1], int(sys.argv[2]), sys.argv[3:] == ["push"]))
