"""Requests to the core that somebody waits for: each id to its outcome."""

from __future__ import annotations

import asyncio

from protocol.effects import Outcome
from protocol.errors import Refused, TimedOut

MAX_ERRANDS = 256
"""Requests under way at once; more are refused."""
MARGIN_S = 0.5
"""Of the seconds that a client waits, what is left for the answer to reach it."""


def patience(seconds: float) -> float:
    """Seconds that the core may take for what a client waits ``seconds`` for."""
    return seconds - min(MARGIN_S, seconds / 4)


class Errands:
    """Futures of outcomes by request id."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}

    def begin(self, request: str) -> asyncio.Future[Outcome]:
        """Expect the outcome of ``request``; a repeated id shares the one under way."""
        if request in self._waiting:
            return self._waiting[request]
        if len(self._waiting) >= MAX_ERRANDS:
            raise Refused(
                f"{MAX_ERRANDS} requests are under way on this device", "Repeat in some seconds."
            )
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[request] = future
        return future

    def end(self, outcome: Outcome) -> None:
        """The outcome of a request has come."""
        future = self._waiting.pop(outcome.request, None)
        if future is not None and not future.done():
            future.set_result(outcome)

    async def wait(self, future: asyncio.Future[Outcome], timeout: float) -> Outcome:  # noqa: ASYNC109
        """The outcome if it comes within ``timeout`` seconds; raises its error, or TimedOut."""
        done, _ = await asyncio.wait([future], timeout=timeout)
        if not done:
            raise TimedOut(
                f"no outcome within {timeout:g} s",
                "The request goes on; `halbctl status` shows what becomes of it.",
            )
        outcome = future.result()
        if outcome.error is not None:
            raise outcome.error
        return outcome
