"""The network between the devices: delay, loss, duplicates, cuts and clogs.

Two channels as the agent has them: urgent messages are datagrams here (two
connections, first copy wins, so order is not kept), bulk messages keep their
order per link and a lost one comes late, as on one TCP connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import log
from random import Random
from typing import Any

from protocol.bundle import Bundle
from protocol.effects import Received
from protocol.ids import DeviceId
from protocol.messages import URGENT, Message
from protocol.timing import MILLISECOND
from protocol.wire import decode, encode

RETRANSMIT_NS = 200 * MILLISECOND
"""TCP's shortest retransmission timeout on Linux."""

MICROSECOND = 1_000
URGENT_TYPES = frozenset(URGENT)

Push = Callable[[int, Callable[[Any, Any], None], Any, Any], None]
"""(real time, function, two arguments): schedule an event."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How all links are at one time."""

    base: int = 100 * MICROSECOND
    """Shortest one-way delay, nanoseconds."""
    mean: int = 100 * MICROSECOND
    """Mean of the exponential part of the delay, nanoseconds."""
    loss: float = 0.0
    duplicate: float = 0.0


LAN = Quality()
LOSSY = Quality(loss=0.05, duplicate=0.01)
BAD = Quality(base=200 * MICROSECOND, mean=3 * MILLISECOND, loss=0.3, duplicate=0.05)
SLOW = Quality(base=5 * MILLISECOND, mean=30 * MILLISECOND, loss=0.01, duplicate=0.02)
FAR = Quality(base=50 * MILLISECOND, mean=250 * MILLISECOND, loss=0.02, duplicate=0.02)
"""Delays that often exceed every time-out."""


class Link:
    """One direction between two devices."""

    __slots__ = ("bulk_cut", "bulk_end", "cut", "held")

    def __init__(self) -> None:
        self.cut = False
        self.bulk_cut = False
        self.held: list[Message] | None = None
        """Messages waiting in a clogged link; None while it flows."""
        self.bulk_end = 0


class Network:
    """All links of a Site."""

    __slots__ = (
        "_codec", "_deliver", "_ids", "_links", "_push", "_random", "quality",
    )  # fmt: skip

    def __init__(
        self,
        ids: tuple[DeviceId, ...],
        random: Random,
        push: Push,
        deliver: Callable[[int, Received], None],
        codec: bool = False,
    ) -> None:
        self._ids = ids
        self._random = random
        self._push = push
        self._deliver = deliver
        self._codec = codec
        self._links = [[Link() for _ in ids] for _ in ids]
        self.quality = LAN

    def send(self, now: int, source: int, target: int, message: Message) -> None:
        if self._codec:
            copied = decode(encode(message))
            assert not isinstance(copied, Bundle)
            message = copied
        link = self._links[source][target]
        if link.cut:
            return
        if link.held is not None:
            link.held.append(message)
            return
        self._forward(now, link, source, target, message)

    def _forward(self, now: int, link: Link, source: int, target: int, message: Message) -> None:
        quality = self.quality
        draw = self._random.random
        arrival = now + quality.base - int(log(1.0 - draw()) * quality.mean)
        urgent = type(message) in URGENT_TYPES
        if not urgent and link.bulk_cut:
            return
        if quality.loss and draw() < quality.loss:
            if urgent:
                return
            arrival += RETRANSMIT_NS
        if not urgent:
            arrival = max(arrival, link.bulk_end + 1)
            link.bulk_end = arrival
        received = Received(self._ids[source], message)
        self._push(arrival, self._deliver, target, received)
        if quality.duplicate and draw() < quality.duplicate:
            late = arrival + int(self._random.expovariate(1.0) * (quality.mean + MILLISECOND))
            self._push(late, self._deliver, target, received)

    def cut(self, source: int, target: int) -> None:
        """Lose everything sent in this direction from now on."""
        self._links[source][target].cut = True

    def whole(self, source: int, target: int) -> bool:
        """Whether messages pass in both directions."""
        return not (self._links[source][target].cut or self._links[target][source].cut)

    def cut_bulk(self, source: int, target: int) -> None:
        """Lose configuration and the like in this direction, but let beats and votes pass."""
        self._links[source][target].bulk_cut = True

    def clog(self, source: int, target: int) -> None:
        """Hold back everything sent in this direction."""
        link = self._links[source][target]
        if link.held is None:
            link.held = []

    def heal(self, now: int, source: int, target: int) -> None:
        """Let messages pass, first those that a clog held back."""
        link = self._links[source][target]
        link.cut = link.bulk_cut = False
        held, link.held = link.held, None
        for message in held or ():
            self._forward(now, link, source, target, message)

    def partition(self, now: int, side: Iterable[int]) -> None:
        """Cut between ``side`` and the others; heal within each."""
        inside = set(side)
        for source in range(len(self._ids)):
            for target in range(len(self._ids)):
                if (source in inside) != (target in inside):
                    self.cut(source, target)
                else:
                    self.heal(now, source, target)

    def redial(self, among: Iterable[int]) -> None:
        """New connections between these: nothing queues behind what the old ones still carry."""
        members = sorted(among)
        for source in members:
            for target in members:
                self._links[source][target].bulk_end = 0

    def heal_all(self, now: int, among: Iterable[int]) -> None:
        members = sorted(among)
        for source in members:
            for target in members:
                self.heal(now, source, target)
