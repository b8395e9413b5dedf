"""Flows of a primary that is gone, of which its successor tells nothing: kept, and told to it.

A successor may have been told less than others: it had just come back, or was cut off. What
they have and it does not tell of is not over, it is missing there; and if the next crash makes
one of them primary, it is needed. Pure. Times are seconds.
"""

from __future__ import annotations

from collections.abc import Iterable

from protocol.ids import GroupId

WORTH_S = 15.0
"""Since the last word of the primary before. What is older may have ended unheard."""


class KeptFlows:
    """Groups whose primary was lost to a device that had all flows of it."""

    def __init__(self) -> None:
        self._heard: dict[GroupId, float] = {}

    def lost(self, groups: Iterable[GroupId], heard: float) -> None:
        """Another device is primary of ``groups`` now, or none. Everything was told until
        ``heard``, the last word of the primary before."""
        self._heard.update(dict.fromkeys(groups, heard))

    def worth(self, groups: Iterable[GroupId], now: float) -> frozenset[GroupId]:
        """Those of ``groups`` of which this device may know more than the new primary."""
        return frozenset(g for g in groups if now - self._heard.get(g, -WORTH_S) < WORTH_S)

    def settle(self, groups: Iterable[GroupId]) -> None:
        """The new primary has told of ``groups``, and from now on knows them best."""
        for group in groups:
            self._heard.pop(group, None)
