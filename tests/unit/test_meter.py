"""Samples of the counters: as many are kept as a rate needs, for each may be large."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

from agent.counters import Reading
from agent.meter import Meter
from tests.unit.listening import run

NOTHING = Reading({}, {}, {}, {}, {}, {})


class Clock:
    """A second later at each look."""

    def __init__(self) -> None:
        self._now = 0.0

    def time(self) -> float:
        self._now += 1.0
        return self._now


def test_no_more_samples_are_kept_than_a_rate_needs() -> None:
    read: list[weakref.ref[Reading]] = []

    async def reading(_: bool) -> tuple[Reading, None]:
        made = replace(NOTHING)
        read.append(weakref.ref(made))
        return made, None

    async def test() -> None:
        meter: Any = Meter(reading)
        meter._loop = Clock()
        for _ in range(20):
            newest, before = await meter.sample()
            assert newest.reading is read[-1]()
            assert len(read) == 1 or before.reading is read[-2]()
        del newest, before
        gc.collect()
        assert [each() for each in read[:-2]] == [None] * 18

    run(test())
