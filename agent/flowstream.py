"""The numbering of flows that one device tells another: what is due, what is missing.

Pure. A stream begins with all flows there are and goes on with what changes.
Its parts are numbered; a gap ends the stream, and the receiver asks for a new
one. The sender keeps a bounded number of parts on the way, and gives a stream
up rather than remember without bound for a receiver that is too slow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from protocol.flows import (
    MAX_FLOWS,
    VERSION,
    Flow,
    FlowsKept,
    FlowsPart,
    FlowsWanted,
    Key,
    vip_of,
)
from protocol.ids import GroupId

EPOCH_BITS = 20
"""Streams that one run of an agent can number: one a second to each of six devices for two days.
The next run, whose incarnation is higher whatever the clock says, begins above all of them."""
WINDOW = 16
"""Parts on the way that were not acknowledged: few of the frames that may wait for a peer."""
MAX_WAITING = 256
"""Parts that wait for room on the way: beyond, the stream is given up."""
SILENT_S = 10.0
"""A receiver that asked for nothing for so long wants nothing more."""


class Chunk(NamedTuple):
    """Records as a part carries them."""

    begun4: bytes = b""
    begun6: bytes = b""
    ended4: bytes = b""
    ended6: bytes = b""


def chunks(
    begun: Iterable[Flow], ended: Iterable[Key], vips: frozenset[bytes]
) -> tuple[Chunk, ...]:
    """What concerns ``vips``, cut into parts."""
    sorts: tuple[list[bytes], ...] = ([], [], [], [])
    for at, records in ((0, begun), (2, ended)):
        for record in records:
            if vip_of(record) in vips:
                sorts[at + (VERSION[len(record)] == 6)].append(record)
    longest = max(map(len, sorts))
    return tuple(
        Chunk(*(b"".join(each[at : at + MAX_FLOWS]) for each in sorts))
        for at in range(0, longest, MAX_FLOWS)
    )


def kept(flows: Iterable[Flow]) -> Iterator[FlowsKept]:
    """Flows of a primary that is gone, as its successor is told of them."""
    records = list(flows)
    for chunk in chunks(records, (), frozenset(map(vip_of, records))):
        yield FlowsKept(chunk.begun4, chunk.begun6)


class Outgoing:
    """The flows of this device's groups, to one secondary. Times are seconds."""

    def __init__(
        self, epoch: int, groups: tuple[GroupId, ...], vips: frozenset[bytes], now: float
    ) -> None:
        self.epoch = epoch
        self.groups = groups
        self.vips = vips
        """What the groups' flows go to."""
        self.given_up = False
        """The receiver was too slow: it has to begin anew."""
        self.ready = False
        """All flows there are have been read."""
        self._heard = now
        self._waiting: deque[tuple[Chunk, bool]] = deque()
        self._changes = 0
        """Of the parts that wait, those about changes."""
        self._number = 0
        self.acknowledged = 0
        """Of the newest part that is in the receiver's kernel."""

    @property
    def newest(self) -> int:
        """The number that the last part that waits will have."""
        return self._number + len(self._waiting)

    def begin(self, flows: tuple[Chunk, ...]) -> None:
        """Tell all flows there are; the last part says that it is the last."""
        whole = flows or (Chunk(),)
        self._waiting.extend((chunk, chunk is whole[-1]) for chunk in whole)
        self.ready = True

    def go_on(self, changes: tuple[Chunk, ...]) -> None:
        """Tell what changed since; before :meth:`begin` all of it will be in what is told then."""
        if not self.ready or self.given_up:
            return
        self._waiting.extend((chunk, False) for chunk in changes)
        self._changes = min(self._changes + len(changes), len(self._waiting))
        if self._changes > MAX_WAITING:
            self.given_up = True
            self._waiting.clear()

    def acknowledge(self, number: int, now: float) -> None:
        """The receiver has all parts up to this number."""
        self._heard = now
        if self.acknowledged < number <= self._number:
            self.acknowledged = number

    def due(self) -> Iterator[FlowsPart]:
        """The parts that may be sent now."""
        while self._waiting and self._number - self.acknowledged < WINDOW:
            chunk, last = self._waiting.popleft()
            self._changes = min(self._changes, len(self._waiting))
            self._number += 1
            groups = self.groups if self._number == 1 else ()
            yield FlowsPart(self.epoch, self._number, last, groups, *chunk)

    def sign(self) -> FlowsPart:
        """Nothing was sent beyond the newest number."""
        return FlowsPart(self.epoch, self._number, False, sign=True)

    def silent(self, now: float) -> bool:
        """Whether the receiver seems to be gone."""
        return now - self._heard > SILENT_S


class Step(Enum):
    """What a part that came is."""

    FIRST = "the first of a new stream"
    NEXT = "the one after the last"
    SIGN = "nothing new"
    GAP = "one that shows that others were lost"


class Incoming:
    """The flows of one primary's groups, told to this device. Times are seconds."""

    def __init__(self, wanted: frozenset[GroupId]) -> None:
        self.wanted = wanted
        self.unwanted: float | None = None
        """Since when nothing is wanted of that device: it tells of what it still forwards."""
        self.covered: frozenset[GroupId] = frozenset()
        """What the present stream is about."""
        self.vips: frozenset[bytes] = frozenset()
        """VIPs that this had, as far as this device knew, when the stream began."""
        self.complete = False
        """All of the primary's flows are in the kernel."""
        self.anew = False
        """The next stream is asked for, although the present one is whole."""
        self.blurred = False
        """It began while this device still forwarded: what was only here has been kept."""
        self.heard = 0.0
        """When the primary last said anything of the present stream."""
        self._epoch = 0
        self._live = False
        self._number = 0
        """Of the newest part that came."""
        self._entered = 0
        """Of the newest part that is in the kernel."""

    def questions(self) -> tuple[FlowsWanted, ...]:
        """What to tell the primary now: where this device is, that a stream is to begin, or both.

        The present one goes on until then: the primary may take its time to read all flows.
        """
        anew = FlowsWanted(tuple(sorted(self.wanted)), 0, 0)
        if not self._live:
            return (anew,)
        here = FlowsWanted((), self._epoch, self._entered)
        return (here, anew) if self.anew else (here,)

    def take(self, part: FlowsPart, now: float) -> Step:
        """Judge a part that came; a gap ends the stream."""
        step = self._judge(part)
        if step is not Step.GAP and part.epoch == self._epoch:
            self.heard = now
        return step

    def _judge(self, part: FlowsPart) -> Step:
        if part.number == 1 and part.epoch > self._epoch and not part.sign:
            self._live, self._epoch, self._number, self._entered = True, part.epoch, 1, 0
            self.anew = False
            self.covered = frozenset(part.groups) & self.wanted
            return Step.FIRST
        if not self._live or part.epoch != self._epoch:
            # Epoch 0: the primary's agent is a new one, or gave the stream up.
            return Step.GAP if self._live and part.epoch == 0 else Step.SIGN
        if part.number <= self._number:
            return Step.SIGN
        if part.sign or part.number > self._number + 1 or self._number - self._entered > 2 * WINDOW:
            return Step.GAP
        self._number += 1
        return Step.NEXT

    def enter(self, part: FlowsPart) -> bool:
        """A part is in the kernel now; whether this completes the stream's beginning."""
        if not self._live or part.epoch != self._epoch:
            return False
        self._entered = part.number
        self.complete = self.complete or part.complete
        return part.complete

    def forget(self) -> None:
        """The stream has ended: the next question is for a new one."""
        self._live = self.complete = False
        self.covered = frozenset()
