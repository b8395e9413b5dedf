"""Samples of the counters: as many are kept as a rate needs, for each may be large."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest

from agent.counters import Reading
from agent.meter import Meter
from tests.unit.listening import run, until

NOTHING = Reading({}, {}, {}, {}, {}, {})


class Clock:
    """Some seconds later at each look."""

    def __init__(self) -> None:
        self._now = 0.0
        self.seconds = 1.0

    def time(self) -> float:
        self._now += self.seconds
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


def test_the_longer_reading_takes_the_rarer_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []

    async def round_of(_: float) -> None:
        """At once."""

    async def rest(took: float, share: float, period: float) -> None:
        rests.append(took / share - period)
        await asyncio.Event().wait()

    monkeypatch.setattr("agent.meter.next_round", round_of)
    monkeypatch.setattr("agent.meter.rest", rest)

    async def test() -> None:
        async def reading(_: bool) -> tuple[Reading, None]:
            clock.seconds = 5.0
            return NOTHING, None

        clock = Clock()
        meter: Any = Meter(reading)
        loop, meter._loop = meter._loop, clock
        task = loop.create_task(meter._forever())
        await until(lambda: rests)
        task.cancel()
        await asyncio.wait([task])

    run(test())
    assert rests[0] > 90.0
