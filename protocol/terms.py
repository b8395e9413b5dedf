"""Terms of the coordinator's group that two sides of a split never share.

A revision of the configuration is known by its term and a counter. Where an operator's force
made two histories of one, no term may occur in both, or the two would pass for the same. So
terms come in blocks, which belong to the devices in turn: force leaps into an own one, and so
does a candidate that was told of terms which its configuration knows nothing of.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.config import Config
from protocol.ids import DeviceId

TERM_LEAP = 1000
"""Elections that lost devices may have held among themselves meanwhile; a block of terms."""
TURNS = 2**16
"""Blocks until the first device has its turn again: two for each."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a candidate for coordinator goes on from."""

    written: int
    """The term of the configuration on its disk."""
    turn: int
    """:func:`turn_of` this device."""

    def after(self, newest: int) -> int:
        """The term to stand in, where ``newest`` was heard of."""
        own = newest // TERM_LEAP % TURNS == self.turn
        if own or newest < self.written + TERM_LEAP // 2:
            return newest + 1
        return block(newest, self.turn) + 1


def turn_of(device: DeviceId, config: Config, *, alone: bool = True) -> int:
    """Which blocks are the device's: for what it does by itself, or asks a coordinator for."""
    known = config.devices.get(device)
    return (2 * (known.joined if known else 0) + alone) % TURNS


def block(newest: int, turn: int) -> int:
    """The first term of a block that is a whole leap ahead of ``newest``."""
    first = newest // TERM_LEAP + 2
    return (first + (turn - first) % TURNS) * TERM_LEAP
