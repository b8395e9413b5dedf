"""Work that goes on for as long as the agent runs: what nobody foresaw costs it a moment.

What a task raises that nobody awaits would be heard of when the task is thrown away, and what
the task was for would never be done again. So it goes to the loop's handler at once, as that of
a callback does, which logs it with its trace and counts it; and the work begins anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

AGAIN_S = 1.0


async def lasting(work: Callable[[], Awaitable[None]]) -> None:
    """Do ``work``, and begin it anew a second after it ended, until this is cancelled."""
    while True:
        try:
            await work()
        except Exception as error:  # noqa: BLE001  # goes to the loop's handler, see above
            what = f"{getattr(work, '__qualname__', work)} failed, and begins anew"
            context = {"message": what, "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
        await asyncio.sleep(AGAIN_S)


class Faults:
    """What came to the running loop's handler: faults of this program, or of its host."""

    def __init__(self) -> None:
        self.count = 0
        asyncio.get_running_loop().set_exception_handler(self._note)

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.count += 1
        loop.default_exception_handler(context)
