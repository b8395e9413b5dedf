"""Strangers at a door that is open to all: anyone may come in, nobody may stay.

A connection that says nothing takes a file descriptor for as long as its owner likes, and
libzmq ends the process that has none left. And libzmq keeps what came of a message until its last
frame is there, however many there are. None of them can be ended alone: so all are, when there are
many, or they have been there for a while, or take much memory. Whoever still wants something comes
back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container
from contextlib import suppress
from pathlib import Path
from resource import getpagesize

from agent import sockets
from agent.sockets import AllowList

MOST = 256
"""Connections at a time; who comes then has to wait until the others are ended."""
STAY_S = 30.0
"""Seconds until they are ended however few they are."""
ROOM = 128 * 1024 * 1024
"""Bytes that this process may grow by until they are ended, at once and whoever is answered."""
LOOK_S = 0.05
"""Seconds between two looks at that: libzmq's thread decrypts some 30 MiB meanwhile."""
LAST_WORD_S = 0.2
"""For so long what was answered may be on its way."""


class _Anyone(Container[bytes]):
    def __contains__(self, key: object) -> bool:
        return True


class Guests:
    """Counts whom a socket lets in, and has them seen out."""

    def __init__(
        self, answered: Callable[[], Awaitable[None]], end: Callable[[], Awaitable[None]]
    ) -> None:
        """``answered`` waits a bounded time for what was asked; ``end`` ends all connections."""
        self._answered = answered
        self._end = end
        self._door = AllowList()
        self._door.keys = _Anyone()
        self._door.admitted = self._came
        self._inside = 0
        self._full = asyncio.Event()
        self._host: asyncio.Task[None] | None = None

    async def start(self, context: sockets.Context) -> None:
        """Let guests in at the sockets of ``context`` that enforce an allow list."""
        await self._door.start(context)

    def _came(self, key: bytes) -> None:
        self._inside += 1
        if self._inside >= MOST:
            self._door.closed = True
            self._full.set()
        if self._host is None or self._host.done():
            self._host = asyncio.get_running_loop().create_task(self._see_out())

    async def _see_out(self) -> None:
        while self._inside:
            parting = asyncio.get_running_loop().create_task(self._part())
            try:
                await _while_small(parting)
            finally:
                parting.cancel()
            self._inside = 0
            self._full.clear()
            self._door.closed = False
            await self._end()

    async def _part(self) -> None:
        """Return when they are to go: there are many, or it was a while, and none is answered."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._full.wait(), STAY_S)
        await self._answered()
        await asyncio.sleep(LAST_WORD_S)

    async def close(self) -> None:
        """Let nobody in any more; before the context is destroyed."""
        if self._host is not None:
            self._host.cancel()
            await asyncio.wait([self._host])
        await self._door.stop()


async def _while_small(task: asyncio.Task[None]) -> None:
    """Wait until ``task`` is done, or this process has grown by more than :data:`ROOM`."""
    least = size = _resident()
    while size - least <= ROOM and not task.done():
        await asyncio.wait([task], timeout=LOOK_S)
        size = _resident()
        least = min(least, size)
    if task.done():
        task.result()


def _resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * getpagesize()
