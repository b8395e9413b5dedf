"""When the memory of a deleted object may go.

A tombstone keeps a device that was away from bringing its old copy of the
object back. It is collected once it is old enough and every device of the Site
has passed it, and at the latest after :attr:`Retention.longest`. The collected
configuration carries a floor: a device that comes from before it is given a
whole copy, and keeps nothing of its own, so no object returns.

There is no wall clock here, so a tombstone's age counts from when this device
first had it, on the monotonic clock; a restart begins anew. It is therefore
kept longer than configured, never shorter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from protocol.config import Config
from protocol.ids import NO_REVISION, Revision
from protocol.timing import SECOND

DAY = 24 * 3600 * SECOND


@dataclass(frozen=True, slots=True)
class Retention:
    """How long tombstones are kept, nanoseconds."""

    shortest: int = 15 * 60 * SECOND
    """Even if every device has passed it."""
    longest: int = 7 * DAY
    """Although a device has not."""
    every: int = 60 * SECOND
    """At most one collection, which is a revision of its own, in this time."""


class Tombstones:
    """First sight of each tombstone on this device."""

    def __init__(self, retention: Retention) -> None:
        self.retention = retention
        self._first: dict[Revision, int] = {}
        self._looked_at = NO_REVISION
        self._look_at = 0

    def note(self, config: Config, now: int) -> None:
        """``config`` is in force."""
        if config.revision == self._looked_at:
            return
        self._looked_at = config.revision
        self._first = {r.revision: self._first.get(r.revision, now) for r in config.tombstones()}

    def due(self, now: int) -> bool:
        """Whether to look for some to collect."""
        return bool(self._first) and now >= self._look_at

    def floor(self, passed: Iterable[Revision], now: int) -> Revision | None:
        """Up to where tombstones may be collected now; None if none may be.

        ``passed`` are the revisions that the Site's devices have stored.
        """
        self._look_at = now + self.retention.every
        reached = min(passed, default=NO_REVISION)
        found: Revision | None = None
        for revision in sorted(self._first):
            age = now - self._first[revision]
            known = revision <= reached and age >= self.retention.shortest
            if not (known or age >= self.retention.longest):
                break
            found = revision
        return found
