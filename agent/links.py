"""Connections to one peer: two for urgent messages, one for bulk.

Each connection is a socket of its own, pinned to the peer's key, so that what
arrives on it is from that peer. A TCP connection that lost its path wakes up
only seconds after the path is back; so a connection that stays silent for
longer than two beats is dialled anew. That also cures a connection that the
peer refused before it knew us: ZeroMQ itself never tries that one again; and one for
which there was no socket left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from agent import sockets
from agent.arrivals import Arrivals
from agent.keys import KeyPair
from agent.quality import Quality
from agent.sockets import Subscriber
from protocol.addresses import split_endpoint
from protocol.ids import DeviceId
from protocol.messages import Message
from protocol.timing import IDLE_BEAT_NS, MILLISECOND, SECOND
from protocol.wire import HEADER_SIZE, MAX_BULK, MAX_URGENT, Header

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

_log = logging.getLogger(__name__)


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

    def __init__(self, number: int, endpoint: str, urgent: bool, now: float) -> None:
        self.number = number
        self.endpoint = endpoint
        self.urgent = urgent
        self.heard = now
        """When the newest frame came, seconds."""
        self._retry = RETRY_FIRST
        self._dialled = self._dial_after = 0.0
        self._make: Callable[[], Subscriber] | None = None
        """While the link is open."""
        self._socket: Subscriber | None = None
        """Unless none could be made."""

    def open(self, make: Callable[[], Subscriber]) -> None:
        """Connect with the socket that ``make`` makes; dialled anew later where it cannot."""
        self._make = make
        self._connect()

    def _connect(self) -> None:
        if self._socket is None and self._make is not None:
            try:
                self._socket = self._make()
            except OSError as error:
                _log.warning("cannot connect to %s: %s", self.endpoint, error.strerror)
                return
        if self._socket is not None:
            self._socket.connect(self.endpoint)

    def redial_if_silent(self, now: float, silence: float) -> bool:
        """Dial anew after ``silence`` seconds without a frame; whether it was done."""
        if self._make is None or now - self.heard < silence or now < self._dial_after:
            return False
        if self._socket is not None:
            # If this process was stalled, the silence may be its own.
            self._socket.read()
            if now - self.heard < silence:
                return False
            self._socket.disconnect(self.endpoint)
        self._connect()
        self._retry = RETRY_FIRST if self.heard >= self._dialled else self._retry
        self._dialled, self._dial_after = now, now + self._retry
        self._retry = min(2 * self._retry, RETRY_LAST)
        return True

    def hang_up(self, now: float) -> None:
        """Drop the connection and what it brought; dialled anew after :data:`PENALTY`."""
        if self._socket is not None:
            self._socket.disconnect(self.endpoint)
        self.heard = now - BULK_SILENCE
        self._dial_after = now + PENALTY

    def close(self) -> None:
        self._make = None
        if self._socket is not None:
            self._socket.close()


class PeerLinks:
    """All connections to one peer, and what is known of its traffic."""

    def __init__(self, peer: Peer, now: float) -> None:
        self.peer = peer
        self.arrivals = Arrivals()
        self.quality = Quality()
        self.counters: dict[str, int] = {}
        self.told: tuple[bytes, Message | None] = (b"", None)
        """What the peer told of itself last, which it repeats each second: encoded, decoded."""
        self.newest: tuple[bytes, Header] = (b"", Header(0, b"", 0, 0))
        """The urgent frame that was taken last; its copy is known by that."""
        self.their_interval = IDLE_BEAT_NS
        self.our_interval = IDLE_BEAT_NS
        """T of the newest beat from and to the peer, nanoseconds; a beat to it is acked at once."""
        first, second = peer.addresses[0], peer.addresses[min(1, len(peer.addresses) - 1)]
        self.links = (
            Link(0, _endpoint(first, 0), True, now),
            Link(1, _endpoint(second, 0), True, now),
            Link(2, _endpoint(first, 1), False, now),
        )

    def start(
        self, context: sockets.Context, keys: KeyPair, me: DeviceId,
        receive: Callable[[PeerLinks, Link, bytes], None],
    ) -> None:  # fmt: skip
        """Open the connections; they come about in the background."""
        identity = sockets.calling(keys, self.peer.public_key)
        for link in self.links:
            size = (MAX_URGENT if link.urgent else MAX_BULK) + HEADER_SIZE
            options = sockets.BOUNDED | sockets.DIALLING | sockets.limits(size=size) | identity
            frame_came = partial(receive, self, link)
            link.open(partial(Subscriber, context, options, me.encode(), frame_came))

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

    def hang_up(self, now: float) -> None:
        for link in self.links:
            link.hang_up(now)

    def close(self) -> None:
        for link in self.links:
            link.close()


def _endpoint(address: str, port_offset: int) -> str:
    ip, port = split_endpoint(address)
    return sockets.tcp(str(ip), port + port_offset)
