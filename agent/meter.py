"""Samples of the kernel's accounts: read when somebody asks, and once in a while for rates."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from agent.clock import next_round, rest
from agent.conntrack import Flow
from agent.counters import Reading
from agent.lasting import lasting
from protocol.errors import HalbError

SAMPLE_S = 10.0
"""Seconds between two samples where nobody asks: no total loses more when others flush."""
AGE_S = 0.5
"""A sample that is not older answers a question again."""
READ_SHARE = 0.05
"""Reading takes at most this share of the time where nobody asks: a listener on a range of ports
has an account for each port that is used, 65,535 of them after a scan."""
RATE_S = 1.0
"""A rate is over at least so many seconds."""

_log = logging.getLogger("halb.meter")


@dataclass(frozen=True)
class Sample:
    """The accounts at one moment."""

    at: float
    """Seconds of the loop's clock."""
    reading: Reading
    active: Mapping[Flow, int] | None = None
    """Live flows; None where they were not asked for."""


class Meter:
    """Takes samples through ``read(with active flows)``, which runs in the kernel's worker."""

    def __init__(
        self,
        read: Callable[[bool], Awaitable[tuple[Reading, Mapping[Flow, int] | None]]],
        on_sample: Callable[[Sample], None] = lambda _: None,
    ) -> None:
        self._read = read
        self._on_sample = on_sample
        self._samples: deque[Sample] = deque()
        """The newest, and back to the first that a rate can be taken from: each may be large."""
        self._reading = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = self._loop.create_task(lasting(self._forever), name="meter")

    async def sample(self) -> tuple[Sample, Sample]:
        """The newest sample, and the newest one that is old enough to take a rate from."""
        async with self._reading:
            newest = self._samples[-1] if self._samples else None
            fresh = newest is not None and self._loop.time() - newest.at < AGE_S
            if newest is None or not fresh or newest.active is None:
                newest = await self._take(active=True)
            return newest, self._samples[0]

    async def _take(self, *, active: bool) -> Sample:
        at = self._loop.time()
        taken = Sample(at, *await self._read(active))
        self._samples.append(taken)
        while len(self._samples) > 1 and at - self._samples[1].at >= RATE_S:
            self._samples.popleft()
        self._on_sample(taken)
        return taken

    async def _forever(self) -> None:
        while True:
            await next_round(SAMPLE_S)
            began = self._loop.time()
            try:
                async with self._reading:
                    await self._take(active=False)
            except HalbError as error:
                # Flushed by somebody, and about to be mended; status tells.
                _log.info("no sample of the counters: %s", error.message)
            await rest(self._loop.time() - began, READ_SHARE, SAMPLE_S)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
