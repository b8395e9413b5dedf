"""The kernel's upkeep: one worker that makes it as the newest configuration says.

Wishes that come while a pass runs are merged: only the newest counts. A pass
also runs every few seconds, and repairs what others changed. The loop never
waits for a ruleset.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from agent.clock import until_round
from agent.conntrack import Flow
from agent.counters import Reading
from agent.dataplane import DataPlane, Desired, Reconciled
from agent.lasting import lasting
from agent.realtime import keep_memory
from agent.watch import KernelWatch
from agent.worker import workers
from protocol.errors import HalbError
from protocol.ids import GroupId, Revision

PASS_S = 4.0
"""Seconds between two passes where nothing is wished, and the kernel tells of no change."""
COUNT_AGE_S = 1.0
"""Counts of flows older than this are read anew when somebody asks."""
COUNT_WAIT_S = 0.1
"""A question for counts waits this long for the worker, then takes the older ones."""
FRESH_S = 2.0
"""Counts older than this say nothing of now. Those of a busy host take a second themselves."""
FRESH_WAIT_S = 0.25
"""A question for counts that decide something waits so long, which is half of who asks."""
MAX_DRIFT = 20
KEEP_S = 60.0
"""At least so many seconds are between two configurations that come to stay in memory."""

_log = logging.getLogger("halb.kernel")

T = TypeVar("T")
Counts = Mapping[tuple[GroupId, str], int]


class Kernel:
    """Runs a :class:`DataPlane` in its own thread."""

    def __init__(
        self,
        plane: DataPlane,
        on_pass: Callable[[Desired, Revision, Reconciled | None, str], None],
        on_change: Callable[[], None],
    ) -> None:
        """Each pass ends with ``on_pass(wish, its revision, what was done, error)``.

        ``on_change`` tells that others may have changed the interface or our tables.
        Both are called in the loop's thread.
        """
        self._plane = plane
        self._on_pass = on_pass
        self._on_change = on_change
        self._worker = workers("halb-kernel")
        self._loop = asyncio.get_running_loop()
        self._desired: Desired | None = None
        self._told = False
        """Whether anybody has said what is desired."""
        self._prepared = False
        self._revision = Revision()
        self._wished = asyncio.Event()
        self._passing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._watch: KernelWatch | None = None
        self._made: Desired | None = None
        self._kept = Revision()
        """What has come to stay in memory."""
        self._keep_at = -math.inf
        self._counts: Counts | None = None
        self._counted_at = -math.inf
        self._outlived = False
        """Whether the rules have changed since the newest count."""
        self._counting: asyncio.Future[Counts] | None = None
        self.counting_s = 0.0
        """How long the newest count took, seconds."""
        self.drift: list[str] = []
        """What others changed, newest last; repaired already."""

    async def start(self) -> None:
        """Prepare the kernel; raises with the remedy where it cannot be.

        Until it is told what is wanted, if anything, the kernel stays as a killed agent left it.
        """
        await self._prepare()
        self._watch = KernelWatch(self._plane.interface, self._changed)
        self._task = self._loop.create_task(lasting(self._passes), name="kernel passes")

    def _changed(self) -> None:
        self._wished.set()
        self._on_change()

    def want(self, desired: Desired | None, revision: Revision) -> None:
        """Make the kernel so, or leave nothing in it where None.

        ``revision`` is the configuration that the wish comes from.
        """
        self._desired, self._revision, self._told = desired, revision, True
        self._wished.set()

    async def _prepare(self) -> None:
        await self._loop.run_in_executor(self._worker, self._plane.prepare)
        self._prepared = True

    async def withdraw(self) -> None:
        """Leave nothing in the kernel, now."""
        self._desired = None
        async with self._passing:
            await self._withdraw()

    async def _withdraw(self) -> None:
        if self._prepared:
            self._prepared = False
            await self._loop.run_in_executor(self._worker, self._plane.remove)

    async def _passes(self) -> None:
        while True:
            async with self._passing:
                try:
                    if self._desired is not None:
                        await self._pass(self._desired, self._revision)
                    elif self._told:
                        await self._withdraw()
                except (HalbError, OSError) as error:
                    _told(error)
            # Not wait_for: in Python 3.11 a wish that comes with a cancellation swallows it.
            with suppress(TimeoutError):
                async with asyncio.timeout(until_round(PASS_S)):
                    await self._wished.wait()
            self._wished.clear()

    async def _pass(self, desired: Desired, revision: Revision) -> None:
        try:
            if not self._prepared:
                await self._prepare()
            assert self._watch is not None
            with self._watch.deaf():
                done = await self._loop.run_in_executor(
                    self._worker, self._plane.reconcile, desired
                )
        except (HalbError, OSError) as error:
            self._on_pass(desired, revision, None, _told(error))
            return
        for text in done.changed:
            _log.info("kernel: %s", text)
        for text in done.drift:
            _log.warning("kernel: %s; repaired", text)
        self.drift = [*self.drift, *done.drift][-MAX_DRIFT:]
        if desired is not self._made:
            self._made, self._outlived = desired, True
        self._on_pass(desired, revision, done, "")
        if revision != self._kept and self._loop.time() >= self._keep_at:
            self._kept, self._keep_at = revision, self._loop.time() + KEEP_S
            keep_memory()
        if not await self.do(DataPlane.undisturbed):
            # Somebody changed rules while nobody listened.
            self._changed()

    async def do(self, work: Callable[[DataPlane], T]) -> T:
        """What ``work`` returns, done by the worker between two passes."""
        return await self._loop.run_in_executor(self._worker, work, self._plane)

    async def connections(self) -> Counts | None:
        """Live flows per gateway, to look at; None where they are not known yet.

        At most a second old, or the newest ones while the worker is busy.
        """
        if self._age() > COUNT_AGE_S:
            await asyncio.wait([self._count_anew()], timeout=COUNT_WAIT_S)
        return self._counts

    async def fresh_connections(self) -> Counts | None:
        """The same, to decide by: None rather than counts that may be true no more.

        Those of before a change of the rules are among them: it may be a drain.
        """
        if self._outlived or self._age() > COUNT_AGE_S:
            await asyncio.wait([self._count_anew()], timeout=FRESH_WAIT_S)
        return None if self._outlived or self._age() > FRESH_S else self._counts

    def _age(self) -> float:
        return self._loop.time() - self._counted_at

    def _count_anew(self) -> asyncio.Future[Counts]:
        """The count that is under way, or a new one: the worker has other things to do."""
        if self._counting is None:
            self._counting = self._loop.run_in_executor(self._worker, self._count)
            self._counting.add_done_callback(self._counted)
        return self._counting

    def _count(self) -> Counts:
        began = time.monotonic()
        counts = self._plane.connections()
        self.counting_s = time.monotonic() - began
        return counts

    def _counted(self, done: asyncio.Future[Counts]) -> None:
        self._counting = None
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._counts, self._counted_at = done.result(), self._loop.time()
            self._outlived = False
        else:
            _log.error("cannot count flows: %s", error)

    async def remove(self) -> None:
        """Stop the passes and leave nothing behind in the kernel."""
        await self.close()
        await asyncio.to_thread(self._plane.remove)

    async def traffic(self, active: bool) -> tuple[Reading, Mapping[Flow, int] | None]:
        """The kernel's accounts now, and its live flows where ``active``."""
        return await self._loop.run_in_executor(self._worker, self._plane.traffic, active)

    async def close(self) -> None:
        """Stop the passes; the kernel stays as it is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._watch is not None:
            self._watch.close()
        await asyncio.to_thread(self._worker.shutdown)
        self._plane.close()


def _told(error: HalbError | OSError) -> str:
    """Log why a pass failed, and say it for status; the next one tries again."""
    if isinstance(error, HalbError):
        message, remedy = error.message, error.remedy
    else:
        message, remedy = f"the kernel cannot be set up: {error}", "It is tried again."
    _log.error("%s. %s", message, remedy)
    return message
