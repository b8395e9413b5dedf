"""What another device says to have done, waited for by number and for a while at most."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import count

from protocol.ids import DeviceId

MOST = 1000
"""That are waited for at a time; of more the oldest never come."""


class Receipts:
    """Of one device; belongs to the loop's thread."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._awaited: dict[int, tuple[DeviceId, asyncio.Event]] = {}

    def expect(self, device: DeviceId) -> int:
        """A number that ``device`` is to name; it is forgotten by :meth:`all_came`."""
        number = next(self._numbers)
        if len(self._awaited) >= MOST:
            del self._awaited[next(iter(self._awaited))]
        self._awaited[number] = device, asyncio.Event()
        return number

    def came(self, device: DeviceId, number: int) -> None:
        """``device`` names a number; not heeded where nobody expects that of it."""
        awaited, event = self._awaited.get(number, (None, asyncio.Event()))
        if awaited == device:
            event.set()

    async def all_came(self, numbers: Iterable[int], seconds: float) -> bool:
        """Wait for these, for so long at most; whether all came."""
        some = tuple(numbers)
        nobody = None, asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                for number in some:
                    await self._awaited.get(number, nobody)[1].wait()
        except TimeoutError:
            return False
        finally:
            for number in some:
                self._awaited.pop(number, None)
        return True
