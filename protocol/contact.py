"""One peer: the beats sent to it, what it acked, and the claims it made.

A beat carries the list of claims only until the peer acked the present list;
afterwards its number stands for it, so that the cost of a beat does not grow
with the number of Virtual Servers.
"""

from __future__ import annotations

from collections import deque

from protocol.ids import DeviceId
from protocol.messages import Ack, Beat, Claim, Info
from protocol.timing import IDLE_BEAT_NS, SUSPECT_NS, freshness
from protocol.told import Told

ROUND_TRIPS = 128
"""Round trips that are remembered of each peer."""


class Contact:
    """State kept per peer. Times are nanoseconds of this device's clock."""

    __slots__ = (
        "acked_epoch", "acked_sent", "beat_at", "claims", "claims_epoch", "device", "heard",
        "info", "interval", "last_sent", "met", "resent", "round_trips", "told",
    )  # fmt: skip

    def __init__(self, device: DeviceId, now: int) -> None:
        self.device = device
        self.met = now
        """When this device began to talk to the peer."""
        self.heard: int | None = None
        self.info: Info | None = None
        self.told = Told()
        """The same by Virtual Server."""
        self.beat_at = now
        """When the next beat is due."""
        self.last_sent = 0
        self.resent = True
        """The newest beat was repeated, or needs no repetition."""
        self.acked_sent = now
        """Newest own beat that was acked; those of a former run of the agent do not count."""
        self.acked_epoch = 0
        self.interval = IDLE_BEAT_NS
        self.claims: tuple[Claim, ...] = ()
        """The peer's claims."""
        self.claims_epoch = 0
        self.round_trips: deque[int] = deque(maxlen=ROUND_TRIPS)
        """The newest ones, nanoseconds: from a beat to its ack."""

    def tells(self, info: Info) -> None:
        """The peer tells of itself."""
        self.info, self.told = info, Told(info)

    def beat(self, now: int, epoch: int, claims: tuple[Claim, ...]) -> Beat:
        """The beat to send now, with the list of claims only where the peer lacks it."""
        self.last_sent = now
        known = self.acked_epoch == epoch
        return Beat(now, self.interval, epoch, None if known else claims)

    def on_beat(self, beat: Beat) -> bool:
        """Take the list of claims in; False if the beat's list is not known here."""
        if beat.claims is not None:
            self.claims = beat.claims
            self.claims_epoch = beat.epoch
        return self.claims_epoch == beat.epoch

    def on_ack(self, ack: Ack, now: int) -> bool:
        """Whether the ack vouches for a beat: one that was sent, and newer than before."""
        if ack.echo == 0:
            self.acked_epoch = 0
            self.beat_at = 0
            return False
        if not self.acked_sent < ack.echo <= self.last_sent:
            return False
        self.acked_sent = ack.echo
        self.round_trips.append(now - ack.echo)
        self.acked_epoch = ack.epoch
        return True

    def answered_late(self, now: int) -> bool:
        """Whether the newest beat was acked, but too late to renew a lease.

        The peer lives, though it or the link stood still: asked at once again, it
        may answer before the lease is over.
        """
        return self.acked_sent == self.last_sent and now - self.last_sent > freshness(self.interval)

    def due(self) -> int:
        """When to beat next: at the next round, or once more for want of an ack."""
        if self.resent or self.acked_sent >= self.last_sent:
            return self.beat_at
        return min(self.beat_at, self.last_sent + self.interval // 2)

    def alive(self, now: int) -> bool:
        """Whether the peer itself was heard lately, and did not say goodbye."""
        stopping = self.info is not None and self.info.stopping
        return self.heard is not None and now - self.heard < SUSPECT_NS and not stopping
