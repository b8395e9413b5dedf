"""Durable state while the agent runs, written beside its loop: the core is told when it is.

A disk may take longer for a write than a lease lasts. So votes have a worker of their own;
while it writes, the newest ballots of all groups gather, and go to disk together. Another
worker writes configurations, and what no vote rests on: local edits, conflicts. A disk that
refuses is tried again each second. One that hangs counts as one that refuses, and what was
written long ago is written once more: who cannot vote is to be known before an election.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial

from agent.conflicts import Kept
from agent.disk import Disk, DiskError
from agent.lastseen import LastSeen
from agent.realtime import stay_ahead
from agent.worker import workers
from protocol.config import Config
from protocol.effects import (
    Ballot,
    BallotsStored,
    ConfigStored,
    Input,
    PersistFailed,
    PersistWorks,
)
from protocol.ids import GroupId, Revision
from protocol.local import Local
from protocol.timing import HANGS_NS, SECOND

RETRY_S = 1.0
"""Seconds until a disk that refused is tried again."""
SLOW_S = 1.0
"""Votes that take the disk longer are worth an operator's attention: elections wait for them."""
HANGS_S = HANGS_NS / SECOND
"""Votes that take longer are taken for refused, until the disk has them after all."""
PROBE_S = 30.0
"""Votes are written at least this often, also where there are no new ones."""
_LOCAL, _GATEWAYS = _OF_SITE = "local changes", "gateways that are down"

_log = logging.getLogger("halb.storage")


