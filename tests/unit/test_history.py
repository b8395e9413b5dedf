"""The history: what is remembered, in memory and on disk."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from agent.chronicle import Chronicle
from agent.history import FILE, History, entry_of, phases
from agent.historyfile import AtOnce
from protocol.api import HistoryEntry
from protocol.config import Config
from protocol.effects import Event
from protocol.ids import SITE_GROUP, DeviceId, GroupId, Revision
from protocol.objects import Device, Record, Value, VirtualServer, key_of
from protocol.timing import MILLISECOND as MS

A, B = DeviceId("a" * 16), DeviceId("b" * 16)
RDP = GroupId("0000000000000001")


def config() -> Config:
    values: tuple[Value, ...] = (
        *(
            Device(id=i, name=n, public_key="k" * 40, addresses=("10.0.0.1:7480",), joined=1)
            for i, n in ((A, "a"), (B, "b"))
        ),
        VirtualServer(uid=RDP, name="rdp", vips=("10.0.0.9/24",), seed=1),
    )
    revision = Revision(1, 1)
    return Config(revision, {key_of(v): Record(*key_of(v), revision, v) for v in values})


def entry(number: int, **fields: object) -> HistoryEntry:
    base = HistoryEntry(
        at=number, kind="member", virtual_server="", uid=None, device="b", reporter="a", term=0,
        text="is dead",
    )  # fmt: skip
    return msgspec.structs.replace(base, **fields)


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """Let the kernel refuse to write beyond ``size``, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


class TestTimeline:
    MARKS = {
        "silent": 1_000 * MS, "asked": 1_150 * MS, "voted": 1_300 * MS, "won": 1_301 * MS,
        "acquired": 1_302 * MS, "announced": 1_304 * MS,
    }  # fmt: skip

    def test_gives_milliseconds_by_phase(self) -> None:
        assert phases(self.MARKS) == {
            "detection": 300.0, "election": 1.0, "lease": 1.0, "announcement": 2.0, "total": 304.0,
        }  # fmt: skip

    def test_leaves_out_phases_that_were_not_marked(self) -> None:
        marks = {"voted": 0, "won": 5 * MS}
        assert phases(marks) == {"election": 5.0, "total": 5.0}

    def test_is_empty_without_marks(self) -> None:
        assert phases({}) == {}


class TestEntryOf:
    def test_names_what_the_event_calls_by_id(self) -> None:
        event = Event("primary", RDP, "became primary", 5, B, {"voted": 0, "won": MS})
        assert entry_of(event, config(), A, 1234, {"acquired": 2 * MS}) == HistoryEntry(
            at=1234, kind="primary", virtual_server="rdp", uid=RDP, device="b", reporter="a",
            term=5, text="became primary",
            timeline={"election": 1.0, "lease": 1.0, "total": 2.0},
        )  # fmt: skip

    def test_of_a_hand_over_is_about_the_device_that_hands_over(self) -> None:
        found = entry_of(Event("lame", RDP, "hands over", 5, B), config(), A, 1)
        assert (found.device, found.text) == ("a", "hands over to b")

    def test_of_a_primary_that_is_followed_says_what_happened(self) -> None:
        found = entry_of(Event("leader", RDP, "follows a primary", 5, B), config(), A, 1)
        assert (found.device, found.text) == ("b", "became primary")

    def test_of_the_site_group_speaks_of_the_coordinator(self) -> None:
        event = Event("primary", SITE_GROUP, "became primary", 5, A)
        found = entry_of(event, config(), A, 1)
        assert (found.virtual_server, found.text) == ("", "became coordinator")

    def test_keeps_the_id_of_a_device_that_is_gone(self) -> None:
        gone = DeviceId("f" * 16)
        assert entry_of(Event("member", None, "is dead", 0, gone), config(), A, 1).device == gone


