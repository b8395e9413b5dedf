"""Leases that wait to be opened: some at a time, and none for longer than it was confirmed.

A transaction takes some 60 microseconds for each lease, and nothing else is done meanwhile. So
of a thousand that are to open at once, some open, then the agent does what else is due: it
answers, votes and renews. What is confirmed anew while it waits may open as much later.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from protocol.effects import Acquire, Refresh
from protocol.ids import GroupId
from protocol.timing import MILLISECOND

AT_ONCE = 128
"""Groups whose leases are opened by one transaction, which takes 3 to 9 ms then."""
OPENS_NS = 30 * MILLISECOND
"""A transaction is done by then, or was held up."""


@dataclass(frozen=True)
class Opening:
    """What one transaction opens. Times are nanoseconds of this device's clock."""

    due: Sequence[Acquire]
    late: Sequence[Acquire]
    """What would be open too late to be of use."""
    by: int
    """When it must be done, or is undone."""
    lease: int
    """How long these leases last from then on: none ends after its deadline and its length."""

    @classmethod
    def of(cls, effects: Sequence[Acquire], now: int) -> Opening:
        """Of leases of one length, one at least.

        A lease that is not open by its deadline is shorter by as much, so that it ends when it
        would have ended. The ack of the next beat, which renews it, comes up to T after that.
        """
        lease, soonest = effects[0].lease, now + OPENS_NS
        latest = soonest - lease * 2 // 5
        due = [effect for effect in effects if effect.deadline >= latest]
        late = [effect for effect in effects if effect.deadline < latest]
        deadline = min((effect.deadline for effect in due), default=soonest)
        by = max(deadline, soonest)
        return cls(due, late, by, lease - (by - deadline))


class Openings:
    """Leases that wait to be opened, at most one of each group."""

    def __init__(self) -> None:
        self._waiting: dict[GroupId, Acquire] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, effects: Iterable[Acquire]) -> None:
        """Have these opened, in place of what waits of the same groups."""
        for effect in effects:
            before = self._waiting.get(effect.group)
            vips = (*before.vips, *effect.vips) if before else effect.vips
            self._waiting[effect.group] = replace(effect, vips=tuple(dict.fromkeys(vips)))

    def confirm(self, effect: Refresh) -> None:
        """What waits of this group, if anything does, may open as much later."""
        waiting = self._waiting.get(effect.group)
        if waiting is not None:
            self._waiting[effect.group] = replace(waiting, deadline=effect.deadline)

    def drop(self, group: GroupId, vips: Container[str]) -> None:
        """Open none of these VIPs of a group."""
        waiting = self._waiting.pop(group, None)
        left = tuple(vip for vip in waiting.vips if vip not in vips) if waiting else ()
        if waiting and left:
            self._waiting[group] = replace(waiting, vips=left)

    def take(self, now: int) -> Opening:
        """What is to be opened next, of what waits: leases of one length, the oldest first."""
        waiting = sorted(self._waiting.values(), key=lambda effect: (effect.lease, effect.deadline))
        alike = [effect for effect in waiting if effect.lease == waiting[0].lease][:AT_ONCE]
        for effect in alike:
            del self._waiting[effect.group]
        return Opening.of(alike, now)

    def clear(self) -> None:
        """Open nothing."""
        self._waiting.clear()
