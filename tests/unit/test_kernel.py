"""The kernel's upkeep: what its one worker is given to do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

from agent.kernel import Kernel
from protocol.ids import GroupId
from tests.unit.listening import run, until

WEB = (GroupId("1" * 16), "gw-1")


class Plane:
    """A kernel with so many flows that counting them takes a while."""

    def __init__(self) -> None:
        self.counted = 0
        self.busy = threading.Event()

    def connections(self) -> Mapping[tuple[GroupId, str], int]:
        self.counted += 1
        self.busy.wait()
        return {WEB: self.counted}

    def close(self) -> None:
        """Nothing is open."""


def test_flows_are_counted_once_for_all_who_ask_meanwhile() -> None:
    async def test() -> None:
        plane: Any = Plane()
        kernel = Kernel(plane, lambda *_: None, lambda: None)
        asked = await asyncio.gather(*(kernel.connections() for _ in range(20)))
        assert asked == [None] * 20, "not known yet"
        plane.busy.set()
        await until(lambda: kernel.counting_s)
        await kernel.close()
        assert plane.counted == 1

    run(test())
