"""When state is written: beside the loop, and nothing of a Site after it was left."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from agent.disk import Disk
from agent.lastseen import Fallen, LastSeen
from agent.storage import Storage
from protocol.effects import (
    Ballot,
    BallotsStored,
    ConfigStored,
    Input,
    PersistFailed,
    PersistWorks,
)
from protocol.ids import NO_REVISION
from protocol.local import Local
from tests.unit.listening import never, run, until
from tests.unit.test_disk import G1, G2, NEW, OLD, A, once

GONE = (Fallen(G1, "gw1", 3.0, "no answer"),)


class HeldUp:
    """A disk that goes on with writes of one kind only when it is let."""

    def __init__(self, disk: Disk, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on = threading.Event()
        self.asked: list[Any] = []
        """First arguments of the writes that it began."""
        self._save = getattr(disk, method)
        monkeypatch.setattr(disk, method, self._write)

    def _write(self, *arguments: Any) -> None:
        self.asked.append(arguments[0])
        self.go_on.wait()
        self._save(*arguments)


def votes_held_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Disk, HeldUp]:
    """A new disk, and what is asked of it where votes wait."""
    disk = Disk.open(tmp_path / "state")
    disk.load()
    return disk, HeldUp(disk, "save_ballots", monkeypatch)


def test_what_is_written_while_a_device_leaves_is_not_there_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk.open(tmp_path / "state")
    disk.load()
    told: list[Input] = []
    held = HeldUp(disk, "save_config", monkeypatch)

    async def test() -> None:
        storage = Storage(disk, {}, told.append)
        storage.save_config(NEW, NO_REVISION)
        await until(lambda: held.asked)
        threading.Timer(0.2, held.go_on.set).start()
        storage.forget_site()
        held.go_on.wait()
        storage.save_config(OLD, NO_REVISION)  # of the next Site
        await until(lambda: told)
        storage.forget_site()
        storage.close()

    run(test())
    assert told == [ConfigStored(OLD.revision)]
    assert not {"config", "config.previous", "ballots"} & {p.name for p in disk.folder.iterdir()}
    disk.close()


@pytest.mark.parametrize("what", ["local", "conflicts"])
def test_what_no_vote_rests_on_is_a_problem_until_the_disk_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr("agent.storage.RETRY_S", 0.01)
    disk = Disk.open(tmp_path / "state")
    disk.load()
    in_the_way = disk.folder / what
    (in_the_way / "anything").mkdir(parents=True)
    told: list[Input] = []

    async def test() -> None:
        storage = Storage(disk, {}, told.append)
        if what == "local":
            storage.save_local(Local(NO_REVISION, (), ()))
        else:
            storage.save_conflicts(())
        await until(lambda: storage.problem)
        assert str(in_the_way) in storage.problem
        shutil.rmtree(in_the_way)
        await until(lambda: not storage.problem)
        storage.close()

    run(test())
    assert in_the_way.is_file()
    assert not told, "votes go on"
    disk.close()


def test_votes_gather_while_the_disk_writes_and_go_to_it_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, held = votes_held_up(tmp_path, monkeypatch)
    told: list[Input] = []

    async def test() -> None:
        storage = Storage(disk, {}, told.append)
        storage.save_ballots(1, {G1: Ballot(1, A)})
        await until(lambda: held.asked)
        storage.save_ballots(2, {G2: Ballot(1, A)})
        storage.save_ballots(3, {G1: Ballot(2, A)})
        assert not told, "the loop goes on meanwhile"
        held.go_on.set()
        await until(lambda: len(told) == 2)
        storage.close()

    run(test())
    assert told == [BallotsStored(1), BallotsStored(3)]
    assert held.asked == [{G1: Ballot(1, A)}, {G1: Ballot(2, A), G2: Ballot(1, A)}]
    disk.close()
    assert Disk.open(tmp_path / "state").load().ballots == held.asked[-1]


def test_votes_that_the_disk_refused_are_told_of_once_it_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.storage.RETRY_S", 0.01)
    disk = Disk.open(tmp_path / "state")
    disk.load()
    in_the_way = disk.folder / "ballots"
    in_the_way.unlink(missing_ok=True)
    (in_the_way / "anything").mkdir(parents=True)
    told: list[Input] = []

    async def test() -> None:
        storage = Storage(disk, {}, told.append)
        storage.save_ballots(1, {G1: Ballot(1, A)})
        await until(lambda: told)
        assert told[0] == PersistFailed()
        assert str(in_the_way) in storage.problem
        shutil.rmtree(in_the_way)
        await until(lambda: not storage.problem)
        storage.close()

    run(test())
    assert told[-2:] == [BallotsStored(1), PersistWorks()]
    assert set(told[:-2]) == {PersistFailed()}
    disk.close()


def test_a_vote_under_way_while_a_device_leaves_is_not_there_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, held = votes_held_up(tmp_path, monkeypatch)
    told: list[Input] = []

    async def test() -> None:
        storage = Storage(disk, {}, told.append)
        storage.save_ballots(5, {G1: Ballot(1, A)})
        await until(lambda: held.asked)
        threading.Timer(0.2, held.go_on.set).start()
        storage.forget_site()
        storage.save_ballots(1, {G2: Ballot(1, A)})  # of the next Site
        await until(lambda: told)
        storage.close()

    run(test())
    assert told == [BallotsStored(1)]
    disk.close()
    assert Disk.open(tmp_path / "state").load().ballots == {G2: Ballot(1, A)}


def test_a_disk_that_hangs_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.storage.SLOW_S", 0.01)
    disk, held = votes_held_up(tmp_path, monkeypatch)
    told: list[Input] = []

    async def test() -> None:
        storage = Storage(disk, {}, told.append)
        storage.save_ballots(1, {G1: Ballot(1, A)})
        await until(lambda: storage.problem)
        assert str(disk.folder) in storage.problem
        held.go_on.set()
        await until(lambda: told)
        assert not storage.problem
        storage.close()

    run(test())
    disk.close()


def test_a_disk_that_hangs_is_taken_for_one_that_refuses_until_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.storage.HANGS_S", 0.01)
    disk, held = votes_held_up(tmp_path, monkeypatch)
    told: list[Input] = []

    async def test() -> None:
        storage = Storage(disk, {}, told.append)
        storage.save_ballots(1, {G1: Ballot(1, A)})
        await until(lambda: told)
        assert told == [PersistFailed()]
        held.go_on.set()
        await until(lambda: PersistWorks() in told)
        storage.close()

    run(test())
    assert told == [PersistFailed(), BallotsStored(1), PersistWorks()]
    disk.close()


def test_a_disk_that_takes_nothing_any_more_is_found_although_there_is_nothing_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.storage.PROBE_S", 0.02)
    monkeypatch.setattr("agent.storage.RETRY_S", 0.01)
    disk = Disk.open(tmp_path / "state")
    disk.save_ballots({G1: Ballot(1, A)})
    told: list[Input] = []
    away = tmp_path / "away"

    async def test() -> None:
        storage = Storage(disk, {G1: Ballot(1, A)}, told.append)
        await until(lambda: BallotsStored(0) in told)
        disk.folder.rename(away)
        await until(lambda: PersistFailed() in told)
        away.rename(disk.folder)
        await until(lambda: PersistWorks() in told)
        storage.close()

    run(test())
    disk.close()
    assert Disk.open(disk.folder).load().ballots == {G1: Ballot(1, A)}


def test_of_what_waits_about_gateways_only_the_newest_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that hangs while gateways come and go has not a write for each afterwards."""
    disk = Disk.open(tmp_path / "state")
    disk.load()
    conflicts = HeldUp(disk, "save_conflicts", monkeypatch)
    written: list[LastSeen] = []
    save = disk.save_gateways

    def record(seen: LastSeen) -> None:
        written.append(seen)
        save(seen)

    monkeypatch.setattr(disk, "save_gateways", record)

    async def test() -> None:
        storage = Storage(disk, {}, never)
        storage.save_conflicts(())
        for number in range(100):
            storage.save_gateways(LastSeen(number, GONE))
        conflicts.go_on.set()
        storage.close()
        assert written == [LastSeen(99, GONE)], "also where the agent ends"

    run(test())
    disk.save_config(OLD, NO_REVISION)
    disk.close()
    assert once(tmp_path / "state").gateways == LastSeen(99, GONE)
