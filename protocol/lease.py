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
        self.refreshed = 0
        """When the kernel lease was last opened or renewed."""

    def begin(self, voters: Iterable[DeviceId], asked_at: int) -> None:
        """A new term, won by the votes of ``voters`` that were asked for at ``asked_at``."""
        self._acked = dict.fromkeys(voters, asked_at)
        self.confirmed = self.round = asked_at

    def keep(self, voters: tuple[DeviceId, ...]) -> None:
        """Only these devices' acks count from now on."""
        self._acked = {v: t for v, t in self._acked.items() if v in voters}

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
        self.extend(newest)
        return True

    def extend(self, at: int) -> None:
        """What was asked at ``at`` confirms the lease, in place of a majority."""
        self.confirmed = max(self.confirmed, at)

    def lapsed(self, now: int, timing: Timing) -> bool:
        """Whether the kernel's part may be over, so that it must be opened, not renewed."""
        return now - self.refreshed > timing.lease - MARGIN_NS

    def ends(self, timing: Timing) -> int:
        """When a primary gives up by its own clock."""
        return self.confirmed + timing.step_down
