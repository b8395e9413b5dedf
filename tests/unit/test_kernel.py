"""The kernel's upkeep: what its one worker is given to do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from agent import kernel as under_test
from agent.dataplane import Desired, Reconciled
from agent.inquiry import PATIENCE_S
from agent.kernel import FRESH_S, FRESH_WAIT_S, KEEP_S, Counts, Kernel
from protocol.ids import GroupId, Revision
from tests.unit.listening import run, until

WEB = (GroupId("1" * 16), "gw-1")


class Plane:
    """A kernel with so many flows that counting them takes a while."""

    def __init__(self) -> None:
        self.counted = 0
        self.busy = threading.Event()
        self._seen = None
        """No rules, which nobody can disturb."""

    def connections(self) -> Mapping[tuple[GroupId, str], int]:
        self.counted += 1
        self.busy.wait()
        return {WEB: self.counted}

    def prepare(self) -> None:
        """There is nothing to prepare."""

    def reconcile(self, desired: Desired) -> Reconciled:
        return Reconciled(in_force=desired)

    def close(self) -> None:
        """Nothing is open."""


def test_what_a_killed_agent_left_stays_until_it_is_said_what_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plane: Any = Plane()
    plane.removed = 0
    passes: list[Desired] = []

    def remove() -> None:
        plane.removed += 1

    plane.remove, plane.interface = remove, "eth0"
    plane.undisturbed = lambda: True
    watch = SimpleNamespace(deaf=nullcontext, close=lambda: None)
    monkeypatch.setattr(under_test, "KernelWatch", lambda *_: watch)

    async def test() -> None:
        kernel = Kernel(plane, lambda desired, *_: passes.append(desired), lambda: None)
        await kernel.start()
        await kernel.do(lambda _: None)  # the worker has nothing before this
        kernel.want(Desired(), Revision(1, 1))
        await until(lambda: passes)
        assert plane.removed == 0
        kernel.want(None, Revision(1, 2))
        await until(lambda: plane.removed)
        await kernel.close()

    run(test())


@asynccontextmanager
async def counting() -> AsyncIterator[tuple[Plane, Kernel]]:
    """A kernel whose flows are counted at once."""
    plane: Any = Plane()
    plane.busy.set()
    kernel = Kernel(plane, lambda *_: None, lambda: None)
    kernel._watch = SimpleNamespace(deaf=nullcontext)  # type: ignore[assignment]
    try:
        yield plane, kernel
    finally:
        plane.busy.set()
        kernel._watch = None
        await kernel.close()


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


def test_what_decides_is_counted_anew_however_old_the_last_count_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(under_test, "COUNT_AGE_S", 0.0)

    async def test() -> None:
        async with counting() as (_, kernel):
            assert await kernel.fresh_connections() == {WEB: 1}
            assert await kernel.fresh_connections() == {WEB: 2}

    run(test())


def test_counts_that_are_too_old_decide_nothing_and_are_still_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(under_test, "FRESH_WAIT_S", 0.01)

    async def test() -> tuple[Counts | None, Counts | None]:
        async with counting() as (plane, kernel):
            await kernel.connections()
            kernel._counted_at -= FRESH_S
            plane.busy.clear()
            return await kernel.fresh_connections(), await kernel.connections()

    assert asyncio.run(test()) == (None, {WEB: 1})


def test_counts_of_before_a_change_of_the_rules_decide_nothing() -> None:
    """It may be a drain: what came in just before it is counted only after it."""

    async def test() -> None:
        async with counting() as (_, kernel):
            assert await kernel.fresh_connections() == {WEB: 1}
            assert await kernel.fresh_connections() == {WEB: 1}, "a second ago will do"
            drained = Desired()
            await kernel._pass(drained, Revision(1, 2))
            assert await kernel.fresh_connections() == {WEB: 2}
            await kernel._pass(drained, Revision(1, 2))
            assert await kernel.fresh_connections() == {WEB: 2}, "nothing was changed"

    assert FRESH_WAIT_S < PATIENCE_S, "or the answer comes too late"
    run(test())


def test_configurations_that_follow_each_other_quickly_come_to_stay_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each time all that there is in memory is looked at, and everything waits."""
    kept: list[None] = []
    monkeypatch.setattr(under_test, "keep_memory", lambda: kept.append(None))

    async def test() -> None:
        async with counting() as (_, kernel):
            for number in range(9):
                await kernel._pass(Desired(), Revision(1, number + 1))
            assert len(kept) == 1
            kernel._keep_at -= KEEP_S
            await kernel._pass(Desired(), Revision(1, 9))
            assert len(kept) == 2, "the newest one, too"
            kernel._keep_at -= KEEP_S
            await kernel._pass(Desired(), Revision(1, 9))
            assert len(kept) == 2, "that stays already"

    run(test())
