"""Tells waiting tasks that something about the Site has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from protocol.errors import TimedOut


class News:
    """Wakes everyone who waits for a change."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def publish(self) -> None:
        """Something changed."""
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait_for_change(self, timeout: float) -> bool:  # noqa: ASYNC109
        """Whether something changed within ``timeout`` seconds."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            done, _ = await asyncio.wait([future], timeout=timeout)
        finally:
            self._waiting.discard(future)
        return bool(done)

    async def wait_until(self, condition: Callable[[], bool], timeout: float) -> None:  # noqa: ASYNC109
        """Return once ``condition`` holds; raise TimedOut after ``timeout`` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not condition():
            left = deadline - loop.time()
            if left <= 0:
                raise TimedOut(
                    f"the change did not take effect within {timeout:g} s",
                    "Look at `halbctl status`.",
                )
            await self.wait_for_change(left)
