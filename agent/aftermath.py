"""What became of the flows of a Virtual Server that moved here: counted in the kernel.

An entry remembers by flags of TCP whether its
connection was seen from the beginning, was picked up in the middle, or was
entered by us.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent.flowtable import FlowTable
from protocol.effects import Event
from protocol.flows import Key, vip_of
from protocol.ids import DeviceId, GroupId

GATHER_S = 0.05
"""Moves within so many seconds are counted together."""

REVIEW_S = 5.0
"""Seconds between a takeover and the second look: as long as any flow needs to speak again, and
shorter than the kernel remembers one that was reset."""


@dataclass(frozen=True)
class Aftermath:
    """Numbers of TCP flows."""

    carried: int
    """Were in this device's kernel when it took over."""
    found: int
    """Were picked up in the middle afterwards, by their slots."""
    lost: int
    """Of both, those that were reset since."""

    @property
    def text(self) -> str:
        """For people; empty where there were none."""
        if not (self.carried or self.found):
            return ""
        return (
            f"{self.carried} flows carried over, {self.found} found again by their slots, "
            f"{self.lost} lost"
        )


def carried(table: FlowTable, vips: frozenset[bytes]) -> frozenset[Key]:
    """The flows to ``vips`` that are known at the takeover."""
    return frozenset(each.key for each in table.streams(vips) if each.open)


def aftermath(
    table: FlowTable, known: frozenset[Key], groups: list[frozenset[bytes]]
) -> list[Aftermath]:
    """What became of the ``known`` flows and of others, for each group's VIPs."""
    of = {vip: at for at, vips in enumerate(groups) for vip in vips}
    before, found, lost = ([0] * len(groups) for _ in range(3))
    for key in known:
        before[of[vip_of(key)]] += 1
    for each in table.streams(frozenset(of)):
        at = of[vip_of(each.key)]
        if each.key not in known and each.picked_up:
            found[at] += 1
        if each.reset and (each.picked_up or each.key in known):
            lost[at] += 1
    return [Aftermath(*numbers) for numbers in zip(before, found, lost, strict=True)]


class Survey:
    """Counts the flows of groups that moved here, at once and when they have spoken again."""

    def __init__(
        self,
        me: DeviceId,
        count: Callable[[Callable[[FlowTable], Any], Callable[[Any], None]], None],
        tell: Callable[[Event], None],
    ) -> None:
        """``count`` does a job with the connection table in a worker, then calls back."""
        self._me = me
        self._count = count
        self._tell = tell
        self._taken: dict[GroupId, tuple[int, frozenset[bytes]]] = {}
        """Groups that moved here just now, with their terms and VIPs."""

    def moved_here(self, group: GroupId, term: int, vips: frozenset[bytes]) -> None:
        """This device has become primary in place of another one."""
        if not self._taken:
            asyncio.get_running_loop().call_later(GATHER_S, self._begin)
        self._taken[group] = (term, vips)

    def _begin(self) -> None:
        taken, self._taken = self._taken, {}
        vips = frozenset().union(*(vips for _, vips in taken.values()))
        self._count(partial(carried, vips=vips), partial(self._wait, taken))

    def _wait(
        self, taken: dict[GroupId, tuple[int, frozenset[bytes]]], known: frozenset[Key]
    ) -> None:
        groups = [vips for _, vips in taken.values()]
        end = partial(self._count, partial(aftermath, known=known, groups=groups))
        asyncio.get_running_loop().call_later(REVIEW_S, end, partial(self._end, taken))

    def _end(
        self, taken: dict[GroupId, tuple[int, frozenset[bytes]]], found: list[Aftermath]
    ) -> None:
        for (group, (term, _)), each in zip(taken.items(), found, strict=True):
            if each.text:
                self._tell(Event("flows", group, each.text, term, self._me))
