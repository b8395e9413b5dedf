"""The thread that reads and enters flows: one job after the other, never in the loop.

What the kernel refuses is said once, here, and whoever wanted it is told: a job that
failed unheard would be waited for for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from agent.flowtable import FlowTable
from agent.rate import Share
from agent.worker import workers
from protocol.errors import HalbError

_log = logging.getLogger("halb.flows")
Result = TypeVar("Result")


class FlowWorker:
    """Has the connection table, from :meth:`open` until :meth:`close`. Made while the loop runs."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = workers("halb-flows")
        self.table: FlowTable | None = None

    async def open(self) -> None:
        """Raises HalbError with the remedy."""
        self.table = await self._loop.run_in_executor(self._thread, FlowTable)

    def do(
        self,
        job: Callable[[], Result],
        then: Callable[[Result], None],
        failed: Callable[[], None],
        share: Share | None = None,
    ) -> None:
        """Do ``job`` after those before it, then one of the two in the loop.

        What it takes of a processor counts towards ``share``.
        """

        def done(future: asyncio.Future[Result]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            if error is None:
                then(future.result())
                return
            failed()
            if not isinstance(error, HalbError | OSError):
                raise error
            _log.warning("flows cannot be told or entered: %s", error)

        counted = job if share is None else partial(share.count, job)
        self._loop.run_in_executor(self._thread, counted).add_done_callback(done)

    def count(self, job: Callable[[FlowTable], Result], then: Callable[[Result], None]) -> None:
        """Do a job with the connection table, if it is still open; ``then`` only if that works."""
        if self.table is not None:
            self.do(partial(job, self.table), then, lambda: None)

    async def close(self) -> None:
        """Stop; entries in the kernel stay as they are."""
        table, self.table = self.table, None
        if table is not None:
            self._loop.remove_reader(table.fileno())
        await asyncio.to_thread(self._thread.shutdown)
        if table is not None:
            table.close()
