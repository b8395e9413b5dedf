"""What happened to the Site: the newest entries, in memory and on disk.

``history.jsonl`` under the state directory has them (:mod:`agent.historyfile`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from agent.historyfile import AtOnce, Beside, HistoryFile
from protocol.api import HistoryEntry
from protocol.config import Config
from protocol.effects import Event
from protocol.ids import SITE_GROUP, DeviceId, GroupId
from protocol.timing import MILLISECOND

FILE = "history.jsonl"
MAX_ENTRIES = 1000
FRESH_MS = 3600 * 1000
"""A warning about two owners stands this long."""
PHASES = {
    "detection": ("silent", "voted"),
    "election": ("voted", "won"),
    "lease": ("won", "acquired"),
    "announcement": ("acquired", "announced"),
}
"""Each phase with the marks of :class:`protocol.effects.Event` that begin and end it."""

VERIFICATION = "verification"
"""From the announcement until the last neighbour has learnt where the VIPs are."""
ALARMS = frozenset({"two-owners", "foreign-owner", "not-learnt"})
"""Kinds of entries that are warnings in the log."""
TOLD = ALARMS | {"primary", "move", "learnt", "drained", "carried", "flows", "gateway"}
"""Kinds that every device of the Site is told of, for its own history."""

OFFICE = {"leader": 0, "primary": 1}
"""Kinds that tell of one device taking one office in one term; the higher tells more."""
FLOWS = {"carried": 0, "flows": 1}
"""Kinds that tell what became of its flows then; the same."""


def phases(marks: Mapping[str, int]) -> dict[str, float]:
    """Milliseconds by phase from marks in nanoseconds of one clock; ``total`` over all.

    A phase with a mark missing is left out.
    """
    found = {
        phase: (marks[end] - marks[begin]) / MILLISECOND
        for phase, (begin, end) in PHASES.items()
        if begin in marks and end in marks
    }
    known = [marks[mark] for pair in PHASES.values() for mark in pair if mark in marks]
    if found:
        found["total"] = (max(known) - min(known)) / MILLISECOND
    return {phase: round(ms, 3) for phase, ms in found.items()}


def entry_of(
    event: Event,
    config: Config,
    reporter: DeviceId,
    unix_ms: int,
    marks: Mapping[str, int] | None = None,
) -> HistoryEntry:
    """An event of the core as it is remembered, with names in place of ids.

    ``marks`` are further marks of the timeline that the shell took, such as
    ``announced``; they go before those of the event.
    """

    def name(device: DeviceId | None) -> str:
        known = config.devices.get(device) if device else None
        return known.name if known else device or ""

    server = config.virtual_servers.get(event.group) if event.group else None
    about = event.device or reporter
    if event.kind == "lame":
        # The event names the successor; the entry is about who hands over.
        about, text = reporter, f"{event.text} to {name(event.device)}"
    elif event.kind == "leader":
        text = "became primary"
    else:
        text = event.text
    if event.group == SITE_GROUP:
        text = text.replace("primary", "coordinator")
    return HistoryEntry(
        at=unix_ms,
        kind=event.kind,
        virtual_server=server.name if server else "",
        uid=event.group,
        device=name(about),
        reporter=name(reporter),
        term=event.term,
        text=text,
        timeline=phases({**event.timeline, **(marks or {})}),
    )


def two_owners_lately(entries: Iterable[HistoryEntry], unix_ms: int) -> Iterator[str]:
    """A warning for each Virtual Server that had two owners within :data:`FRESH_MS`."""
    newest = {
        e.virtual_server: e
        for e in entries
        # One from later is of before the clock was set back.
        if e.kind == "two-owners" and abs(unix_ms - e.at) < FRESH_MS
    }
    for name, entry in newest.items():
        ago = max(0, unix_ms - entry.at) // 1000
        yield f"{name}: {ago} s ago {entry.text} ({entry.reporter})"


class History:
    """The newest ``limit`` entries, oldest first; entries of other devices are merged in.

    Which are the newest is told by when they came, for clocks may be set.

    ``report`` is told of troubles with the disk, to which is written ``beside`` the loop.
    """

    def __init__(
        self,
        state_dir: Path,
        report: Callable[[str], None] = lambda _: None,
        limit: int = MAX_ENTRIES,
        *,
        beside: bool = False,
    ) -> None:
        self._limit = limit
        self._known: dict[Hashable, HistoryEntry] = {}
        """As they came."""
        self.counts: Counter[tuple[str, str]] = Counter()
        """Entries by kind and Virtual Server, since the start."""
        work = Beside() if beside else AtOnce()
        self.file = HistoryFile(state_dir / FILE, limit, self._all, report, work)
        for entry in self.file.load():
            self._keep(entry)

    def add(self, entry: HistoryEntry) -> bool:
        """Remember ``entry``; False if it says nothing new."""
        known = self._known.get(_identity(entry))
        if not self._keep(entry):
            return False
        if known is None or known.kind != entry.kind:
            self.counts[entry.kind, entry.virtual_server] += 1
        self.file.save(entry)
        return True

    def query(
        self, virtual_server: str | None = None, limit: int = 100
    ) -> tuple[HistoryEntry, ...]:
        """The newest ``limit`` entries, of one Virtual Server if named, oldest first."""
        wanted = [e for e in self._known.values() if virtual_server in (None, e.virtual_server)]
        return tuple(sorted(wanted[-limit:], key=lambda e: e.at)) if limit > 0 else ()

    def texts(self, kind: str) -> Iterator[tuple[GroupId | None, str]]:
        """What the entries of a kind say, and of which Virtual Server, as they came."""
        return ((e.uid, e.text) for e in self._known.values() if e.kind == kind)

    def named(self, entry: HistoryEntry) -> HistoryEntry:
        """``entry``, of a Virtual Server that is deleted already with the name that it had."""
        if entry.virtual_server or entry.uid is None:
            return entry
        known = (e.virtual_server for e in reversed(self._known.values()) if e.uid == entry.uid)
        return msgspec.structs.replace(entry, virtual_server=next(filter(None, known), ""))

    def verified(self, uid: GroupId, reporter: str, ms: float) -> HistoryEntry | None:
        """The entry about the newest takeover of ``uid`` by ``reporter``, with its last phase.

        None where it is not known, or had that phase already.
        """
        for entry in reversed(self._known.values()):
            if (entry.kind, entry.uid, entry.reporter) == ("primary", uid, reporter):
                if not entry.timeline or VERIFICATION in entry.timeline:
                    return None
                timeline = {**entry.timeline, VERIFICATION: round(ms, 3)}
                return msgspec.structs.replace(entry, timeline=timeline)
        return None

    def _all(self) -> tuple[HistoryEntry, ...]:
        return tuple(self._known.values())

    def _keep(self, entry: HistoryEntry) -> bool:
        key = _identity(entry)
        known = self._known.get(key)
        if known is not None and _told(entry) <= _told(known):
            return False
        self._known[key] = entry
        if len(self._known) > self._limit:
            del self._known[next(iter(self._known))]
        return True


def _identity(entry: HistoryEntry) -> Hashable:
    """Equal for entries that tell of the same thing, whoever reports it."""
    if entry.kind in OFFICE and entry.term:
        return ("office", entry.uid, entry.term)
    if entry.kind in FLOWS:
        return ("flows", entry.uid, entry.term, entry.device)
    return (entry.kind, entry.uid, entry.term, entry.device, entry.reporter, entry.at, entry.text)


def _told(entry: HistoryEntry) -> tuple[int, int]:
    """How much an entry tells, to choose between two that tell of the same thing."""
    return (OFFICE | FLOWS).get(entry.kind, 0), len(entry.timeline)
