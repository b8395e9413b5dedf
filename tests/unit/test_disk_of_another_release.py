"""A state directory that another release has written."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import storedfile
from agent.disk import Disk, DiskError
from agent.storedfile import StoredFile
from protocol.config import Config, Edit
from protocol.effects import Ballot
from protocol.ids import NO_REVISION, DeviceId, GroupId
from protocol.objects import SiteRecord
from tests.unit.test_disk import once

A = DeviceId("a" * 16)
CONFIG = Config().edited(Edit(put=(SiteRecord(id="5" * 16, name="paris", voters=(A,)),)), 2)
UNREADABLE = b"\xc1"
"""What msgpack never is."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What an agent of this release leaves, that was in a Site."""
    disk = Disk.open(tmp_path / "state")
    disk.load()
    disk.save_ballots({GroupId("_site"): Ballot(3, A)})
    disk.save_config(CONFIG, NO_REVISION)
    disk.save_config(CONFIG, CONFIG.revision)
    disk.close()
    return disk.folder


def files(folder: Path) -> dict[str, bytes]:
    """All but the lock."""
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.name != "lock"}


def refused(folder: Path, name: str) -> None:
    """The agent does not start, says why, and leaves everything as it was."""
    before = files(folder)
    with pytest.raises(DiskError, match=f"/{name} is whole, but this release cannot") as error:
        once(folder)
    assert "Install the release that wrote it" in error.value.remedy
    assert files(folder) == before


@pytest.mark.parametrize("name", ["identity", "ballots", "config"])
def test_what_this_release_cannot_read_is_refused_and_stays_as_it_was(
    folder: Path, name: str
) -> None:
    StoredFile(folder, name).write(UNREADABLE)
    refused(folder, name)


@pytest.mark.parametrize("name", ["identity", "ballots", "config"])
def test_so_is_another_format(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = StoredFile(folder, name)
    content = file.read()
    assert content is not None
    with monkeypatch.context() as newer:
        newer.setattr(storedfile, "FORMAT", storedfile.FORMAT + 1)
        file.write(content)
    refused(folder, name)


def test_so_is_the_configuration_before_where_the_newest_is_torn(folder: Path) -> None:
    StoredFile(folder, "config.previous", kind="config").write(UNREADABLE)
    assert once(folder).config == CONFIG, "nobody asks for it"
    (folder / "config").write_bytes(b"torn")
    with pytest.raises(DiskError, match="previous is whole"):
        once(folder)


def test_what_a_device_can_do_without_is_set_aside(folder: Path) -> None:
    StoredFile(folder, "gateways").write(UNREADABLE)
    loaded = once(folder)
    assert loaded.config == CONFIG
    assert "gateways was set aside as gateways.corrupt-1" in loaded.notes[0]
