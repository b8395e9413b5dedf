"""How quick a device is for a group: its own loop, and the way to its voters.

A lease of interval T needs an agent that wakes up within 0.2 T, and a majority
that answers within 0.2 T. A device that is slower is *late*: it may still be
primary, for a late device is better than none, but it is ranked last.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from protocol.contact import Contact
from protocol.group import Group
from protocol.ids import SITE_GROUP, DeviceId, GroupId
from protocol.quorum import majority
from protocol.timing import MILLISECOND, SECOND, next_round

LOOK_NS = SECOND
LATE_PERCENT = 20
"""Of T: a device that needs longer (99th percentile) is late."""
CLEAR_PERCENT = 15
"""A late device must be as quick as this to be so no more: it shall not flap."""
ENOUGH = 16
"""Round trips without which nothing is concluded."""


def percentile(samples: Collection[int], percent: int) -> int:
    """So many of 100 samples are at most this; 0 of none."""
    ordered = sorted(samples)
    return ordered[(len(ordered) * percent - 1) // 100] if ordered else 0


class Pace:
    """What this device knows of its own speed."""

    def __init__(self) -> None:
        self.loop_late = 0
        """How late the agent's loop wakes up, 99th percentile, nanoseconds; told by the shell."""
        self._look_at = 0

    def judge(
        self,
        groups: Mapping[GroupId, Group],
        contacts: Mapping[DeviceId, Contact],
        now: int,
    ) -> tuple[tuple[GroupId, str], ...] | None:
        """The groups that this device is late for, with the reason; None between two looks."""
        if now < self._look_at:
            return None
        self._look_at = next_round(now, LOOK_NS)
        trips = _round_trips(groups, contacts)
        for gid, group in groups.items():
            if gid != SITE_GROUP:
                group.candidacy.late = self._why_late(group, trips)
        return tuple(
            (gid, group.candidacy.late) for gid, group in groups.items() if group.candidacy.late
        )

    def _why_late(self, group: Group, trips: Mapping[DeviceId, int]) -> str:
        percent = CLEAR_PERCENT if group.candidacy.late else LATE_PERCENT
        limit = group.timing.interval * percent // 100
        trip = _round_trip(group, trips)
        if self.loop_late <= limit and trip <= limit:
            return ""
        if group.candidacy.late:
            # The same words as long as it lasts: each change would be told to all.
            return group.candidacy.late
        if self.loop_late > limit:
            return f"its agent wakes up {self.loop_late // MILLISECOND} ms late"
        return f"its voters answer after {trip // MILLISECOND} ms"


def _round_trips(
    groups: Mapping[GroupId, Group], contacts: Mapping[DeviceId, Contact]
) -> dict[DeviceId, int]:
    """Round trip (99th percentile) to each voter of any group, where it is known."""
    voters = {voter for group in groups.values() for voter in group.voter.electorate.voters}
    return {
        voter: percentile(contacts[voter].round_trips, 99)
        for voter in voters
        if voter in contacts and len(contacts[voter].round_trips) >= ENOUGH
    }


def _round_trip(group: Group, trips: Mapping[DeviceId, int]) -> int:
    """Round trip to the slowest of the quickest majority; 0 if unknown."""
    voters = group.voter.electorate.voters
    known = [0, *(trips[voter] for voter in voters if voter in trips)]
    needed = majority(voters)
    return sorted(known)[needed - 1] if len(known) >= needed else 0
