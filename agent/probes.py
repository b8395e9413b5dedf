"""One check of one gateway: is it there, and if not, why.

A probe is started by a function of the form of :data:`Start` and ends with
exactly one call of ``done``, unless it is cancelled first. It waits for
nothing itself: the event loop tells it when the socket has an answer.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from protocol.objects import Check

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER on with 0 s: close by a reset, which leaves no TIME_WAIT behind."""

OUR_OWN_FAULT = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN}
)
"""Errors that say something about this host and nothing about the gateway."""

_NOT_HEARD = frozenset({errno.EPERM, errno.ETIMEDOUT})
"""Errors after which the gateway has said nothing."""

WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "host unreachable (no ARP or ND answer, or a router says so)",
    errno.ENETUNREACH: "network unreachable (this host has no route to it)",
    errno.ECONNRESET: "connection reset",
    errno.ETIMEDOUT: "no answer",
    errno.EPERM: "not sent (a firewall on this device refused it)",
}


class Verdict(Enum):
    """What a check says about the gateway."""

    GOOD = "good"
    BAD = "bad"
    UNCLEAR = "unclear"
    """The check itself could not be made: says nothing about the gateway."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a probe."""

    verdict: Verdict
    reason: str = ""
    """Why not good, for people."""
    silent: bool = False
    """Nothing was heard: that a single frame was lost may be the reason."""


GOOD = Answer(Verdict.GOOD)

Done = Callable[[Answer], None]
Cancel = Callable[[], None]
Start = Callable[[asyncio.AbstractEventLoop, str, int, Check, Done], Cancel]
"""(loop, address, port, check, done) -> cancel. ``done`` is never called from within."""


class TcpProbe:
    """Opens a TCP connection and resets it: good if the gateway accepts within the timeout.

    With delayed acknowledgement the reset is the first thing that the gateway
    hears after its SYN-ACK, so its application is not woken (as HAProxy does it).
    """

    __slots__ = ("done", "loop", "sock", "timeout", "timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, address: str, port: int, check: Check, done: Done
    ) -> None:
        self.loop = loop
        self.done = done
        self.timeout = check.timeout
        self.sock: socket.socket | None = None
        try:
            self.sock = self._open(ipaddress.ip_address(address).version)
            code = self.sock.connect_ex((address, port))
        except OSError as error:
            code = error.errno or errno.EIO
        if code == errno.EINPROGRESS and self.sock is not None:
            loop.add_writer(self.sock.fileno(), self._answered)
            self.timer: asyncio.Handle = loop.call_later(check.timeout, self._silent)
        else:
            # Later, so that the caller holds the probe before it ends.
            self.timer = loop.call_soon(self._end, answer_for(code))

    @staticmethod
    def _open(version: int) -> socket.socket:
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        return sock

    def _answered(self) -> None:
        assert self.sock is not None
        self._end(answer_for(self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))

    def _silent(self) -> None:
        self._end(Answer(Verdict.BAD, f"no answer in {self.timeout:g} s", silent=True))

    def _end(self, answer: Answer) -> None:
        self.cancel()
        self.done(answer)

    def cancel(self) -> None:
        """Stop without an answer; harmless after the end."""
        self.timer.cancel()
        if self.sock is not None:
            self.loop.remove_writer(self.sock.fileno())
            self.sock.close()
            self.sock = None


def answer_for(code: int) -> Answer:
    """What the errno of a connection attempt says about the gateway; 0 is success."""
    if code == 0:
        return GOOD
    reason = WORDS.get(code) or os.strerror(code).lower()
    verdict = Verdict.UNCLEAR if code in OUR_OWN_FAULT else Verdict.BAD
    return Answer(verdict, reason, code in _NOT_HEARD)


def start_tcp(
    loop: asyncio.AbstractEventLoop, address: str, port: int, check: Check, done: Done
) -> Cancel:
    """A :class:`TcpProbe` in the form of :data:`Start`."""
    return TcpProbe(loop, address, port, check, done).cancel