class TestMemory:
    def test_is_oldest_first_whoever_reports_when(self, tmp_path: Path) -> None:
        history = History(tmp_path)
        for at in (30, 10, 20):
            assert history.add(entry(at))
        assert [e.at for e in history.query()] == [10, 20, 30]

    def test_goes_on_after_the_clock_was_set_back_by_a_year(self, tmp_path: Path) -> None:
        history, year = History(tmp_path, limit=10), 365 * 86_400_000
        for at in range(10):
            history.add(entry(year + at))
        for at in range(3):
            history.add(entry(at))
        assert [e.at for e in history.query(limit=2)] == [1, 2]
        again = History(tmp_path, limit=10)
        assert [e.at for e in again.query(limit=4)] == [0, 1, 2, year + 9]

    def test_gives_the_newest_entries_of_one_virtual_server(self, tmp_path: Path) -> None:
        history = History(tmp_path)
        for at in range(10):
            history.add(entry(at, virtual_server="rdp" if at % 2 else "web"))
        assert [e.at for e in history.query("rdp", 2)] == [7, 9]
        assert history.query(limit=0) == ()

    def test_of_a_deleted_virtual_server_tells_the_name_that_it_had(self, tmp_path: Path) -> None:
        history = History(tmp_path)
        history.add(entry(1, virtual_server="rdp", uid=RDP))
        chronicle = Chronicle(A, history, cast(Any, None), lambda: None)
        for group in (RDP, SITE_GROUP):
            chronicle.happened(Event("released", group, "gave the lease up", 5), Config(), {})
        assert [e.virtual_server for e in history.query()] == ["rdp", "rdp", ""]

    def test_keeps_the_newest_up_to_its_limit(self, tmp_path: Path) -> None:
        history = History(tmp_path, limit=3)
        for at in range(5):
            history.add(entry(at))
        assert [e.at for e in history.query()] == [2, 3, 4]

    def test_takes_an_entry_once(self, tmp_path: Path) -> None:
        history = History(tmp_path)
        assert history.add(entry(1))
        assert not history.add(entry(1))
        assert len(history.query()) == 1

    def test_the_report_of_the_new_primary_replaces_what_a_follower_saw(
        self, tmp_path: Path
    ) -> None:
        history = History(tmp_path)
        seen = entry(105, kind="leader", uid=RDP, term=5)
        told = entry(100, kind="primary", uid=RDP, term=5, reporter="b", timeline={"total": 1.0})
        assert history.add(seen)
        assert history.add(told)
        assert not history.add(seen)
        assert history.query() == (told,)

    def test_an_entry_that_tells_more_of_the_same_is_counted_once(self, tmp_path: Path) -> None:
        history = History(tmp_path)
        for timeline in ({"lease": 1.0}, {"lease": 1.0, "total": 2.0}):
            office = entry(1, kind="primary", uid=RDP, term=5, timeline=timeline)
            assert history.add(office)
        assert history.counts == {("primary", office.virtual_server): 1}

    def test_what_became_of_flows_replaces_what_was_known_at_the_takeover(
        self, tmp_path: Path
    ) -> None:
        """In whatever order that is heard."""
        early = entry(1, kind="carried", uid=RDP, term=3, text="5 flows carried over; ...")
        final = entry(6, kind="flows", uid=RDP, term=3, text="5 flows carried over, 1 lost")
        other = entry(2, kind="carried", uid=RDP, term=4, text="9 flows carried over; ...")
        history = History(tmp_path)
        assert [history.add(each) for each in (early, other, final, early)] == [True] * 3 + [False]
        assert History(tmp_path).query() == history.query() == (other, final)

    def test_another_term_is_another_entry(self, tmp_path: Path) -> None:
        history = History(tmp_path)
        for term in (5, 6):
            assert history.add(entry(1, kind="primary", uid=RDP, term=term))


