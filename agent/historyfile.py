"""The history on disk: one JSON line per entry, written beside the loop.

It is for people: no decision rests on it, so it is not fsync'd, a torn line costs
that entry alone, and a disk that is full or hangs stops nothing but the record.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from agent.worker import workers
from protocol.api import HistoryEntry

MAX_BYTES = 4 * 1024 * 1024
"""Of a file that is found at start; only its end is read if it is longer."""


class Work(Protocol):
    """Carries jobs out, one after the other."""

    def do(self, job: Callable[[], None], done: Callable[[OSError | None], None]) -> None:
        """Have ``job`` done, and say what the disk refused it with, if it did."""

    def close(self) -> None:
        """Wait for the job under way."""


class AtOnce:
    """Does each job before it returns."""

    def do(self, job: Callable[[], None], done: Callable[[OSError | None], None]) -> None:
        try:
            job()
        except OSError as error:
            done(error)
        else:
            done(None)

    def close(self) -> None:
        """Nothing is under way."""


class Beside:
    """Does them in a thread of its own: a disk that hangs must not hold up a heartbeat.

    Must be made while the loop runs.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker = workers("halb-history")

    def do(self, job: Callable[[], None], done: Callable[[OSError | None], None]) -> None:
        def ended(future: asyncio.Future[None]) -> None:
            error = future.exception()
            if error is not None and not isinstance(error, OSError):
                raise error
            done(error)

        self._loop.run_in_executor(self._worker, job).add_done_callback(ended)

    def close(self) -> None:
        self._worker.shutdown(wait=True)


class HistoryFile:
    """Keeps a file with all entries there are, and at most as many that were dropped since.

    ``report`` is told once when the disk refuses, and once when it takes entries again.
    """

    def __init__(
        self,
        path: Path,
        limit: int,
        everything: Callable[[], Sequence[HistoryEntry]],
        report: Callable[[str], None],
        work: Work,
    ) -> None:
        self._path = path
        self._limit = limit
        self._everything = everything
        self._report = report
        self.work = work
        self._lines = 0
        """Lines in the file, replaced and dropped ones included."""
        self._stale = False
        """The file lacks entries and has to be written anew."""
        self._unsaved: list[HistoryEntry] = []
        self._writing = False
        self.trouble = ""
        """Why entries are not on disk; empty if they are."""
        self.notes: tuple[str, ...] = ()
        """What was wrong with the file when it was read."""

    def load(self) -> list[HistoryEntry]:
        """The entries in the file, oldest first."""
        try:
            data = _tail(self._path)
        except FileNotFoundError:
            return []
        except OSError as error:
            self._refused(error)
            return []
        *lines, torn = data.split(b"\n")
        found: list[HistoryEntry] = []
        lost = 0
        for line in (*lines, torn) if torn else lines:
            try:
                found.append(msgspec.json.decode(line, type=HistoryEntry))
            except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
                lost += 1
        self._lines = len(lines)
        # A line without its end would swallow the next one.
        self._stale = bool(lost or torn)
        if lost:
            entries = "1 entry" if lost == 1 else f"{lost} entries"
            self.notes = (f"{self._path}: {entries} could not be read and went lost",)
        return found

    def save(self, entry: HistoryEntry) -> None:
        """Have an entry written, which is among all there are already."""
        if len(self._unsaved) < self._limit:
            self._unsaved.append(entry)
        else:
            self._stale = True
        if not self._writing:
            self._write()

    def close(self) -> None:
        """Wait until everything is written, or refused."""
        self.work.close()
        self.work = AtOnce()
        if self._unsaved:
            self._write()

    def _write(self) -> None:
        some, self._unsaved = self._unsaved, []
        anew = self._stale or self._lines + len(some) > 2 * self._limit
        entries = tuple(self._everything()) if anew else tuple(some)
        self._writing, self._stale = True, False

        def job() -> None:
            lines = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
            if not anew:
                _write(self._path, os.O_APPEND, lines)
                return
            fresh = self._path.with_suffix(".new")
            _write(fresh, os.O_TRUNC, lines)
            fresh.replace(self._path)

        def done(error: OSError | None) -> None:
            self._writing = False
            if error is not None:
                self._stale = True
                self._refused(error)
                return
            self._lines = len(entries) + (0 if anew else self._lines)
            if self.trouble:
                self.trouble = ""
                self._report(f"history is written to {self._path} again")
            if self._unsaved:
                self._write()

        self.work.do(job, done)

    def _refused(self, error: OSError) -> None:
        first = not self.trouble
        self.trouble = f"history is not written to {self._path}: {error.strerror}"
        if first:
            self._report(self.trouble)


def _tail(path: Path) -> bytes:
    """The last :data:`MAX_BYTES` of a file, from the beginning of a line on."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MAX_BYTES))
        data = file.read(MAX_BYTES)
    return data if size <= MAX_BYTES else data.partition(b"\n")[2]


def _write(path: Path, flags: int, data: bytes) -> None:
    """Write all of ``data`` or raise OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o640)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
