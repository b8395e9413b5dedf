"""Durable state: what was written is read, what was damaged is set aside and said."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from pathlib import Path

import pytest

from agent.conflicts import Kept, keep
from agent.disk import Disk, DiskError, Loaded
from agent.lastseen import NOTHING_SEEN, Fallen, LastSeen
from agent.storedfile import Damaged, StoredFile
from protocol.config import Config, Edit
from protocol.conflicts import MAX_CONFLICTS, Conflict
from protocol.effects import Ballot
from protocol.ids import NO_REVISION, DeviceId, GroupId
from protocol.local import Local
from protocol.objects import Handled, SiteRecord

G1, G2 = GroupId("1" * 16), GroupId("_site")
A = DeviceId("a" * 16)
BALLOTS = {G1: Ballot(7, A), G2: Ballot(3, None)}
SITE = SiteRecord(id="5" * 16, name="paris", voters=(A,))
OLD = Config().edited(Edit(put=(SITE,)), 2)
NEW = OLD.edited(Edit(put=(SITE,)), 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def once(folder: Path) -> Loaded:
    """One life of an agent: open, load, close."""
    disk = Disk.open(folder)
    try:
        return disk.load()
    finally:
        disk.close()


def fill(folder: Path) -> None:
    disk = Disk.open(folder)
    disk.load()
    disk.save_ballots(BALLOTS)
    disk.save_config(OLD, NO_REVISION)
    disk.save_config(NEW, OLD.revision)
    disk.close()


def test_a_new_directory_gets_an_identity_that_stays(folder: Path) -> None:
    disk = Disk.open(folder)
    first = disk.identity
    loaded = disk.load()
    assert loaded == Loaded({}, None, NO_REVISION, loaded.incarnation, ())
    disk.close()
    disk = Disk.open(folder)
    assert disk.identity == first
    disk.close()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "identity").stat().st_mode & 0o777 == 0o600
    assert first.keys.secret not in repr(first)


def test_a_directory_that_others_use_is_refused_and_left_as_it_was(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    (folder / "lock").mkdir()  # as in /run
    with pytest.raises(DiskError, match="'lock'") as caught:
        Disk.open(folder)
    assert "--state-dir" in caught.value.remedy
    assert folder.stat().st_mode & 0o777 == 0o755
    assert [entry.name for entry in folder.iterdir()] == ["lock"]


@pytest.mark.parametrize("ours", [(), ("lock", "notes"), ("identity.tmp", "lock", "identity")])
def test_a_directory_of_ours_is_closed_to_others(folder: Path, ours: tuple[str, ...]) -> None:
    folder.mkdir(mode=0o755)
    for name in ours:
        (folder / name).touch()
    Disk.open(folder).close()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_was_saved_is_loaded(folder: Path) -> None:
    fill(folder)
    loaded = once(folder)
    assert loaded.ballots == BALLOTS
    assert loaded.config == NEW
    assert loaded.committed == OLD.revision
    assert loaded.notes == ()
    assert not loaded.ballots_lost


def test_the_incarnation_grows_with_each_start_even_if_its_file_is_lost(folder: Path) -> None:
    seen = [once(folder).incarnation for _ in range(3)]
    (folder / "incarnation").write_bytes(b"")
    seen.append(once(folder).incarnation)
    assert seen[0] < seen[1] < seen[2]
    assert seen[3] > seen[0]


def test_two_agents_cannot_share_a_directory(folder: Path) -> None:
    disk = Disk.open(folder)
    with pytest.raises(DiskError, match=f"in use by another halb-agent .process {os.getpid()}"):
        Disk.open(folder)
    disk.close()
    Disk.open(folder).close()


def test_a_file_cut_or_changed_at_any_byte_is_detected(folder: Path) -> None:
    folder.mkdir()
    file = StoredFile(folder, "ballots")
    file.write(b"content of the file")
    whole = file.path.read_bytes()
    assert file.read() == b"content of the file"
    for at in range(len(whole)):
        changed = bytes([whole[at] ^ 0x40])
        for damaged in (whole[:at], whole[:at] + changed + whole[at + 1 :]):
            file.path.write_bytes(damaged)
            with pytest.raises(Damaged):
                file.read()
    file.path.write_bytes(whole + b"\0")
    with pytest.raises(Damaged):
        file.read()


def test_a_file_under_another_name_is_detected(folder: Path) -> None:
    folder.mkdir()
    StoredFile(folder, "ballots").write(b"content")
    os.rename(folder / "ballots", folder / "config")
    with pytest.raises(Damaged, match="not a file of this name"):
        StoredFile(folder, "config").read()


def test_a_torn_temporary_file_harms_nothing(folder: Path) -> None:
    fill(folder)
    for name in ("ballots.new", "config.new", "ballots.first", "incarnation.new"):
        (folder / name).write_bytes(b"HALBFILE torn")
    loaded = once(folder)
    assert (loaded.ballots, loaded.config) == (BALLOTS, NEW)
    fill(folder)


@pytest.mark.parametrize("damage", [b"", b"\0" * 200, b"HALBFILE"])
def test_damaged_ballots_are_set_aside_and_reported_lost(folder: Path, damage: bytes) -> None:
    fill(folder)
    (folder / "ballots").write_bytes(damage)
    loaded = once(folder)
    assert loaded.ballots == {}
    assert loaded.ballots_lost
    assert loaded.config == NEW
    assert "ballots was set aside as ballots.corrupt-1" in loaded.notes[0]
    assert (folder / "ballots.corrupt-1").read_bytes() == damage


def test_that_ballots_were_lost_is_not_forgotten(folder: Path) -> None:
    ballots = {G1: Ballot(3, None, lost=True)}
    disk = Disk.open(folder)
    disk.load()
    disk.save_ballots(ballots)
    disk.close()
    assert once(folder).ballots == ballots


def test_missing_ballots_beside_a_configuration_are_lost(folder: Path) -> None:
    fill(folder)
    (folder / "ballots").unlink()
    assert once(folder).ballots_lost


def test_a_configuration_saved_before_lost_ballots_are_written_down_does_not_hide_it(
    folder: Path,
) -> None:
    fill(folder)
    (folder / "ballots").unlink()
    disk = Disk.open(folder)
    disk.load()
    disk.save_config(NEW, NO_REVISION)
    disk.close()
    assert once(folder).ballots_lost


def test_a_configuration_saved_before_any_vote_does_not_look_like_lost_ballots(
    folder: Path,
) -> None:
    disk = Disk.open(folder)
    disk.load()
    disk.save_config(OLD, NO_REVISION)
    disk.close()
    assert not once(folder).ballots_lost


def test_a_damaged_configuration_falls_back_to_the_one_before(folder: Path) -> None:
    fill(folder)
    (folder / "config").write_bytes(b"no")
    loaded = once(folder)
    assert loaded.config == OLD
    assert loaded.committed == NO_REVISION
    assert loaded.ballots_lost, "what this device has confirmed is gone, so it must not vote"
    assert "set aside as config.corrupt-1" in loaded.notes[0]
    assert "revision 2.1" in loaded.notes[1]


def test_with_no_configuration_left_the_operator_is_told_to_join(folder: Path) -> None:
    fill(folder)
    (folder / "config").write_bytes(b"no")
    (folder / "config.previous").write_bytes(b"no")
    loaded = once(folder)
    assert loaded.config is None
    assert "halbctl join" in loaded.notes[-1]


def test_each_damaged_file_is_kept_under_a_name_of_its_own(folder: Path) -> None:
    for n in (1, 2, 3):
        fill(folder)
        (folder / "ballots").write_bytes(bytes([n]))
        once(folder)
    assert [(folder / f"ballots.corrupt-{n}").read_bytes() for n in (1, 2, 3)] == [
        b"\1",
        b"\2",
        b"\3",
    ]


def test_a_lost_identity_makes_a_new_device_without_the_old_ones_state(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(folder)
    disk = Disk.open(folder)
    former = disk.identity
    disk.close()
    (folder / "identity").write_bytes(b"HALB")
    disk = Disk.open(folder)
    loaded = disk.load()
    assert disk.identity.device != former.device
    disk.close()
    assert loaded.config is None
    assert loaded.ballots == {}
    assert any("starts as a new one" in note for note in loaded.notes)
    assert tuple(caplog.messages) == loaded.notes, "without a Site only the log tells"
    assert not any("starts as a new one" in note for note in once(folder).notes)


def test_leaving_forgets_the_site_and_keeps_the_identity(folder: Path) -> None:
    fill(folder)
    disk = Disk.open(folder)
    disk.forget_site()
    identity = disk.identity
    disk.close()
    disk = Disk.open(folder)
    loaded = disk.load()
    assert (loaded.config, loaded.ballots, loaded.ballots_lost) == (None, {}, False)
    assert disk.identity == identity
    disk.close()


def test_ballots_and_configuration_are_saved_side_by_side(folder: Path) -> None:
    disk = Disk.open(folder)
    disk.load()

    def save_often() -> None:
        for _ in range(30):
            disk.save_config(OLD, NO_REVISION)

    worker = threading.Thread(target=save_often)
    worker.start()
    for term in range(30):
        disk.save_ballots({G1: Ballot(term, A)})
    worker.join()
    disk.close()
    loaded = once(folder)
    assert loaded.ballots == {G1: Ballot(29, A)}
    assert loaded.config == OLD


def test_a_full_disk_is_named_and_the_old_state_stays(small_disk: Path) -> None:
    folder = small_disk / "state"
    fill(folder)
    disk = Disk.open(folder)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(1 << 20))
    with pytest.raises(DiskError, match="No space left") as caught:
        disk.save_ballots({G1: Ballot(99, A)})
    assert str(folder / "ballots") in caught.value.message
    assert "Free some space" in caught.value.remedy
    assert not (folder / "ballots.new").exists()
    filler.unlink()
    disk.save_ballots({G1: Ballot(100, A)})
    disk.close()
    assert once(folder).ballots == {G1: Ballot(100, A)}


def test_a_read_only_file_system_is_named(small_disk: Path) -> None:
    folder = small_disk / "state"
    fill(folder)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DiskError, match="Read-only") as caught:
        Disk.open(folder)
    assert str(folder) in caught.value.message
    assert "writable" in caught.value.remedy


def test_a_disk_error_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk.open(folder)

    def fails(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(DiskError, match="Input/output error") as caught:
        disk.save_ballots(BALLOTS)
    assert "replace it" in caught.value.remedy
    disk.close()


def test_local_edits_outlive_a_restart_but_not_the_site(folder: Path) -> None:
    fill(folder)
    local = Local(OLD.revision, (), (Handled(id="r", detail="~ gateway"),))
    disk = Disk.open(folder)
    disk.save_local(local)
    disk.close()
    assert once(folder).local == local
    disk = Disk.open(folder)
    disk.save_local(None)
    disk.close()
    assert once(folder).local is None


def test_conflicts_outlive_a_restart_and_the_site(folder: Path) -> None:
    disk = Disk.open(folder)
    disk.load()
    kept: tuple[Kept, ...] = ()
    for n in range(MAX_CONFLICTS + 2):
        kept = keep(kept, Conflict("dropped", OLD.revision, NEW.revision, ()), n)
        disk.save_conflicts(kept)
    disk.forget_site()
    disk.close()
    assert [each.at for each in once(folder).conflicts] == list(range(2, MAX_CONFLICTS + 2))


def test_gateways_that_are_down_are_known_to_the_next_life_until_the_site_is_left(
    folder: Path,
) -> None:
    fill(folder)
    disk = Disk.open(folder)
    seen = LastSeen(7.0, (Fallen(G1, "gw1", 3.0, "no answer"),))
    disk.save_gateways(seen)
    disk.close()
    assert once(folder).gateways == seen
    disk = Disk.open(folder)
    disk.save_gateways(LastSeen(8.0))
    assert not (folder / "gateways").exists(), "where all are up there is nothing to know"
    disk.save_gateways(seen)
    disk.forget_site()
    disk.close()
    assert once(folder).gateways == NOTHING_SEEN
    assert not (folder / "gateways").exists()


@pytest.mark.parametrize("content", [b"", b"HALBFILE and some", b"\xff" * 200])
def test_a_damaged_record_of_gateways_is_said_and_costs_nothing_else(
    folder: Path, content: bytes
) -> None:
    fill(folder)
    (folder / "gateways").write_bytes(content)
    loaded = once(folder)
    assert loaded.gateways == NOTHING_SEEN
    assert loaded.config == NEW
    assert "gateways was set aside as gateways.corrupt-1" in loaded.notes[0]


def test_what_was_in_force_is_found_beside_what_was_only_stored(folder: Path) -> None:
    fill(folder)
    loaded = once(folder)
    assert (loaded.config, loaded.committed) == (NEW, OLD.revision)
    assert loaded.in_force == OLD


def test_nothing_else_is_taken_for_what_was_in_force(folder: Path) -> None:
    fill(folder)
    disk = Disk.open(folder)
    disk.load()
    disk.save_config(NEW.edited(Edit(), 3), OLD.revision)
    disk.close()
    assert once(folder).in_force is None