class TestDisk:
    def test_survives_a_restart(self, tmp_path: Path) -> None:
        history = History(tmp_path)
        for at in range(5):
            history.add(entry(at, timeline={"total": 1.5}))
        again = History(tmp_path)
        assert again.query() == history.query()
        assert again.file.notes == ()

    def test_a_torn_last_line_costs_that_entry_and_is_told(self, tmp_path: Path) -> None:
        history = History(tmp_path)
        for at in range(3):
            history.add(entry(at))
        os.truncate(tmp_path / FILE, (tmp_path / FILE).stat().st_size - 10)
        again = History(tmp_path)
        assert [e.at for e in again.query()] == [0, 1]
        assert again.file.notes == (f"{tmp_path / FILE}: 1 entry could not be read and went lost",)
        again.add(entry(9))
        third = History(tmp_path)
        assert [e.at for e in third.query()] == [0, 1, 9]
        assert third.file.notes == ()

    def test_a_line_that_only_lacks_its_end_is_kept(self, tmp_path: Path) -> None:
        History(tmp_path).add(entry(1))
        os.truncate(tmp_path / FILE, (tmp_path / FILE).stat().st_size - 1)
        again = History(tmp_path)
        again.add(entry(2))
        assert [e.at for e in History(tmp_path).query()] == [1, 2]

    @pytest.mark.parametrize("garbage", [b"\xff\xfe\n", b"[]\n", b'{"at": "x"}\n', b"\0" * 4096])
    def test_garbage_is_told_and_does_not_hide_the_rest(
        self, tmp_path: Path, garbage: bytes
    ) -> None:
        good = msgspec.json.encode(entry(1)) + b"\n"
        (tmp_path / FILE).write_bytes(good + garbage)
        history = History(tmp_path)
        assert history.query() == (entry(1),)
        assert len(history.file.notes) == 1

    def test_the_file_stays_bounded(self, tmp_path: Path) -> None:
        history = History(tmp_path, limit=10)
        for at in range(100):
            history.add(entry(at))
        assert len((tmp_path / FILE).read_bytes().splitlines()) <= 20
        assert [e.at for e in History(tmp_path, limit=10).query()] == list(range(90, 100))

    def test_only_the_end_of_a_huge_file_is_read(self, tmp_path: Path) -> None:
        line = msgspec.json.encode(entry(1)) + b"\n"
        (tmp_path / FILE).write_bytes(b"x" * (8 << 20) + b"\n" + line)
        history = History(tmp_path)
        assert history.query() == (entry(1),)

    def test_a_full_disk_is_told_once_and_loses_nothing(self, tmp_path: Path) -> None:
        told: list[str] = []
        history = History(tmp_path, told.append)
        history.add(entry(1))
        with no_file_longer_than((tmp_path / FILE).stat().st_size + 20):
            history.add(entry(2))
            history.add(entry(3))
            assert told == [f"history is not written to {tmp_path / FILE}: File too large"]
            assert history.file.trouble == told[0]
        history.add(entry(4))
        assert told[1:] == [f"history is written to {tmp_path / FILE} again"]
        assert history.file.trouble == ""
        assert [e.at for e in History(tmp_path).query()] == [1, 2, 3, 4]

    def test_a_file_that_cannot_be_read_is_told(self, tmp_path: Path) -> None:
        (tmp_path / FILE).mkdir()
        told: list[str] = []
        history = History(tmp_path, told.append)
        assert told == [f"history is not written to {tmp_path / FILE}: Is a directory"]
        assert history.add(entry(1)), "it is remembered all the same"


class Hanging:
    """A disk that takes nothing until it is told to."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], None], Callable[[OSError | None], None]]] = []

    def do(self, job: Callable[[], None], done: Callable[[OSError | None], None]) -> None:
        self.jobs.append((job, done))

    def go_on(self) -> None:
        while self.jobs:
            AtOnce().do(*self.jobs.pop())

    def close(self) -> None:
        self.go_on()


class TestHangingDisk:
    def test_holds_nobody_up_and_lacks_nothing_when_it_goes_on(self, tmp_path: Path) -> None:
        disk, history = Hanging(), History(tmp_path, limit=10)
        history.file.work = disk
        for at in range(5):
            assert history.add(entry(at))
        assert len(disk.jobs) == 1, "one at a time"
        assert not (tmp_path / FILE).exists()
        disk.go_on()
        assert History(tmp_path).query() == history.query()

    def test_fills_no_memory(self, tmp_path: Path) -> None:
        disk, history = Hanging(), History(tmp_path, limit=10)
        history.file.work = disk
        for at in range(1000):
            history.add(entry(at))
        disk.go_on()
        assert len((tmp_path / FILE).read_bytes().splitlines()) == 10
        assert History(tmp_path).query() == history.query()

    def test_what_waits_is_written_before_the_agent_ends(self, tmp_path: Path) -> None:
        disk, history = Hanging(), History(tmp_path)
        history.file.work = disk
        for at in range(5):
            history.add(entry(at))
        history.file.close()
        assert History(tmp_path).query() == history.query()

    def test_beside_the_loop_it_is_written_all_the_same(self, tmp_path: Path) -> None:
        async def test() -> History:
            history = History(tmp_path, beside=True)
            for at in range(50):
                history.add(entry(at))
                await asyncio.sleep(0)
            history.file.close()
            return history

        assert asyncio.run(test()).query() == History(tmp_path).query()
