"""When something is due, for many things of which few are due.

A due time that moves later costs nothing: the entry comes up early once, and
its owner sets it again. So a heartbeat that postpones a thousand time-outs
touches no heap.
"""

from __future__ import annotations

import heapq

from protocol.ids import GroupId
from protocol.timing import NEVER


class Timers:
    """Earliest due time per group, nanoseconds."""

    def __init__(self) -> None:
        self._due: dict[GroupId, int] = {}
        self._heap: list[tuple[int, GroupId]] = []

    def set(self, group: GroupId, due: int) -> None:
        """The group is due at ``due``, or earlier if it was so already."""
        if due < self._due.get(group, 1 << 63):
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

    def next(self) -> int:
        """The earliest due time; far in the future where nothing is due."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else NEVER
