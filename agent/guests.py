"""Strangers at a door that is open to all: anyone may come in, nobody may stay.

A connection that says nothing takes a file descriptor for as long as its owner likes, and
libzmq ends the process that has none left. None of them can be ended alone: so all are, when
there are many or they have been there for a while. Whoever still wants something comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container
from contextlib import suppress

from agent import sockets
from agent.sockets import AllowList

MOST = 256
"""Connections at a time; who comes then has to wait until the others are ended."""
STAY_S = 30.0
"""Seconds until they are ended however few they are."""
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
            with suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), STAY_S)
            await self._answered()
            await asyncio.sleep(LAST_WORD_S)
            self._inside = 0
            self._full.clear()
            self._door.closed = False
            await self._end()

    async def close(self) -> None:
        """Let nobody in any more; before the context is destroyed."""
        if self._host is not None:
            self._host.cancel()
            await asyncio.wait([self._host])
        await self._door.stop()
