"""Connections to one peer: two for urgent messages, one for bulk.

Each connection is a socket of its own, pinned to the peer's key, so that what
arrives on it is from that peer. A TCP connection that lost its path wakes up
only seconds after the path is back; so a connection that stays silent for
longer than two beats is dialled anew. That also cures a connection that the
peer refused before it knew us: ZeroMQ itself never tries that one again; and one for
which there was no socket left. Whoever was silent may have been slow, and where a
connection table is full no other connection comes about: the one that was heard stays
until another is.
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
KEPT = 10.0
"""Seconds that a silent connection is kept beside the one that is dialled."""
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
        self._receive: Callable[[bytes], None] = lambda _: None
        self._make: Callable[[Callable[[bytes], None]], Subscriber] | None = None
        """While the link is open."""
        self._proved: Subscriber | None = None
        """The socket that brought the newest frame."""
        self._trying: Subscriber | None = None
        """The one that was dialled since, and brought none yet."""

    def open(
        self,
        make: Callable[[Callable[[bytes], None]], Subscriber],
        receive: Callable[[bytes], None],
    ) -> None:
        """Connect with sockets that ``make`` makes; dialled anew later where it cannot."""
        self._make, self._receive = make, receive
        self._connect()

    def _connect(self) -> None:
        """Dial, beside the connection that was heard if there is a socket left for that."""
        if self._trying is not None:
            self._trying.disconnect(self.endpoint)
        elif self._make is not None:
            try:
                self._trying = self._make(self._first_came)
            except OSError as error:
                _log.warning("cannot connect to %s: %s", self.endpoint, error.strerror)
                self._give_up_proved()
        if self._trying is not None:
            self._trying.connect(self.endpoint)

    def _first_came(self, frame: bytes) -> None:
        """What was dialled has come about: the connection before it is not needed any more."""
        assert self._trying is not None
        if self._proved is not None:
            self._proved.close()
        self._proved, self._trying = self._trying, None
        self._proved.receive = self._receive
        self._receive(frame)

    def _give_up_proved(self) -> None:
        """Nothing comes on the connection that was heard, so its socket is one to dial with."""
        if self._proved is not None:
            self._proved.disconnect(self.endpoint)
            self._proved.receive = self._first_came
            self._trying, self._proved = self._proved, None

    def redial_if_silent(self, now: float, silence: float) -> bool:
        """Dial anew after ``silence`` seconds without a frame; whether it was done."""
        if self._make is None or now < self._dial_after:
            return False
        if now - self.heard >= silence:
            # If this process was stalled, the silence may be its own.
            for each in self._sockets:
                each.read()
        if now - self.heard < silence:
            if self._proved is not None and self._trying is not None:
                self._trying.close()
                self._trying = None
            return False
        if now - self.heard > KEPT and self._proved is not None:
            self._proved.close()
            self._proved = None
        self._connect()
        self._retry = RETRY_FIRST if self.heard >= self._dialled else self._retry
        self._dialled, self._dial_after = now, now + self._retry
        self._retry = min(2 * self._retry, RETRY_LAST)
        return True

    def hang_up(self, now: float) -> None:
        """Drop the connection and what it brought; dialled anew after :data:`PENALTY`."""
        self._drop()
        self.heard = now - BULK_SILENCE
        self._dial_after = now + PENALTY

    def close(self) -> None:
        self._make = None
        self._drop()

    def _drop(self) -> None:
        for each in self._sockets:
            each.close()
        self._proved = self._trying = None

    @property
    def _sockets(self) -> tuple[Subscriber, ...]:
        return tuple(each for each in (self._proved, self._trying) if each is not None)


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
            make = partial(Subscriber, context, options, me.encode())
            link.open(make, partial(receive, self, link))

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
