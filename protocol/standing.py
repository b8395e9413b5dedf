"""How a device can stand in the eyes of the others, and the number of its own word on it."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class PeerState(StrEnum):
    """How a device stands in the eyes of the others."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    """Some device misses it; it has time to refute."""
    DEAD = "dead"
    STOPPED = "stopped"
    """Said goodbye: stopped cleanly."""
    LEFT = "left"
    """No longer in the configuration."""


class Incarnation(msgspec.Struct, frozen=True, order=True, array_like=True):
    """Number of a device's statements about itself: a newer one ends what was said before."""

    start: int = 0
    """Start of the agent, counted from 1; 0 where the device was never heard of."""
    refuted: int = 0
    """How often it refuted since, or came back from a clean stop."""
