"""Short flows are told to nobody: what begins and ends within two looks needs no other device.

Pure. Most flows of a busy service live for milliseconds, and each that is told costs
every device more than forwarding it. So a flow is told with the look after the one that
found it, if it still lives then.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple


class Turn(Enum):
    """What a notice of the kernel says of a flow."""

    BEGUN = "it was established"
    CHANGED = "it lives, and may have been told already"
    ENDED = "nothing more will come"


class Notice(NamedTuple):
    """One word of the kernel about one flow."""

    turn: Turn
    entry: bytes
    """The same in all notices of one flow, and of no other one at the same time."""
    text: bytes
    """The notice itself: what it says is read only if it is to be told."""


class ShortFlows:
    """What the looks find, without what was over at once."""

    def __init__(self) -> None:
        self._young: dict[bytes, bytes] = {}

    def __bool__(self) -> bool:
        """Whether flows wait for the next look."""
        return bool(self._young)

    def look(self, notices: Iterable[Notice], *, whole: bool) -> tuple[list[bytes], list[bytes]]:
        """Notices of what began and lives, and of what ended, of those that one look found.

        They come oldest first. ``whole`` tells all of them now: where a flow may be known
        elsewhere by other ways already, or there is no time for another look.
        """
        aged = self._young
        young: dict[bytes, bytes] = {}
        lives: dict[bytes, bytes] = {}
        ended: dict[bytes, bytes] = {}
        for turn, entry, text in notices:
            if turn is Turn.BEGUN:
                (aged if entry in aged else young)[entry] = text
            elif turn is Turn.CHANGED:
                (young if entry in young else lives)[entry] = text
            else:
                short = young.pop(entry, None) or aged.pop(entry, None)
                lives.pop(entry, None)
                if whole or short is None:
                    ended[entry] = text
        begun = {**aged, **lives, **(young if whole else {})}
        self._young = {} if whole else young
        return list(begun.values()), list(ended.values())

    def forget(self) -> None:
        """All flows there are will be told in another way."""
        self._young = {}
