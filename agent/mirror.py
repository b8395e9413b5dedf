"""What a primary tells of its flows, entered in this kernel; runs in a worker thread.

At the beginning of a stream the kernel is read once. What is there already stays,
what is missing is entered, and what the primary no longer has is removed in the end.
"""

from __future__ import annotations

import logging

from agent.flowtable import FlowTable
from protocol.errors import HalbError
from protocol.flows import UDP, Flow, FlowsPart, key_of, vip_of

_log = logging.getLogger("halb.flows")


class Mirror:
    """One stream of one primary."""

    def __init__(self, table: FlowTable) -> None:
        self._table = table
        self._present: frozenset[Flow] = frozenset()
        self._stale: set[Flow] = set()
        """Flows that were here when the stream began and were not told of yet."""
        self._whole = False
        """The stream's beginning is over: what is told now began just now."""

    def begin(self, vips: frozenset[bytes]) -> None:
        """Look at what is here, before the first part."""
        self._present = frozenset(self._table.all(vips))
        self._stale = set(self._present)

    def enter(self, part: FlowsPart, vips: frozenset[bytes], mine: frozenset[bytes]) -> int:
        """Enter a part's flows to ``vips``; how many the kernel refused.

        ``mine`` are VIPs that this device itself has by now, or had a moment ago: none of
        the flows to them is removed, and only one that began later replaces one that
        lives. Raises MalformedMessage.
        """
        told = [flow for flow in part.begun if vip_of(flow) in vips]
        self._stale.difference_update(told)
        new = [flow for flow in told if flow not in self._present]
        self._table.prolong([f for f in told if f[0] == UDP and f in self._present])
        older = frozenset() if self._whole else mine
        refused = self._table.put([f for f in new if vip_of(f) not in older])
        self._table.put([f for f in new if vip_of(f) in older], replace=False)
        gone = [key for key in part.ended if vip_of(key) in vips and vip_of(key) not in mine]
        if part.complete:
            gone += [key_of(flow) for flow in self._stale if vip_of(flow) not in mine]
            self._present, self._stale, self._whole = frozenset(), set(), True
        self._table.remove(gone)
        return refused


def enter(
    mirror: Mirror,
    part: FlowsPart,
    vips: frozenset[bytes],
    mine: frozenset[bytes],
    *,
    first: bool,
) -> int | None:
    """Enter a part; None if that failed and everything has to be told anew."""
    try:
        if first:
            mirror.begin(vips)
        return mirror.enter(part, vips, mine)
    except HalbError as error:
        _log.warning("flows that another device told of: %s", error.message)
        return None
