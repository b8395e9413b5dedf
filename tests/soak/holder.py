"""The client of the soak: holds connections open without end, and tells each that is lost.

``python -m tests.soak.holder TARGETS`` on the client's host; TARGETS is a JSON list of
:class:`Target`. A line of JSON on standard output for each connection that is lost
(:class:`Lost`), and each half second one with how many speak and which do not
(:class:`Tally`). What is lost is dialled anew. A line on standard input has it give up those
that do not speak (:data:`GIVE_UP`), ask those that are idle (:data:`ASK`), or close some that
speak, so that others begin (:data:`RENEW`). Times are CLOCK_MONOTONIC seconds.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import socket
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from halbctl.lab.namespaces import INTERFACE
from halbctl.lab.servers import ECHO, PUSH_MESSAGE
from tests.soak import resets
from tests.soak.gateway import NAMED, SIZE, TALKING

PACE = 0.2
"""Seconds between two messages of a connection."""
SILENT = 1.5
"""A connection that was not heard for so many seconds is silent."""
DIALLING = 4.0
AGAIN = 0.3
"""Seconds until what failed is dialled again."""
PORTS = {"echo": NAMED, "push": TALKING, "udp": ECHO, "idle": NAMED}
GIVE_UP, ASK, RENEW = "give up", "ask", "renew"
_TURNS = 10
_RENEWED = 4
"""Of so many places one is renewed at a time."""
_TELL = 0.5


@dataclass(frozen=True)
class Target:
    """Connections of one kind to one VIP: ``echo``, ``push``, ``udp``, or ``idle``, which speak
    only when asked to."""

    server: str
    """The Virtual Server that has the VIP."""
    kind: str
    vip: str
    count: int


@dataclass(frozen=True)
class Lost:
    """A connection that had been established, and is lost."""

    target: int
    at: float
    reason: str
    gateway: str
    born: float
    """When its gateway was first heard."""
    last: float
    """When it was last heard."""
    port: int
    """Of the client."""
    reset_by: str = ""
    """Hardware address that the reset came from, and its hop limit: 64 was made there."""


@dataclass(frozen=True)
class Tally:
    """How the connections to each target are, in their order."""

    at: float
    speaking: tuple[int, ...]
    silent: tuple[Lost, ...]
    """Those that were not heard for :data:`SILENT`, as if they were lost now."""
    failed: tuple[int, ...]
    """Dials that failed, since the start."""


@dataclass(eq=False)
class Connection:
    """One connection, or an attempt at one."""

    target: int
    sock: socket.socket
    dialled: float
    open: bool = False
    gateway: str = ""
    born: float = 0.0
    last: float = 0.0
    sent: int = 0
    received: int = 0
    asked: float = 0.0
    """When one that is idle was asked to speak."""
    buffer: bytes = field(default=b"")


class Holder:
    """Holds the connections to all targets."""

    def __init__(self, targets: list[Target]) -> None:
        self._targets = targets
        self._selector = selectors.DefaultSelector()
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, None)
        self._held: list[Connection | None] = []
        self._dial_at: list[float] = []
        self._of = [index for index, each in enumerate(targets) for _ in range(each.count)]
        self._held = [None] * len(self._of)
        self._dial_at = [0.0] * len(self._of)
        self._failed = [0] * len(targets)
        self._renewals = 0
        self._resets = resets.listen(INTERFACE)
        self._selector.register(self._resets, selectors.EVENT_READ, self._resets)
        self._reset_by: dict[tuple[str, int], str] = {}
        """By VIP and port of the client; the newest."""

    def run(self) -> None:
        """Until standard input ends."""
        turn, due, tell_at = 0, time.monotonic(), 0.0
        while True:
            for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
                if key.data is None:
                    if not (told := os.read(sys.stdin.fileno(), 4096).decode()):
                        return
                    for command in told.splitlines():
                        self._obey(command, time.monotonic())
                elif key.data is self._resets:
                    self._note_resets()
                else:
                    self._ready(key.data, time.monotonic())
            now = time.monotonic()
            if now < due:
                continue
            due = max(due + PACE / _TURNS, now - PACE)
            turn = (turn + 1) % _TURNS
            for place in range(turn, len(self._of), _TURNS):
                self._tend(place, now)
            if now >= tell_at:
                tell_at = now + _TELL
                self._tell(now)

    def _obey(self, command: str, now: float) -> None:
        if command == GIVE_UP:
            self._give_up(now)
        elif command == ASK:
            for held in self._held:
                if held is not None and held.born and self._kind(held) == "idle":
                    held.asked = now
                    self._speak(held, now)
        elif command == RENEW:
            self._renewals += 1
            for place in range(self._renewals % _RENEWED, len(self._of), _RENEWED):
                held = self._held[place]
                if held is not None and held.born and held not in self._silent(now):
                    self._close(held, now)

    def _kind(self, held: Connection) -> str:
        return self._targets[held.target].kind

    def _note_resets(self) -> None:
        """All that came; a connection that one of them ended may have had it read before."""
        with suppress(BlockingIOError):
            while True:
                came = resets.read(self._resets)
                if came is not None:
                    self._reset_by[came.vip, came.port] = f"{came.mac} {came.hops}"

    def _tend(self, place: int, now: float) -> None:
        held = self._held[place]
        if held is None:
            if now >= self._dial_at[place]:
                self._held[place] = self._dial(place, now)
        elif not held.gateway and now - held.dialled > DIALLING:
            self._lose(held, "no answer", now)
        elif held.open and self._kind(held) in ("echo", "udp"):
            self._speak(held, now)

    def _speak(self, held: Connection, now: float) -> None:
        try:
            held.sock.send(held.sent.to_bytes(SIZE, "big"))
            held.sent += 1
        except BlockingIOError:
            return
        except OSError as error:
            if self._kind(held) != "udp":
                self._lose(held, _name(error), now)

    def _dial(self, place: int, now: float) -> Connection | None:
        target = self._targets[self._of[place]]
        udp = target.kind == "udp"
        family = socket.AF_INET6 if ":" in target.vip else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
        sock.setblocking(False)
        if not udp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        failed = 0
        try:
            failed = sock.connect_ex((target.vip, PORTS[target.kind]))
        except OSError as error:
            failed = error.errno or errno.EIO
        if failed not in (0, errno.EINPROGRESS):
            sock.close()
            self._failed[self._of[place]] += 1
            self._dial_at[place] = now + AGAIN
            return None
        made = Connection(self._of[place], sock, now, open=udp)
        self._selector.register(sock, selectors.EVENT_READ if udp else selectors.EVENT_WRITE, made)
        return made

    def _ready(self, held: Connection, now: float) -> None:
        if held not in self._held:
            return  # given up earlier in the same round of events
        if not held.open:
            failed = held.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failed:
                self._lose(held, errno.errorcode.get(failed, str(failed)), now)
                return
            held.open = True
            self._selector.modify(held.sock, selectors.EVENT_READ, held)
            return
        udp = self._kind(held) == "udp"
        try:
            chunk = held.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            if not udp:  # an ICMP message about a datagram ends nothing
                self._lose(held, _name(error), now)
            return
        wrong = self._datagram(held, chunk) if udp else self._stream(held, chunk)
        if wrong:
            self._lose(held, wrong, now)
            return
        held.last = now
        if not held.born and held.gateway:
            held.born = now

    @staticmethod
    def _datagram(held: Connection, chunk: bytes) -> str:
        gateway, _, number = chunk.partition(b" ")
        if int.from_bytes(number, "big") >= held.sent:
            return ""  # a late answer to an earlier flow from this port
        if held.gateway and held.gateway != gateway.decode():
            return f"moved to {gateway.decode()}"
        held.gateway = gateway.decode()
        return ""

    def _stream(self, held: Connection, chunk: bytes) -> str:
        if not chunk:
            return "closed"
        held.buffer += chunk
        while len(held.buffer) >= SIZE:
            message, held.buffer = held.buffer[:SIZE], held.buffer[SIZE:]
            if not held.gateway:
                held.gateway = message.decode(errors="replace").strip()
                continue
            push = self._kind(held) == "push"
            if message != (PUSH_MESSAGE if push else held.received.to_bytes(SIZE, "big")):
                return "corrupt"
            held.received += 1
        return ""

    def _lose(self, held: Connection, reason: str, now: float) -> None:
        lost = self._as_lost(held, reason, now)
        self._close(held, now)
        if held.born:
            _say(lost)
        else:
            self._failed[held.target] += 1

    def _close(self, held: Connection, now: float) -> None:
        self._selector.unregister(held.sock)
        held.sock.close()
        place = self._held.index(held)
        self._held[place], self._dial_at[place] = None, now + AGAIN

    def _as_lost(self, held: Connection, reason: str, now: float) -> Lost:
        if reason == "ECONNRESET":  # it may not have been read yet
            self._note_resets()
        port = 0
        with suppress(OSError):
            port = held.sock.getsockname()[1]
        by = self._reset_by.get((self._targets[held.target].vip, port), "")
        by = by if reason == "ECONNRESET" else ""
        return Lost(held.target, now, reason, held.gateway, held.born, held.last, port, by)

    def _silent(self, now: float) -> list[Connection]:
        held = [each for each in self._held if each is not None and each.born]
        return [each for each in held if now - self._due(each, now) > SILENT]

    def _due(self, held: Connection, now: float) -> float:
        """Since when something is to be heard of it."""
        if self._kind(held) != "idle":
            return held.last
        return now if held.received == held.sent else max(held.last, held.asked)

    def _give_up(self, now: float) -> None:
        for held in self._silent(now):
            self._lose(held, "silent", now)

    def _tell(self, now: float) -> None:
        speaking, silent = [0] * len(self._targets), self._silent(now)
        for held in self._held:
            if held is not None and held.born and held not in silent:
                speaking[held.target] += 1
        told = tuple(self._as_lost(held, "silent", now) for held in silent)
        _say(Tally(now, tuple(speaking), told, tuple(self._failed)))


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "error")


def _say(what: Lost | Tally) -> None:
    sys.stdout.write(json.dumps({"what": type(what).__name__, **asdict(what)}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    Holder([Target(**each) for each in json.loads(sys.argv[1])]).run()
