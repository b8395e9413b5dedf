"""Threads beside the loop: all there before there is work, or the start fails and says why."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from agent.disk import Disk
from agent.storage import Storage
from agent.worker import workers
from protocol.effects import Ballot, BallotsStored, ConfigStored, Input
from protocol.errors import HalbError
from protocol.ids import NO_REVISION
from tests.unit.listening import run, until
from tests.unit.test_disk import G1, NEW, A


def no_threads_left(monkeypatch: pytest.MonkeyPatch, room: int = 0) -> None:
    """From now on the host lets this process have only so many threads more."""
    start, left = threading.Thread.start, iter(range(room))

    def refuse(thread: threading.Thread) -> None:
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_a_device_that_gets_no_more_threads_votes_and_takes_configurations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk.open(tmp_path / "state")
    disk.load()
    told: list[Input] = []

    async def test() -> None:
        storage = Storage(disk, {}, told.append)
        no_threads_left(monkeypatch)
        storage.save_ballots(1, {G1: Ballot(1, A)})
        storage.save_config(NEW, NO_REVISION)
        await until(lambda: len(told) == 2)
        storage.close()

    run(test())
    assert set(told) == {BallotsStored(1), ConfigStored(NEW.revision)}
    disk.close()


@pytest.mark.parametrize("number", [1, 6])
def test_all_work_at_once_also_where_no_more_may_be_started(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    pool = workers("test", number)
    no_threads_left(monkeypatch)
    together = threading.Barrier(number, timeout=10)
    jobs = [pool.submit(together.wait) for _ in range(number)]
    assert sorted(job.result() for job in jobs) == list(range(number))
    pool.shutdown()


@pytest.mark.parametrize("room", [0, 3])
def test_the_start_fails_with_the_remedy_where_the_host_has_too_few(
    monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    before = threading.active_count()
    no_threads_left(monkeypatch, room)
    with pytest.raises(HalbError, match="cannot start the threads halb-work") as raised:
        workers("halb-work", 6)
    assert "TasksMax=" in raised.value.remedy
    run(until_gone(before))


async def until_gone(before: int) -> None:
    await until(lambda: threading.active_count() <= before)
