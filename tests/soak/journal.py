"""What was done and seen, with times: printed, written to a file, and asked by the judge."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

SHOWN = 14
"""Entries that a violation is printed with."""


@dataclass(frozen=True)
class Entry:
    """One thing that was done (``act``), seen (``saw``), or broke a rule (``broke``)."""

    at: float
    """CLOCK_MONOTONIC seconds."""
    kind: str
    what: str
    """Such as ``crash``, ``gateway-dead``, ``primary``, ``slots``."""
    subject: str = ""
    """The device, gateway or Virtual Server, or ``VS/GATEWAY``."""
    detail: str = ""


class Journal:
    """All entries of a run, by any thread."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.began = time.monotonic()
        self.entries: list[Entry] = []
        self.broken = 0
        self._lock = threading.Lock()
        self._file = (folder / "journal.jsonl").open("w")

    def note(
        self, kind: str, what: str, subject: str = "", detail: str = "", at: float | None = None
    ) -> None:
        """Add an entry, of now unless ``at`` says when."""
        entry = Entry(time.monotonic() if at is None else at, kind, what, subject, detail)
        with self._lock:
            self.entries.append(entry)
            self._file.write(json.dumps(asdict(entry)) + "\n")
            self._file.flush()
            if kind in ("act", "saw"):
                sys.stdout.write(self._line(entry) + "\n")
                sys.stdout.flush()

    def violation(self, rule: str, detail: str, at: float | None = None) -> None:
        """A rule was broken: print it with what was done before."""
        when = time.monotonic() if at is None else at
        before = [e for e in self.entries if e.kind == "act" and e.at <= when][-SHOWN:]
        self.note("broke", rule, detail=detail, at=when)
        self.broken += 1
        lines = [f"VIOLATION {rule}: {detail}", f"  at {when - self.began:.3f} s; before it:"]
        lines += [f"  {self._line(entry)}" for entry in before]
        lines.append(f"  run again: --seed {self.seed}; logs: {self.folder}")
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()

    def find(
        self, what: str, subject: str = "", since: float = 0.0, until: float = 1e18
    ) -> Iterator[Entry]:
        """Entries of a time, oldest first."""
        for entry in list(self.entries):
            if entry.what == what and subject in ("", entry.subject) and since <= entry.at <= until:
                yield entry

    def close(self) -> None:
        self._file.close()

    def _line(self, entry: Entry) -> str:
        text = f"{entry.at - self.began:9.3f} {entry.what} {entry.subject} {entry.detail}"
        return text.rstrip()
