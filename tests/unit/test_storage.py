"""When state is written: beside the loop, and nothing of a Site after it was left."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from agent.disk import Disk
from agent.storage import Storage
from protocol.config import Config
from protocol.effects import ConfigStored, Input
from protocol.ids import NO_REVISION, Revision
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
