"""Who survived a window, and how long each stalled: the same for all kinds of flows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from halbctl.lab.instrument import MILLI

PACE = 0.1
"""Seconds between two messages of a flow."""
ALIVE_WITHIN = 1.0
"""A survivor had a message within this many seconds before the end of the window."""


@dataclass(eq=False, kw_only=True)
class Flow:
    """One flow of an instrument."""

    lost: str = ""
    """Why it is of no use any more; empty while it is."""
    received: int = 0
    """Messages that came."""
    last: float = 0.0
    """When the newest message came."""
    worst: float = 0.0
    """Longest time between two messages in this window, seconds."""
    counted: bool = field(default=False)
    """Was open when the window began."""

    def heard(self, now: float) -> None:
        """A message came."""
        self.received += 1
        if self.last:
            self.worst = max(self.worst, now - self.last)
        self.last = now

    def count(self, since: float) -> None:
        """The window opens: it counts if it has been heard since."""
        self.counted = not self.lost and self.received > 0 and self.last >= since
        self.worst = 0.0


def outcome(flows: Iterable[Flow], now: float, *, paced: bool = True) -> dict[str, object]:
    """What became of the flows that counted; without ``paced`` there is no stall to speak of."""
    counted = [flow for flow in flows if flow.counted]
    alive = [flow for flow in counted if not flow.lost]
    survivors = [flow for flow in alive if now - flow.last <= ALIVE_WITHIN]
    stalls = sorted(max(flow.worst, now - flow.last) for flow in survivors) if paced else []
    return {
        "connections": len(counted),
        "survivors": len(survivors),
        "silent": len(alive) - len(survivors),
        "lost": dict(Counter(flow.lost for flow in counted if flow.lost)),
        "stall_ms": _beyond_pace(stalls[-1]) if stalls else None,
        "stall_median_ms": _beyond_pace(stalls[len(stalls) // 2]) if stalls else None,
    }


def _beyond_pace(seconds: float) -> float:
    return round(max(0.0, seconds - PACE) / MILLI, 1)
