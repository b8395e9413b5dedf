"""Endless work goes on after what nobody foresaw, which is told and counted."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest

from agent.lasting import Faults, lasting
from tests.unit.listening import run, until


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.lasting.AGAIN_S", 0.001)


def test_work_that_failed_begins_anew_and_each_failure_is_in_the_log_with_its_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    turns: list[int] = []

    async def test() -> None:
        faults = Faults()

        async def look_around() -> None:
            turns.append(len(turns))
            if len(turns) < 3:
                raise MemoryError("no room")
            await asyncio.sleep(3600)

        task = asyncio.create_task(lasting(look_around))
        await until(lambda: len(turns) == 3)
        assert faults.count == 2
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()

    with caplog.at_level(logging.ERROR):
        run(test())
    assert caplog.text.count("look_around failed, and begins anew") == 2
    assert caplog.text.count("MemoryError: no room") == 2


def test_what_a_callback_of_the_loop_raises_is_counted_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        faults = Faults()
        asyncio.get_running_loop().call_soon(int, "seven")
        await until(lambda: faults.count)

    with caplog.at_level(logging.ERROR):
        run(test())
    assert "invalid literal for int()" in caplog.text
