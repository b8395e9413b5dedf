"""When something is due, for many things of which few are due.

A due time that moves later costs nothing until its entry is the earliest: then
its owner is asked anew. So a heartbeat that postpones a thousand time-outs
touches no heap, and nobody is woken for what was postponed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from protocol.ids import GroupId
from protocol.timing import NEVER


class Timers:
    """Earliest due time per group, nanoseconds."""

    def __init__(self) -> None:
        self._due: dict[GroupId, int] = {}
        self._heap: list[tuple[int, GroupId]] = []

    def set(self, group: GroupId, due: int) -> None:
        """The group is due at ``due``, or earlier if it was so already."""
        if due < self._due.get(group, NEVER):
            self._due[group] = due
            heapq.heappush(self._heap, (due, group))

    def drop(self, group: GroupId) -> None:
        self._due.pop(group, None)

    def take_due(self, now: int) -> list[GroupId]:
        """Groups that may be due at ``now``; each must be set again by the caller."""
        due: list[GroupId] = []
        while self._heap and self._heap[0][0] <= now:
            when, group = heapq.heappop(self._heap)
            if self._due.get(group) == when:
                del self._due[group]
                due.append(group)
        return due

    def next(self, now: int, before: int, due_of: Callable[[GroupId], int]) -> int:
        """The earliest due time, or ``before`` if nothing is due earlier than that.

        ``due_of(group)`` is when a group is due as things stand; only groups are
        asked for that would be due before ``before``, and not already at ``now``.
        """
        while self._heap and self._heap[0][0] < before:
            when, group = self._heap[0]
            if self._due.get(group) != when:
                heapq.heappop(self._heap)
                continue
            due = due_of(group) if when > now else when
            if due <= when:
                return when
            if due < NEVER:
                self._due[group] = due
                heapq.heapreplace(self._heap, (due, group))
            else:
                # It would stay for ever, once more each time.
                del self._due[group]
                heapq.heappop(self._heap)
        return before
