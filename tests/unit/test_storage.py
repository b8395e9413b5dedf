"""When state is written: beside the loop, and nothing of a Site after it was left."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from agent.disk import Disk
from agent.storage import Storage
from protocol.config import Config
from protocol.effects import ConfigStored, Input
from protocol.ids import NO_REVISION, Revision
from protocol.local import Local
from tests.unit.listening import run, until
from tests.unit.test_disk import NEW, OLD


def test_what_is_written_while_a_device_leaves_is_not_there_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk.open(tmp_path / "state")
    disk.load()
    told: list[Input] = []
    slow, writing, save = threading.Event(), threading.Event(), disk.save_config

    def save_slowly(config: Config, committed: Revision) -> None:
        writing.set()
        slow.wait()
        save(config, committed)

    monkeypatch.setattr(disk, "save_config", save_slowly)

    async def test() -> None:
        storage = Storage(disk, {}, told.append)
        storage.save_config(NEW, NO_REVISION)
        await until(writing.is_set)
        threading.Timer(0.2, slow.set).start()
        storage.forget_site()
        slow.wait()
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
