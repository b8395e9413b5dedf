"""What comes soon after a question is handled together; nothing else waits."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from selectors import EVENT_READ

import pytest

from agent import patience
from agent.patience import PatientLoop, PatientSelector

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


class Clock:
    """Stands in for the module ``time``: sleeping is all that takes time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(patience, "time", clock)
    monkeypatch.setattr(patience, "ANSWERS_S", 0.001)
    monkeypatch.setattr(patience, "ASKED_S", 0.02)
    return clock


class Peer:
    """Somebody who answers questions, and the loop's view of it."""

    def __init__(self, selector: PatientSelector) -> None:
        self.here, self.there = socket.socketpair()
        selector.register(self.here, EVENT_READ)

    def answer(self) -> None:
        self.there.send(b"answer")

    def read(self) -> None:
        self.here.recv(64)


@pytest.fixture
def selector() -> Iterator[PatientSelector]:
    with PatientSelector() as selector:
        yield selector


@pytest.fixture
def peer(selector: PatientSelector) -> Iterator[Peer]:
    peer = Peer(selector)
    with peer.here, peer.there:
        yield peer


def ask(selector: PatientSelector, clock: Clock, peer: Peer, took: float) -> list[float]:
    """How long the loop slept on purpose after a question whose answer took so long."""
    clock.slept.clear()
    selector.asked()
    if not selector.select(0.0001):  # nothing has come yet, and some timer was due
        clock.now += took
        peer.answer()
        assert selector.select(60.0)
    peer.read()
    return clock.slept


def test_the_next_answers_are_waited_for_as_long_as_the_last_took(
    selector: PatientSelector, clock: Clock, peer: Peer
) -> None:
    assert ask(selector, clock, peer, took=0.0005) == [0.001]
    selector.asked()
    peer.answer()
    clock.slept.clear()
    assert selector.select(60.0)
    assert clock.slept == [pytest.approx(0.0015)]


def test_a_straggler_is_waited_for_the_next_time(
    selector: PatientSelector, clock: Clock, peer: Peer
) -> None:
    ask(selector, clock, peer, took=0.0005)
    selector.asked()
    clock.slept.clear()
    assert not selector.select(0.002)
    clock.now += 0.0002
    peer.answer()
    assert selector.select(60.0)
    assert clock.slept == [pytest.approx(0.0015), 0.001]
    peer.read()
    selector.asked()
    peer.answer()
    selector.select(60.0)
    assert clock.slept[-1] > 0.0026


def test_answers_that_take_long_are_waited_for_as_anything_else(
    selector: PatientSelector, clock: Clock, peer: Peer
) -> None:
    ask(selector, clock, peer, took=0.006)
    assert ask(selector, clock, peer, took=0.006) == [0.001]


def test_a_timer_that_is_due_sooner_does_not_wait_for_answers(
    selector: PatientSelector, clock: Clock, peer: Peer
) -> None:
    ask(selector, clock, peer, took=0.0005)
    selector.asked()
    clock.slept.clear()
    assert not selector.select(0.001)
    assert clock.slept == []


def test_what_waits_to_be_done_does_not_wait_for_answers(
    selector: PatientSelector, clock: Clock, peer: Peer
) -> None:
    ask(selector, clock, peer, took=0.0005)
    selector.asked()
    peer.answer()
    clock.slept.clear()
    assert selector.select(0)
    assert clock.slept == []
