"""The instrument for established connections: who survives, and how long each stalls.

``python -m halbctl.lab.established HOST COUNT [echo|push|idle [CLIENT...]]`` holds
COUNT connections open. With ``echo`` each sends 16 numbered bytes per 100 ms and
checks what comes back; with ``push`` only the gateway speaks; with ``idle`` nobody
does until the window ends, and then each must still echo. CLIENTs are addresses of
this host to open them from, all with the same source ports. The stall of a
connection is its longest time without a message beyond that pace; it has
survived a window if it was never reset and a message came in the last second.
"""

from __future__ import annotations

import errno
import selectors
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from halbctl.lab.instrument import Instrument, run
from halbctl.lab.servers import ECHO, PUSH, PUSH_MESSAGE
from halbctl.lab.survival import ALIVE_WITHIN, PACE, Flow, outcome

_GROUPS = 20
_SIZE = len(PUSH_MESSAGE)
_DIALLING_LIMIT = 5.0
_WAKING_LIMIT = 4.0
"""Seconds that an idle connection may take to echo: a lost packet is sent anew within them."""
_FIRST_PORT = 20_000
"""Of source ports that are chosen: below those that the kernel chooses."""
_PENDING = {errno.EINPROGRESS, errno.EAGAIN}


@dataclass(eq=False, kw_only=True)
class Connection(Flow):
    """One connection of the instrument."""

    sock: socket.socket
    opened: bool = False
    sent: int = 0
    buffer: bytes = b""


class Established(Instrument):
    """Holds ``count`` connections to ``host`` open."""

    period = PACE / _GROUPS

    def __init__(
        self, host: str, count: int, mode: str = "echo", clients: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self._target = (host, PUSH if mode == "push" else ECHO)
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._count, self._push, self._idle = count, mode == "push", mode == "idle"
        self._clients, self._dialled = clients, 0
        self._connections: list[Connection] = []
        self._group = 0
        self._speaks = not self._push
        self._since = 0.0
        """When the window began, or its end."""

    def tick(self, now: float) -> None:
        if not self._speaks:
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
            connection.heard(now)
        connection.buffer = buffer[whole * _SIZE :]

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
            silent = now - connection.last > ALIVE_WITHIN and not self._idle
            if silent and not connection.lost:
                self._lose(connection, "silent")
        self._connections = [c for c in self._connections if not c.lost]
        while len(self._connections) < self._count:
            self._dial()
        self._since, self._speaks = now, not self._push

    def _dial(self) -> None:
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._clients:
            turn, which = divmod(self._dialled, len(self._clients))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self._clients[which], _FIRST_PORT + turn))
            self._dialled += 1
        failed = sock.connect_ex(self._target)
        connection = Connection(sock=sock)
        self._connections.append(connection)
        if failed and failed not in _PENDING:
            connection.lost = errno.errorcode.get(failed, str(failed))
            sock.close()
        else:
            self.selector.register(sock, selectors.EVENT_WRITE, connection)

    def begun(self, now: float) -> bool:
        """All connections speak, or five seconds have passed."""
        if now - self._since < _DIALLING_LIMIT and self._heard(2) < self._count:
            return False
        for connection in self._connections:
            connection.count(self._since)
        self._speaks = not (self._push or self._idle)
        return True

    def _heard(self, messages: int) -> int:
        """Connections that had so many messages at all, one of them lately."""
        return sum(
            1
            for c in self._connections
            if c.received >= messages and c.last >= self._since and not c.lost
        )

    def ending(self, now: float) -> None:
        if self._idle:
            self._since, self._speaks = now, True

    def ended(self, now: float) -> bool:
        """What was idle has echoed, or is given up."""
        alive = sum(1 for c in self._connections if not c.lost)
        return not self._idle or now - self._since > _WAKING_LIMIT or self._heard(1) == alive

    def end(self, now: float) -> dict[str, object]:
        self._speaks = not (self._push or self._idle)
        return outcome(self._connections, now, paced=not self._idle)


if __name__ == "__main__":
    _host, _count, _mode, *_clients = [*sys.argv[1:], *(["echo"] if len(sys.argv) == 3 else [])]
    run(Established(_host, int(_count), _mode, _clients))
