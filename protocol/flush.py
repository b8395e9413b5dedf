"""The barrier before a planned move: first the successor enters every flow.

Until then the primary is in office as before, so that waiting costs nobody
anything. What cannot be had in time ends the attempt, unless the device must go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.effects import Event
from protocol.flows import Flush, Flushed
from protocol.group import Group
from protocol.ids import DeviceId, GroupId
from protocol.outbox import Outbox
from protocol.timing import NEVER, SECOND
from protocol.view import Role

FLUSH_NS = 2 * SECOND
"""A stream that has to begin anew, with 50,000 flows, takes 1.6 s."""
LACKED = f"the successor lacked flows for {FLUSH_NS // SECOND} s"
PRESSING_NS = SECOND // 2
"""A device that must go waits only for what a healthy successor needs some milliseconds for."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    to: DeviceId
    deadline: int
    pressing: bool


class Flushes:
    """Hand-overs of this device that wait for the successor's kernel."""

    def __init__(self) -> None:
        self._waiting: dict[GroupId, _Waiting] = {}

    def __contains__(self, gid: GroupId) -> bool:
        return gid in self._waiting

    def hand_over(
        self, group: Group, to: DeviceId, now: int, out: Outbox, *, pressing: bool = False
    ) -> None:
        """Hand over once ``to`` has all flows; where it is ``pressing``, in the end even if not.

        A group without VIPs has no flows, and is handed over at once.
        """
        if not group.vips:
            group.hand_over(to, now, out)
            return
        self._waiting[group.group] = _Waiting(
            to, now + (PRESSING_NS if pressing else FLUSH_NS), pressing
        )
        out.do(Flush(group.group, to))

    def press(self, gid: GroupId, now: int) -> None:
        """A hand-over that waits for ``gid`` has become :attr:`~_Waiting.pressing`."""
        waiting = self._waiting[gid]
        if not waiting.pressing:
            deadline = min(waiting.deadline, now + PRESSING_NS)
            self._waiting[gid] = _Waiting(waiting.to, deadline, pressing=True)

    def on_flushed(
        self, item: Flushed, groups: Mapping[GroupId, Group], now: int, out: Outbox
    ) -> None:
        """The shell says that ``item.to`` has them all."""
        waiting = self._waiting.get(item.group)
        if waiting is not None and waiting.to == item.to:
            del self._waiting[item.group]
            self._go(item.group, waiting, groups, now, out)

    def on_time(self, groups: Mapping[GroupId, Group], now: int, out: Outbox) -> list[GroupId]:
        """End what took too long; the groups that changed."""
        late = [gid for gid, waiting in self._waiting.items() if now >= waiting.deadline]
        for gid in late:
            waiting = self._waiting.pop(gid)
            if waiting.pressing:
                self._go(gid, waiting, groups, now, out)
            elif (group := _led(groups, gid)) is not None:
                out.do(Event("handover-aborted", gid, LACKED, group.voter.term, waiting.to))
        return late

    def wake_at(self) -> int:
        return min((waiting.deadline for waiting in self._waiting.values()), default=NEVER)

    def _go(
        self,
        gid: GroupId,
        waiting: _Waiting,
        groups: Mapping[GroupId, Group],
        now: int,
        out: Outbox,
    ) -> None:
        group = _led(groups, gid)
        if group is not None and waiting.to in group.voter.electorate.carriers:
            group.hand_over(waiting.to, now, out)


def _led(groups: Mapping[GroupId, Group], gid: GroupId) -> Group | None:
    """The group, if this device is still its primary."""
    group = groups.get(gid)
    return group if group is not None and group.role is Role.PRIMARY else None
