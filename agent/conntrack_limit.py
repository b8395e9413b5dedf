"""How full the kernel's connection table is, and a word before it is full.

A full table drops the first packet of every new flow, in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NEARLY_FULL = 0.8
"""Share from which on it is said."""
CALM = 0.7
"""Share below which it is over."""
_FOLDER = Path("/proc/sys/net/netfilter")


@dataclass(frozen=True)
class Room:
    """Entries of this network namespace, and how many may be."""

    entries: int
    limit: int

    @property
    def share(self) -> float:
        return self.entries / self.limit if self.limit else 0.0


def room() -> Room | None:
    """The table as it is now; None while the kernel has none."""
    try:
        values = [
            int((_FOLDER / name).read_text()) for name in ("nf_conntrack_count", "nf_conntrack_max")
        ]
    except FileNotFoundError:
        return None
    return Room(*values)


class Alarm:
    """Says once that the table is nearly full, and once that it is over."""

    def __init__(self) -> None:
        self._room: Room | None = None
        self._raised = False

    def note(self, now: Room | None) -> str:
        """The table was looked at: news for the history, mostly none."""
        self._room = now
        share = now.share if now else 0.0
        if self._raised == (share >= (CALM if self._raised else NEARLY_FULL)):
            return ""
        self._raised = not self._raised
        if self._raised:
            assert now is not None
            return f"the connection table is {share:.0%} full: {now.entries} of {now.limit}"
        return "the connection table has room again"

    def warnings(self) -> Iterator[str]:
        """What status says while it is nearly full."""
        if self._raised and self._room is not None:
            yield (
                f"the connection table is {self._room.share:.0%} full ({self._room.entries} of"
                f" {self._room.limit}): when it is full, new flows are dropped; raise"
                " net.netfilter.nf_conntrack_max"
            )
