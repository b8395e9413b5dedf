"""News of moves to every device of the Site, for everyone's history."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import msgspec

from agent.inquiry import Neighbours
from protocol.api import HistoryEntry
from protocol.ids import DeviceId
from protocol.messages import Message, Moved
from protocol.relaying import MAX_HOPS, Relaying, onward


class Tidings:
    """Tells the neighbours; in a large Site passes on what they tell."""

    def __init__(self, send: Callable[[DeviceId, Message], None], neighbours: Neighbours) -> None:
        self._send = send
        self._neighbours = neighbours
        self._relaying = Relaying()

    def tell(self, entry: HistoryEntry) -> None:
        """Something that this device did or saw."""
        neighbours, all_of_them = self._neighbours()
        self._relaying.first(_identity(entry), None)
        for device in neighbours:
            self._send(device, Moved(entry, 0 if all_of_them else MAX_HOPS))

    def pass_on(self, sender: DeviceId, told: Moved) -> None:
        """What a neighbour told."""
        if not self._relaying.first(_identity(told.entry), sender):
            return
        passed_on = msgspec.structs.replace(told, hops=min(told.hops, MAX_HOPS) - 1)
        for device in onward(self._neighbours()[0], sender, told.hops):
            self._send(device, passed_on)


def _identity(entry: HistoryEntry) -> Hashable:
    return (
        entry.reporter, entry.at, entry.kind, entry.uid, entry.term, entry.device, entry.text,
        len(entry.timeline),
    )  # fmt: skip
