"""What a primary tells of its flows, entered in this kernel; runs in a worker thread.

At the beginning of a stream the kernel is read once. What is there already stays,
what is missing is entered, and what the primary no longer has is removed in the end:
but for what a primary never had, that has just taken over from another one.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from agent.flowtable import FlowTable
from agent.keptflows import WORTH_S
from agent.toldflows import ToldFlows
from protocol.errors import HalbError
from protocol.flows import UDP, Flow, FlowsKept, FlowsPart, Key, key_of, vip_of

_log = logging.getLogger("halb.flows")


class Entered(NamedTuple):
    """What became of a part."""

    refused: int
    """Flows of this stream for which the kernel had no room."""
    untold: tuple[Flow, ...] = ()
    """With the last of all flows there are: those that stay although the primary lacks them."""


class Mirror:
    """One stream of one primary."""

    def __init__(
        self,
        table: FlowTable,
        told: ToldFlows,
        kept: frozenset[bytes] = frozenset(),
        unknown: frozenset[bytes] = frozenset(),
    ) -> None:
        """Flows to the VIPs ``kept`` stay also if the primary does not tell of them, and so do
        those to ``unknown`` ones that were forwarded for a moment ago. ``told`` is of the same
        primary, from its streams before."""
        self.told = told
        self._table = table
        self._kept = kept
        self._unknown = unknown
        self._present: frozenset[Flow] = frozenset()
        self._stale: dict[Key, Flow] = {}
        """Flows that were here when the stream began and were not told of yet, be it that they
        lead elsewhere now."""
        self._whole = False
        """The stream's beginning is over: what is told now began just now."""
        self._refused = 0

    def begin(self, vips: frozenset[bytes]) -> None:
        """Look at what is here, before the first part."""
        self.told.begin(vips)
        self._present = frozenset(self._table.all(vips))
        self._stale = {key_of(flow): flow for flow in self._present}
        if self._unknown:
            self._kept |= self._table.lately(self._unknown, WORTH_S)

    def enter(self, part: FlowsPart, vips: frozenset[bytes], mine: frozenset[bytes]) -> Entered:
        """Enter a part's flows to ``vips``.

        ``mine`` are VIPs that this device itself has by now, or had a moment ago: none of
        the flows to them is removed, and only one that began later replaces one that
        lives. Raises MalformedMessage.
        """
        told = [flow for flow in part.begun if vip_of(flow) in vips]
        ended = [key for key in part.ended if vip_of(key) in vips]
        self.told.tell(told, ended)
        for flow in told:
            self._stale.pop(key_of(flow), None)
        new = [flow for flow in told if flow not in self._present]
        self._table.prolong([f for f in told if f[0] == UDP and f in self._present])
        older = frozenset() if self._whole else mine
        self._refused += self._table.put([f for f in new if vip_of(f) not in older])
        self._refused += self._table.put([f for f in new if vip_of(f) in older], replace=False)
        gone = [key for key in ended if vip_of(key) not in mine]
        untold: tuple[Flow, ...] = ()
        if part.complete:
            self.told.whole()
            stale = [flow for flow in self._stale.values() if vip_of(flow) not in mine]
            untold = tuple(flow for flow in stale if vip_of(flow) in self._kept)
            gone += [key_of(flow) for flow in stale if vip_of(flow) not in self._kept]
            self._present, self._stale, self._whole = frozenset(), {}, True
        self._table.remove(gone)
        return Entered(self._refused, untold)


def add(table: FlowTable, told: FlowsKept, vips: frozenset[bytes]) -> list[Flow]:
    """Enter flows to ``vips`` that this device lacks; those that it lacked.

    Raises MalformedMessage.
    """
    return table.add([flow for flow in told.flows if vip_of(flow) in vips])


def enter(
    mirror: Mirror,
    part: FlowsPart,
    vips: frozenset[bytes],
    mine: frozenset[bytes],
    *,
    first: bool,
) -> Entered | None:
    """Enter a part; None if that failed and everything has to be told anew."""
    try:
        if first:
            mirror.begin(vips)
        return mirror.enter(part, vips, mine)
    except HalbError as error:
        _log.warning("flows that another device told of: %s", error.message)
        return None
