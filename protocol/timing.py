"""Every duration of the protocol, derived from one unit T.

T is the heartbeat interval of a profile. Safety rests on the order
``lease + fresh < step_down < promise``: a lease that the kernel enforces ends
before any promise that it rests on, also when two clocks run at rates that
differ by up to 1.7 % (see docs/protocol.md).
All durations are integer nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MILLISECOND = 1_000_000
SECOND = 1_000 * MILLISECOND
NEVER = 1 << 62
"""A time that does not come, as a due time in nanoseconds."""


def next_round(now: int, interval: int) -> int:
    """The next multiple of ``interval`` on this clock.

    Beats and what is done now and then are due at such moments, so that one
    wake-up does for all of them.
    """
    return (now // interval + 1) * interval


def freshness(interval: int) -> int:
    """How old what confirms a lease may be when it is used (0.4 T)."""
    return interval * 2 // 5


class Profile(StrEnum):
    """How fast a Virtual Server fails over; the value is its public name."""

    FAST = "fast"
    NORMAL = "normal"
    CALM = "calm"
    WAN = "wan"


INTERVAL_NS: dict[Profile, int] = {
    Profile.FAST: 50 * MILLISECOND,
    Profile.NORMAL: 100 * MILLISECOND,
    Profile.CALM: 250 * MILLISECOND,
    Profile.WAN: 1_000 * MILLISECOND,
}


PROMISE_INTERVALS = 3
"""Length of a voter's promise, in T."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The durations of one profile, each in nanoseconds."""

    interval: int
    """T: time between two beats."""
    resend: int
    """After this long without an ack the beat is sent once more (0.5 T)."""
    ask: int
    """Silence after which a secondary gathers evidence (1.5 T)."""
    would_vote: int
    """Silence after which a voter says that it misses the primary too (1.25 T)."""
    fresh: int
    """Only acks of beats younger than this refresh a lease (0.4 T)."""
    lease: int
    """Timeout of the kernel lease, counted from its refresh (2.5 T)."""
    step_down: int
    """Age of the newest majority-acked beat at which a primary gives up (2.9 T)."""
    promise: int
    """How long a voter grants nothing to others after a beat (3 T)."""
    hold: int
    """A vote question that comes this close to a promise's end waits for it (0.6 T)."""
    stagger: int
    """Candidate delay per rank (0.25 T)."""
    retry: int
    """Time between two candidacies, without the random part (1.5 T)."""
    handover_abort: int
    """A hand-over without a successor is undone after this (2 T)."""

    @classmethod
    def of(cls, profile: Profile) -> Timing:
        return cls.from_interval(INTERVAL_NS[profile])

    @classmethod
    def from_interval(cls, t: int) -> Timing:
        """The durations for T = ``t`` nanoseconds, at least 20 ms."""
        timing = cls(
            interval=t,
            resend=t // 2,
            ask=t * 3 // 2,
            would_vote=t * 5 // 4,
            fresh=freshness(t),
            lease=t * 5 // 2,
            step_down=t * 29 // 10,
            promise=t * PROMISE_INTERVALS,
            hold=t * 3 // 5,
            stagger=t // 4,
            retry=t * 3 // 2,
            handover_abort=t * 2,
        )
        timing.validate()
        return timing

    def validate(self) -> None:
        """Assert the relations that safety and liveness rest on."""
        assert self.interval >= 20 * MILLISECOND, "below 20 ms Python's own lateness decides"
        assert self.fresh + self.lease <= self.step_down < self.promise
        assert self.would_vote < self.ask < self.promise
        assert self.resend < self.interval


DRAIN_NS = 2 * SECOND
"""How long a device that handed over goes on forwarding packets that still reach it."""

HANGS_NS = 3 * SECOND
"""A disk that takes longer for votes counts as one that refuses, until it has them after all."""

IDLE_BEAT_NS = 500 * MILLISECOND
"""Beat interval towards a peer that this device holds no lease with."""

SITE_INTERVAL_NS = INTERVAL_NS[Profile.CALM]
"""T of the coordinator's group, whatever the profiles: an operator's change may wait a moment for
a new coordinator, as no client does for a VIP."""

SUSPECT_NS = 1_500 * MILLISECOND
"""Silence after which a device is asked after. Shown only: it moves no VIP."""

DEAD_NS = 5 * SECOND
"""Silence after which a device says that it does not hear another one. Shown only."""