class Storage:
    """Writes what the core wants durable, and tells it when that worked or failed."""

    def __init__(
        self, disk: Disk, ballots: Mapping[GroupId, Ballot], deliver: Callable[[Input], None]
    ) -> None:
        self.disk = disk
        self._refused = ""
        """What the disk last refused with, of what votes rest on; empty while it works."""
        self._beside: dict[str, Callable[[], None]] = {}
        """The newest writes of what no vote rests on, until they are durable."""
        self._lacking: dict[str, str] = {}
        """What the disk last refused those of them with that it did refuse."""
        self._ballots = dict(ballots)
        self._asked = 0
        """Number of the newest ballots that the core wants on disk."""
        self._writing = self._again = False
        """Whether ballots are being written; and that the disk refused something before."""
        self._began = 0.0
        """When the newest write of ballots began, seconds."""
        self._deliver = deliver
        self._votes = workers("halb-votes")
        self._worker = workers("halb-disk")
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._hanging: asyncio.TimerHandle | None = None
        self._probe = self._loop.call_later(PROBE_S, self._look)
        self._left = 0
        """Sites that this device has left."""

    @property
    def problem(self) -> str:
        """What the disk last refused with, or that it does not answer; empty while it works."""
        waits = self._loop.time() - self._began if self._writing else 0.0
        if waits > SLOW_S and not self._refused:
            return (
                f"{self.disk.folder}: votes have been on their way to this disk for {waits:.0f} s"
            )
        return self._refused or next(iter(self._lacking.values()), "")

    def save_ballots(self, number: int, changed: Mapping[GroupId, Ballot]) -> None:
        """Write ballots in their worker; the core learns when they are durable."""
        self._asked = number
        self._ballots.update(changed)
        if not self._writing:
            self._write_ballots()

    def _write_ballots(self) -> None:
        self._writing, self._began = True, self._loop.time()
        self._hanging = self._loop.call_later(HANGS_S, self._hangs)
        self._look_later()
        number, left = self._asked, self._left
        ballots = dict(self._ballots)
        future = self._loop.run_in_executor(self._votes, self._save_ballots, ballots)
        future.add_done_callback(lambda done: self._wrote_ballots(done, number, left))

    def _save_ballots(self, ballots: Mapping[GroupId, Ballot]) -> None:
        stay_ahead()  # elections wait for this thread, on a busy host too
        self.disk.save_ballots(ballots)

    def _wrote_ballots(self, done: asyncio.Future[None], number: int, left: int) -> None:
        if done.cancelled() or left != self._left:
            return
        self._wrote()
        error = done.exception()
        if isinstance(error, DiskError):
            self._failed(error)
            return
        if error is not None:
            raise error
        self._deliver(BallotsStored(number))
        if self._again:
            _log.warning("the disk takes writes again")
            self._again, self._refused = False, ""
            self._deliver(PersistWorks())
        if number < self._asked:
            self._write_ballots()

    def _wrote(self) -> None:
        self._writing = False
        if self._hanging is not None:
            self._hanging.cancel()

    def _hangs(self) -> None:
        _log.error("%s", self.problem)
        self._again = True
        self._deliver(PersistFailed())

    def _look(self) -> None:
        if self._ballots and not self._writing:
            self._write_ballots()
        else:
            self._look_later()

    def _look_later(self) -> None:
        self._probe.cancel()
        self._probe = self._loop.call_later(PROBE_S, self._look)

    def save_config(self, config: Config, committed: Revision) -> None:
        """Write a configuration in the worker; the core learns when it is durable."""
        future = self._loop.run_in_executor(self._worker, self.disk.save_config, config, committed)
        left = self._left
        future.add_done_callback(lambda done: self._saved(done, config.revision, left))

    def save_local(self, local: Local | None) -> None:
        """Write the local edits in the worker."""
        self._save_beside(_LOCAL, partial(self.disk.save_local, local))

    def save_conflicts(self, conflicts: tuple[Kept, ...]) -> None:
        """Write them in the worker, before any configuration that is given to it later."""
        self._save_beside("conflicts", partial(self.disk.save_conflicts, conflicts))

    def save_gateways(self, seen: LastSeen) -> None:
        """Write them in the worker, but for what newer ones wait behind."""

        def write() -> None:
            if self._beside.get(_GATEWAYS) is write:
                self.disk.save_gateways(seen)

        self._save_beside(_GATEWAYS, write)

    def _save_beside(self, what: str, write: Callable[[], None]) -> None:
        """Of no weight for the votes: a disk that refuses it must not stop them."""
        self._beside[what] = write
        future = self._loop.run_in_executor(self._worker, write)
        future.add_done_callback(lambda done: self._saved_beside(done, what, write))

    def _saved_beside(
        self, done: asyncio.Future[None], what: str, write: Callable[[], None]
    ) -> None:
        if done.cancelled() or self._beside.get(what) is not write:
            return
        error = done.exception()
        if error is None:
            del self._beside[what]
            if self._lacking.pop(what, ""):
                _log.warning("the disk takes the %s again", what)
        elif isinstance(error, DiskError):
            if what not in self._lacking:
                _log.error("%s. %s", error.message, error.remedy)
            self._lacking[what] = error.message
            self._loop.call_later(RETRY_S, self._save_again, what, write)
        else:
            raise error

    def _save_again(self, what: str, write: Callable[[], None]) -> None:
        if self._beside.get(what) is write:
            self._save_beside(what, write)

    def _saved(self, done: asyncio.Future[None], revision: Revision, left: int) -> None:
        if done.cancelled() or left != self._left:
            return
        error = done.exception()
        if error is None:
            self._deliver(ConfigStored(revision))
        elif isinstance(error, DiskError):
            self._failed(error)
        else:
            raise error

    def _failed(self, error: DiskError) -> None:
        if not self._refused:
            _log.error("%s. %s", error.message, error.remedy)
        self._refused = error.message
        self._deliver(PersistFailed())
        if self._retry is None:
            self._retry = self._loop.call_later(RETRY_S, self._try_again)

    def _try_again(self) -> None:
        self._retry, self._again = None, True
        if not self._writing:
            self._write_ballots()

    def forget_site(self) -> None:
        """Leave the Site: nothing of it stays on disk, nor is news any more.

        Waits for what the worker has to write, which would be there again: a device that
        leaves has nothing to be in time for.
        """
        for worker in (self._votes, self._worker):  # after whatever each of them has to write
            worker.submit(self.disk.forget_site).result()
        self._ballots = {}
        self._asked, self._again = 0, False
        self._wrote()
        for what in _OF_SITE:
            self._beside.pop(what, None)
            self._lacking.pop(what, None)
        self._left += 1

    def close(self) -> None:
        """Finish the write under way."""
        self._probe.cancel()
        if self._retry is not None:
            self._retry.cancel()
        self._votes.shutdown(wait=True)
        self._worker.shutdown(wait=True)
        self._beside.clear()
