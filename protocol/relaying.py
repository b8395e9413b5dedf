"""Messages for devices that this one is not connected to: passed on by neighbours.

In a large Site a question of an operator and the news of a move go to all
neighbours, and each passes them on to its own, once (flooding). An answer goes
back the way that the question came. A message carries for how many more steps
it may be passed on, so that it ends whatever devices remember of it. Nothing
that decides who is primary travels so.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable

from protocol.ids import DeviceId

MAX_HOPS = 8
"""Steps that a message goes. Twice what a thousand devices with eight neighbours need."""
MAX_REMEMBERED = 2000
"""Newest messages that are known again when they come another way."""


class Relaying:
    """Which messages this device has seen, and who brought them."""

    def __init__(self) -> None:
        self._from: OrderedDict[Hashable, DeviceId | None] = OrderedDict()

    def first(self, message: Hashable, sender: DeviceId | None) -> bool:
        """Whether ``message`` is seen for the first time; ``sender`` None: it is our own."""
        if message in self._from:
            return False
        self._from[message] = sender
        if len(self._from) > MAX_REMEMBERED:
            self._from.popitem(last=False)
        return True

    def back(self, message: Hashable) -> DeviceId | None:
        """Who brought ``message`` first: the way back to its origin."""
        return self._from.get(message)


def onward(neighbours: Iterable[DeviceId], sender: DeviceId, hops: int) -> list[DeviceId]:
    """To whom a message goes that came from ``sender`` and may go ``hops`` steps more."""
    return [device for device in neighbours if device != sender] if hops > 0 else []
