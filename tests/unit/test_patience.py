"""What comes soon after a question is handled together; nothing else waits."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from agent import patience
from agent.patience import PatientLoop

LONG_S = 0.3
"""Long enough that a busy machine does not decide."""


@pytest.fixture(autouse=True)
def long_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "ANSWERS_S", LONG_S)
    monkeypatch.setattr(patience, "ASKED_S", 60.0)


def answers(*, asked: bool) -> float:
    """Seconds until an answer was handled that had come already."""

    async def scenario() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PatientLoop)
        here, there = socket.socketpair()
        with here, there:
            heard = asyncio.Event()
            loop.add_reader(here, heard.set)
            await asyncio.sleep(0)
            there.send(b"answer")
            if asked:
                loop.asked()
            began = time.monotonic()
            await heard.wait()
            loop.remove_reader(here)
        return time.monotonic() - began

    with asyncio.Runner(loop_factory=PatientLoop) as runner:
        return runner.run(scenario())


def test_an_answer_waits_for_the_others() -> None:
    assert answers(asked=True) >= LONG_S * 0.9


def test_where_nothing_was_asked_nothing_waits() -> None:
    assert answers(asked=False) < LONG_S


def test_a_timer_does_not_wait() -> None:
    async def scenario() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PatientLoop)
        loop.asked()
        began = time.monotonic()
        await asyncio.sleep(0.01)
        return time.monotonic() - began

    with asyncio.Runner(loop_factory=PatientLoop) as runner:
        assert runner.run(scenario()) < LONG_S
