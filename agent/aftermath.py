"""What became of the flows of a Virtual Server that moved here: counted in the kernel.

An entry remembers by flags of TCP whether its
connection was seen from the beginning, was picked up in the middle, or was
entered by us. What the primary before had told of and is in no entry is missing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent.flowtable import Course, FlowTable
from agent.toldflows import ToldFlows
from protocol.effects import Event
from protocol.flows import UDP, Key, vip_of
from protocol.ids import DeviceId, GroupId

GATHER_S = 0.05
"""Moves within so many seconds are counted together."""

REVIEW_S = 5.0
"""Seconds between a takeover and the second look: as long as any flow needs to speak again, and
shorter than the kernel remembers one that was reset."""

UNREMEMBERED = "nothing to carry over: each packet finds its gateway by its hash"
MOVING = (
    "no entries to carry over: each packet finds its gateway by its hash, or by what devices told "
    "each other of connections whose slots move"
)


@dataclass(frozen=True)
class Move:
    """A Virtual Server that moved here."""

    term: int
    vips: frozenset[bytes]
    told: ToldFlows
    """By the primary before."""
    unremembered: str = ""
    """How its flows find their gateways where no kernel has entries of them; empty: by entries."""


@dataclass(frozen=True)
class Aftermath:
    """Numbers of flows."""

    carried: int
    """Were in this device's kernel when it took over, or were told by other devices since."""
    found: int
    """Were picked up in the middle afterwards, by their slots."""
    reset: int
    """Of both, those that were reset since."""
    missing: int | None
    """Others that the primary before had told of; None where it had not told of all. Some may
    have ended, and some may be silent and found later."""
    sampled: bool = False
    """It had told of so many that this is an estimate."""

    @property
    def text(self) -> str:
        """For people; empty where there were none."""
        if not (self.carried or self.found or self.missing != 0):
            return ""
        return (
            f"{self.carried} flows carried over, {self.found} found again by their slots, "
            f"{self._lost}"
        )

    @property
    def _lost(self) -> str:
        if self.missing is None:
            return "lost: unknown"
        most, about = "up to " if self.missing else "", "about " if self.sampled else ""
        return f"{most}{about}{self.reset + self.missing} lost"


def carried(table: FlowTable, vips: frozenset[bytes]) -> frozenset[Key]:
    """The flows to ``vips`` that are known at the takeover."""
    return frozenset(each.key for each in table.courses(vips) if each.open)


def aftermath(table: FlowTable, known: frozenset[Key], moves: Sequence[Move]) -> list[Aftermath]:
    """What became of the ``known`` flows and of others, for each Virtual Server."""
    counts = [_Count(move) for move in moves]
    of = {vip: count for count in counts for vip in count.move.vips}
    for key in known:
        of[vip_of(key)].carried += 1
    for told in dict.fromkeys(move.told for move in moves):
        for key in told.keys - known:
            if (whose := of.get(vip_of(key))) is not None and whose.move.told is told:
                whose.missing.add(key)
    for each in table.courses(frozenset(of)):
        of[vip_of(each.key)].see(each, known=each.key in known)
    return [count.result for count in counts]


class _Count:
    """The same, being counted for one Virtual Server."""

    def __init__(self, move: Move) -> None:
        self.move = move
        self.carried = self.found = self.reset = 0
        self.missing: set[Key] = set()
        """Of those that were told, as far as they are remembered."""

    def see(self, each: Course, *, known: bool) -> None:
        """An entry at the second look."""
        if each.reset and (known or each.picked_up):
            self.reset += 1
        if known:
            return
        if each.picked_up:
            self.found += 1
        elif each.key in self.missing:
            # Of UDP nothing tells how it came; most flows come by their slots.
            self.found += self.move.told.one_of * (each.key[0] == UDP)
            self.carried += self.move.told.one_of * (each.key[0] != UDP)
        self.missing.discard(each.key)

    @property
    def result(self) -> Aftermath:
        told = self.move.told
        missing = len(self.missing) * told.one_of if told.covers(self.move.vips) else None
        return Aftermath(self.carried, self.found, self.reset, missing, told.one_of > 1)


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
        self._taken: dict[GroupId, Move] = {}
        """Groups that moved here just now."""

    def moved_here(self, group: GroupId, move: Move) -> None:
        """This device has become primary in place of another one."""
        if not self._taken:
            asyncio.get_running_loop().call_later(GATHER_S, self._begin)
        self._taken[group] = move

    def _begin(self) -> None:
        taken, self._taken = self._taken, {}
        vips = frozenset().union(*(move.vips for move in taken.values()))
        self._count(partial(carried, vips=vips), partial(self._wait, taken))

    def _wait(self, taken: dict[GroupId, Move], known: frozenset[Key]) -> None:
        numbers = Counter(map(vip_of, known))
        for group, move in taken.items():
            # All that is ever told of this move, should this device end before the second look.
            if carried := sum(numbers[vip] for vip in move.vips):
                text = f"{carried} flows carried over; those found again and lost are counted later"
                self._tell(Event("carried", group, text, move.term, self._me))
        end = partial(self._count, partial(aftermath, known=known, moves=list(taken.values())))
        asyncio.get_running_loop().call_later(REVIEW_S, end, partial(self._end, taken))

    def _end(self, taken: dict[GroupId, Move], found: list[Aftermath]) -> None:
        for (group, move), each in zip(taken.items(), found, strict=True):
            none = not (each.carried or each.found or each.missing)
            text = move.unremembered if move.unremembered and none else each.text
            if text:
                self._tell(Event("flows", group, text, move.term, self._me))
