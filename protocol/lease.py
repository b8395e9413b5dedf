"""The primary's lease: what a majority has confirmed, and what the kernel was told.

A lease counts from the send time of the beat that earned it, never from the
answer, so that it ends before any promise that it rests on. A round that took
longer than 0.4 T renews nothing: if all do, the primary gives up.
"""

from __future__ import annotations

from collections.abc import Iterable

from protocol.ids import DeviceId
from protocol.quorum import confirmed_by_majority
from protocol.timing import MILLISECOND, Timing

MARGIN_NS = 10 * MILLISECOND
"""A lease this close to its end may be over when the datagram arrives: jiffies and scheduling."""


class Lease:
    """Times are nanoseconds of the device's own clock."""

    def __init__(self) -> None:
        self._acked: dict[DeviceId, int] = {}
        """Newest own beat, by its send time, that each voter acked in this term."""
        self.confirmed = 0
        """Send time of the newest beat that a majority acked in time."""
        self.round = 0
        """As ``confirmed``, by the acks of a majority alone: more acks up to it add nothing."""
        self.missed = 0
        """When a primary that was not confirmed anew misses those who would."""
        self.ends = 0
        """When it gives up by its own clock."""
        self._over = 0
        """When the kernel's part may be over, if it is not renewed."""

    def begin(self, voters: Iterable[DeviceId], asked_at: int, timing: Timing) -> None:
        """A new term, won by the votes of ``voters`` that were asked for at ``asked_at``."""
        self._acked = dict.fromkeys(voters, asked_at)
        self.confirmed, self.round = 0, asked_at
        self.extend(asked_at, timing)

    def keep(self, voters: tuple[DeviceId, ...]) -> None:
        """Only these devices' acks count from now on."""
        self._acked = {v: t for v, t in self._acked.items() if v in voters}

    def retime(self) -> None:
        """From now on beats ask for promises of another length: what was acked before made none.

        What they confirmed lasts as long as it was to last.
        """
        self._acked.clear()

    def ack(
        self,
        voter: DeviceId,
        sent: int,
        voters: tuple[DeviceId, ...],
        now: int,
        timing: Timing,
        *,
        me: DeviceId,
    ) -> bool:
        """Count an ack of the beat sent at ``sent``; whether it confirms the lease anew."""
        if sent <= self.round or voter not in voters:
            return False
        self._acked[voter] = max(sent, self._acked.get(voter, 0))
        self._acked[me] = now  # This device confirms itself, always and at once.
        newest = confirmed_by_majority(voters, self._acked)
        if newest is None or newest <= self.round or now - newest > timing.fresh:
            return False
        self.round = newest
        self.extend(newest, timing)
        return True

    def extend(self, at: int, timing: Timing) -> None:
        """What was asked at ``at`` confirms the lease, in place of a majority."""
        if at > self.confirmed:
            self.confirmed = at
            self.missed, self.ends = at + timing.ask, at + timing.step_down

    def refreshed(self, now: int, timing: Timing) -> None:
        """The kernel is told to open its part, or to renew it."""
        self._over = now + timing.lease - MARGIN_NS

    def lost(self) -> None:
        """The kernel's part is not open."""
        self._over = 0

    def lapsed(self, now: int) -> bool:
        """Whether the kernel's part may be over, so that it must be opened, not renewed."""
        return now > self._over
