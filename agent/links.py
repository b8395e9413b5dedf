"""Connections to one peer: two for urgent messages, one for bulk.

Each connection is a socket of its own, pinned to the peer's key, so that what
arrives on it is from that peer. A TCP connection that lost its path wakes up
only seconds after the path is back; so a connection that stays silent for
longer than two beats is dialled anew. That also cures a connection that the
peer refused before it knew us: ZeroMQ itself never tries that one again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent import sockets
from agent.arrivals import Arrivals
from agent.keys import KeyPair
from agent.quality import Quality
from agent.sockets import Socket
from protocol.addresses import split_endpoint
from protocol.ids import DeviceId
from protocol.messages import Message
from protocol.timing import IDLE_BEAT_NS, MILLISECOND, SECOND
from protocol.wire import HEADER_SIZE, MAX_BULK, MAX_URGENT

MARGIN = 0.05
"""Seconds of delay that are not yet silence."""
FASTEST, SLOWEST = 20 * MILLISECOND, 5 * SECOND
"""Beat intervals that are believed, nanoseconds."""
BULK_SILENCE = 2.5
"""Seconds: each device sends its news once a second."""
RETRY_FIRST, RETRY_LAST = 0.25, 1.0
"""Seconds between two dials while the peer stays silent: doubled from the first to the last."""
PENALTY = 1.0
"""Seconds without connections for a peer that sends too many frames."""


@dataclass(frozen=True)
class Peer:
    """Another device of the Site."""

    id: DeviceId
    public_key: str
    """CURVE, Z85."""
    addresses: tuple[str, ...]
    """``IP:PORT``; the first two are used."""


class Link:
    """One connection on one channel."""

    def __init__(self, endpoint: str, urgent: bool, now: float) -> None:
        self.endpoint = endpoint
        self.urgent = urgent
        self.heard = now
        """When the newest frame came, seconds."""
        self._retry = RETRY_FIRST
        self._dial_after = 0.0
        self._socket: Socket | None = None

    async def open(
        self, context: sockets.Context, options: sockets.Options, topic: bytes,
        receive: Callable[[list[bytes]], None],
    ) -> None:  # fmt: skip
        self._socket = await Socket.open(context, sockets.SUB, options, receive)
        self._socket.subscribe(topic)
        self._socket.connect(self.endpoint)

    def frame_came(self, now: float) -> None:
        self.heard = now
        self._retry = RETRY_FIRST

    def redial_if_silent(self, now: float, silence: float) -> bool:
        """Dial anew after ``silence`` seconds without a frame; whether it was done."""
        if self._socket is None or now - self.heard < silence or now < self._dial_after:
            return False
        # If this process was stalled, the silence may be its own.
        self._socket.drain()
        if now - self.heard < silence:
            return False
        self._socket.disconnect(self.endpoint)
        self._socket.connect(self.endpoint)
        self._dial_after = now + self._retry
        self._retry = min(2 * self._retry, RETRY_LAST)
        return True

    def hang_up(self, now: float) -> None:
        """Drop the connection and what it brought; dialled anew after :data:`PENALTY`."""
        if self._socket is not None:
            self._socket.disconnect(self.endpoint)
        self.heard = now - BULK_SILENCE
        self._dial_after = now + PENALTY

    def drain(self) -> None:
        if self._socket is not None:
            self._socket.drain()

    def nudge(self) -> None:
        if self._socket is not None:
            self._socket.nudge()

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()


class PeerLinks:
    """All connections to one peer, and what is known of its traffic."""

    def __init__(self, peer: Peer, now: float) -> None:
        self.peer = peer
        self.arrivals = Arrivals()
        self.quality = Quality()
        self.counters: dict[str, int] = {}
        self.told: tuple[bytes, Message | None] = (b"", None)
        """What the peer told of itself last, which it repeats each second: encoded, decoded."""
        self.their_interval = IDLE_BEAT_NS
        self.our_interval = IDLE_BEAT_NS
        """T of the newest beat from and to the peer, nanoseconds; a beat to it is acked at once."""
        first, second = peer.addresses[0], peer.addresses[min(1, len(peer.addresses) - 1)]
        self.links = (
            Link(_endpoint(first, 0), True, now),
            Link(_endpoint(second, 0), True, now),
            Link(_endpoint(first, 1), False, now),
        )
        self._opening: asyncio.Task[None] | None = None

    def start(
        self, context: sockets.Context, keys: KeyPair, me: DeviceId,
        receive: Callable[[PeerLinks, Link, list[bytes]], None],
    ) -> None:  # fmt: skip
        """Open the connections; they come about in the background."""
        self._opening = asyncio.get_running_loop().create_task(
            self._open(context, sockets.calling(keys, self.peer.public_key), me.encode(), receive)
        )
        self._opening.add_done_callback(lambda task: task.result())

    async def _open(
        self, context: sockets.Context, identity: dict[int, Any], topic: bytes,
        receive: Callable[[PeerLinks, Link, list[bytes]], None],
    ) -> None:  # fmt: skip
        for link in self.links:
            size = (MAX_URGENT if link.urgent else MAX_BULK) + HEADER_SIZE
            options = sockets.BOUNDED | sockets.DIALLING | sockets.limits(size=size) | identity

            def came(frames: list[bytes], link: Link = link) -> None:
                receive(self, link, frames)

            await link.open(context, options, topic, came)

    def drain_other(self, link: Link) -> None:
        """Take the copy of what came on ``link`` along: one wake-up instead of two."""
        first, second, _ = self.links
        (second if link is first else first).drain()

    def count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1

    def tick(self, now: float) -> None:
        """Dial anew what has been silent for too long."""
        shorter = min(self.their_interval, self.our_interval)
        interval = min(max(shorter, FASTEST), SLOWEST) / SECOND
        for link in self.links:
            silence = 2 * interval + MARGIN if link.urgent else BULK_SILENCE
            if link.redial_if_silent(now, silence):
                self.count("redials")

    def nudge(self) -> None:
        for link in self.links:
            link.nudge()

    def hang_up(self, now: float) -> None:
        for link in self.links:
            link.hang_up(now)

    async def close(self) -> None:
        if self._opening is not None:
            await self._opening
        for link in self.links:
            await link.close()


def _endpoint(address: str, port_offset: int) -> str:
    ip, port = split_endpoint(address)
    return sockets.tcp(str(ip), port + port_offset)
