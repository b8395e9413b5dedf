"""The instrument for new connections: how long nobody new is served.

``python -m halbctl.lab.newcomers HOST`` opens a connection each 5 ms, reads the
gateway's name and closes; after 200 ms without it the attempt has failed. The
outage is the longest time without a success.
"""

from __future__ import annotations

import errno
import selectors
import socket
import struct
import sys
from collections import Counter, deque
from dataclasses import dataclass

from halbctl.lab.instrument import MILLI, Instrument, run
from halbctl.lab.servers import BANNER

TIMEOUT = 0.2
"""Seconds after which an attempt has failed."""
NOTABLE = 0.05
"""Seconds without a success that count towards the sum of all outages."""
_ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER: close with a reset, so that 200 connections per second leave no state behind."""


@dataclass(eq=False)
class Attempt:
    """One connection attempt."""

    sock: socket.socket
    started: float
    connected: bool = False
    over: bool = False


class Newcomers(Instrument):
    """Opens a connection to ``host`` each :attr:`period`."""

    period = 0.005

    def __init__(self, host: str) -> None:
        super().__init__()
        self._target = (host, BANNER)
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._open: deque[Attempt] = deque()
        self._reset(0.0)

    def _reset(self, now: float) -> None:
        self._last_success = now
        self._longest = 0.0
        self._sum = 0.0
        self._failures: Counter[str] = Counter()
        self._gateways: Counter[str] = Counter()
        self._first = False

    def tick(self, now: float) -> None:
        while self._open and (self._open[0].over or now - self._open[0].started > TIMEOUT):
            attempt = self._open.popleft()
            if not attempt.over:
                self._finish(attempt, "timeout")
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        failed = sock.connect_ex(self._target)
        attempt = Attempt(sock, now)
        if failed in (0, errno.EINPROGRESS):
            self.selector.register(sock, selectors.EVENT_WRITE, attempt)
            self._open.append(attempt)
        else:
            sock.close()
            self._failures[errno.errorcode.get(failed, str(failed))] += 1

    def ready(self, data: object, events: int, now: float) -> None:
        assert isinstance(data, Attempt)
        if data.over:
            return  # given up earlier in the same round of events
        if not data.connected:
            failed = data.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failed:
                self._finish(data, errno.errorcode.get(failed, str(failed)))
            else:
                data.connected = True
                self.selector.modify(data.sock, selectors.EVENT_READ, data)
            return
        try:
            name = data.sock.recv(64)
        except BlockingIOError:
            return
        except OSError as error:
            self._finish(data, errno.errorcode.get(error.errno or 0, "error"))
            return
        if not name:
            self._finish(data, "closed")
            return
        self._gateways[name.decode(errors="replace").strip()] += 1
        self._finish(data, "")
        self._gap(now)
        self._last_success = now
        self._first = True

    def _gap(self, now: float) -> None:
        gap = now - self._last_success
        self._longest = max(self._longest, gap)
        if gap > NOTABLE:
            self._sum += gap

    def _finish(self, attempt: Attempt, reason: str) -> None:
        attempt.over = True
        self.selector.unregister(attempt.sock)
        attempt.sock.close()
        if reason:
            self._failures[reason] += 1

    def begin(self, now: float) -> None:
        self._reset(now)
        self._began = now

    def begun(self, now: float) -> bool:
        """The service answers, or five seconds have passed."""
        if not self._first and now - self._began < 5.0:
            return False
        self._reset(now)
        return True

    def end(self, now: float) -> dict[str, object]:
        self._gap(now)
        return {
            "served": self._gateways.total(),
            "failed": dict(self._failures),
            "outage_ms": round(self._longest / MILLI, 1),
            "outages_sum_ms": round(self._sum / MILLI, 1),
            "gateways": dict(sorted(self._gateways.items())),
        }


if __name__ == "__main__":
    run(Newcomers(sys.argv[1]))
