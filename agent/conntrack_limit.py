"""How full the kernel's connection table is, a word before it is full, and one when flows are lost.

A full table drops the first packet of every new flow, in silence. So does one with room where the
entry would be another flow's: with ``snat`` all flows of a VIP to one port of a gateway differ by
nothing but the port that they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

NEARLY_FULL = 0.8
"""Share from which on it is said."""
CALM = 0.7
"""Share below which it is over."""
PORTS = 64_512
"""Flows of one VIP to one port of a gateway: as many as the kernel has ports for (1024 and up)."""
MANY = 100
"""Packets dropped between two looks that are said; fewer are of flows that met each other."""
KEPT_LOOKS = 30
"""It is over when so many looks found less."""
FRESH_S = 0.2
"""What was seen so long ago still is so: many gateways may be silent at once."""
RECENT_S = 5.0
"""What was dropped since then is dropped now."""
_FOLDER = Path("/proc/sys/net/netfilter")
_STATISTICS = Path("/proc/thread-self/net/stat/nf_conntrack")


@dataclass(frozen=True)
class Room:
    """Entries of this network namespace, and how many may be."""

    entries: int
    limit: int
    dropped: int = 0
    """Packets that got no entry, since the namespace was made."""

    @property
    def share(self) -> float:
        return self.entries / self.limit if self.limit else 0.0


def room() -> Room | None:
    """The table as it is now; None while the kernel has none."""
    try:
        entries, limit = (
            int((_FOLDER / name).read_text()) for name in ("nf_conntrack_count", "nf_conntrack_max")
        )
    except FileNotFoundError:
        return None
    return Room(entries, limit, dropped())


def dropped() -> int:
    """Packets that got no entry, on all processors; 0 where this kernel does not say."""
    try:
        names, *rows = (line.split() for line in _STATISTICS.read_text().splitlines())
    except FileNotFoundError:
        return 0
    at = names.index("drop")
    return sum(int(row[at], 16) for row in rows)


class Crowding:
    """Says whether what this host itself begins is dropped, because the table is full."""

    def __init__(self, look: Callable[[], Room | None] = room) -> None:
        self._look = look
        self._room: Room | None = None
        self._at = 0.0
        self._said = ""

    def __call__(self, now: float) -> str:
        """Why new flows of this host get no entry; empty if they do. ``now``: seconds."""
        if self._room is not None and now - self._at < FRESH_S:
            return self._said
        before = self._room if now - self._at < RECENT_S else None
        self._room, self._at = self._look(), now
        self._said = _crowded(before, self._room)
        return self._said


def _crowded(before: Room | None, now: Room | None) -> str:
    if now is None or now.share < NEARLY_FULL:
        return ""
    if now.entries < now.limit and (before is None or now.dropped == before.dropped):
        return ""
    return (
        f"this host's connection table is full ({now.entries} of {now.limit}), so that checks may"
        " not be sent; raise net.netfilter.nf_conntrack_max"
    )


class Alarm:
    """Says once that the table is nearly full or loses flows, and once that there is room again."""

    def __init__(self) -> None:
        self._room: Room | None = None
        self._raised = False
        self._lost = 0
        """Packets, of the newest look that found many."""
        self._looks = 0
        """Left until that is over."""

    def note(self, now: Room | None) -> str:
        """The table was looked at: news for the history, mostly none."""
        before, self._room = self._room, now
        return self._fullness(now) or self._losses(before, now)

    def _fullness(self, now: Room | None) -> str:
        share = now.share if now else 0.0
        if self._raised == (share >= (CALM if self._raised else NEARLY_FULL)):
            return ""
        self._raised = not self._raised
        if self._raised:
            assert now is not None
            return f"the connection table is {share:.0%} full: {now.entries} of {now.limit}"
        return "the connection table has room again"

    def _losses(self, before: Room | None, now: Room | None) -> str:
        """What was dropped while there was room."""
        lost = now.dropped - before.dropped if before and now and not self._raised else 0
        was, self._looks = self._looks, KEPT_LOOKS if lost >= MANY else max(0, self._looks - 1)
        if lost >= MANY:
            self._lost = lost
        return self._loss() if self._looks and not was else ""

    def _loss(self) -> str:
        return (
            f"{self._lost} packets of new flows were dropped, because their entries would have"
            f" been those of others: with `snat`, a gateway has at most {PORTS} flows of one VIP"
            " on one port"
        )

    def warnings(self) -> Iterator[str]:
        """What status says while it is so."""
        if self._raised and self._room is not None:
            yield (
                f"the connection table is {self._room.share:.0%} full ({self._room.entries} of"
                f" {self._room.limit}): when it is full, new flows are dropped; raise"
                " net.netfilter.nf_conntrack_max"
            )
        if self._looks:
            yield f"{self._loss()}; add gateways or VIPs, or use `routed`"
