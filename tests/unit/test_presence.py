"""Questions after a takeover, and claims of foreign owners: what counts, what does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent import takeover
from agent.clock import boottime
from agent.history import VERIFICATION, History
from agent.owners import (
    DEFEND_NS,
    FRESH_NS,
    GRACE_NS,
    MAX_OWNERS,
    MAX_TOLD,
    SAY_NS,
    Owner,
    Owners,
)
from agent.takeover import AT_ONCE, Pair, Takeovers, Verdict
from protocol.api import HistoryEntry
from protocol.ids import GroupId
from protocol.timing import SECOND
from tests.unit.listening import run, until

UID = GroupId("00000000000000aa")
VIP, ROUTER, GATEWAY = "10.0.0.100", "10.0.0.1", "10.0.0.31"
MAC, OTHER = bytes.fromhex("020000000099"), bytes.fromhex("020000000088")


class Segment:
    """Neighbours that answer the VIP, only the device itself, or nobody."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str | None]] = []
        self.insisted: list[Pair] = []
        self.verdicts: list[Verdict] = []
        self.takeovers = Takeovers(self.ask, self.insist, self.verdicts.append)

    def ask(self, to: str, number: int, source: str | None) -> None:
        self.asked.append((to, source))
        answers = self.answers.get(to.replace(".", "_"), "vip")
        if answers == "vip" or (answers == "device" and source is None):
            asyncio.get_running_loop().call_soon(self.takeovers.answered, number)

    def insist(self, vip: str, to: str) -> None:
        self.insisted.append((vip, to))
        if self.answers.get("learns") == to:
            self.answers[to.replace(".", "_")] = "vip"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "AFTER_S", (0.005,) * 8)
    monkeypatch.setattr(takeover, "PATIENCE_S", 0.01)


def round_of(make: Callable[[], Segment], *pairs: Pair) -> Segment:
    found: list[Segment] = []

    async def test() -> None:
        segment = make()
        found.append(segment)
        segment.takeovers.begin(UID, pairs, announced=0)
        await until(lambda: segment.verdicts)
        segment.takeovers.close()

    run(test())
    return found[0]


def test_a_round_ends_as_soon_as_all_have_answered_the_vip() -> None:
    segment = round_of(Segment, (VIP, ROUTER), (VIP, GATEWAY))
    (verdict,) = segment.verdicts
    assert set(verdict.learnt) == {(VIP, ROUTER), (VIP, GATEWAY)}
    assert verdict.stale == ()
    assert verdict.took_ns > 0
    assert len(segment.asked) == 2, "who has answered is not asked again"


def test_who_answers_the_device_but_not_the_vip_is_told_again_and_then_stale() -> None:
    segment = round_of(lambda: Segment(**{"10_0_0_1": "device"}), (VIP, ROUTER), (VIP, GATEWAY))
    assert segment.verdicts[0].stale == ((VIP, ROUTER),)
    assert (VIP, ROUTER) in segment.insisted
    assert (VIP, GATEWAY) not in segment.insisted


def test_who_learns_when_it_is_told_by_name_is_not_stale() -> None:
    segment = round_of(lambda: Segment(**{"10_0_0_1": "device", "learns": ROUTER}), (VIP, ROUTER))
    assert segment.verdicts[0].learnt == ((VIP, ROUTER),)


def test_of_who_answers_nothing_nothing_is_said() -> None:
    segment = round_of(lambda: Segment(**{"10_0_0_1": "nothing"}), (VIP, ROUTER))
    assert segment.verdicts == [Verdict(UID, (), (), 0)]
    assert not segment.insisted


def test_a_round_that_was_ended_has_no_verdict_and_its_answers_mean_nothing() -> None:
    async def test() -> None:
        segment = Segment()
        segment.takeovers.begin(UID, [(VIP, ROUTER)], announced=0)
        segment.takeovers.end(UID)
        await asyncio.sleep(0.05)
        assert segment.verdicts == []
        segment.takeovers.answered(1)
        segment.takeovers.answered(99)

    run(test())


def test_only_so_many_questions_are_sent_in_one_pass() -> None:
    async def test() -> None:
        segment = Segment()
        pairs = [(f"10.0.{n}.1", ROUTER) for n in range(3 * AT_ONCE)]
        segment.takeovers.begin(UID, pairs, announced=0)
        assert not segment.asked
        while not segment.asked:  # noqa: ASYNC110 - each pass of the loop counts
            await asyncio.sleep(0)
        assert len(segment.asked) == AT_ONCE
        await until(lambda: segment.verdicts)

    run(test())


class Heard:
    """A device that hears claims, and the time."""

    def __init__(self) -> None:
        self.defended: list[str] = []
        self.told: list[Owner] = []
        self.virtual: dict[str, bytes] = {}
        self.owners = Owners("eth0", self.defended.append, self.told.append, self.virtual.get)
        self.due: list[Callable[[], None]] = []
        self.owners._call_later = lambda _, do, *about: self.due.append(lambda: do(*about))
        self.owners._since = {ip_address(VIP): 0}

    def hear(self, seconds: float, mac: bytes = MAC, vip: str = VIP) -> None:
        """Hear a claim, and wait until it is confirmed."""
        self.owners.hear(ip_address(vip), mac, int(seconds * SECOND))
        while self.due:
            self.due.pop()()


def heard(check: Callable[[Heard], None]) -> None:
    async def test() -> None:
        check(Heard())

    run(test())


def test_a_foreign_owner_is_told_once_and_answered_once_in_ten_seconds() -> None:
    def check(heard: Heard) -> None:
        for tenth in range(20, 320):
            heard.hear(tenth / 10)
        assert len(heard.told) == 1
        assert len(heard.defended) == 3
        heard.hear(2 + SAY_NS / SECOND)
        assert len(heard.told) == 2
        assert DEFEND_NS == 10 * SECOND

    heard(check)


def test_another_hardware_address_is_news() -> None:
    def check(heard: Heard) -> None:
        heard.hear(2)
        heard.hear(3, OTHER)
        assert [owner.mac for owner in heard.told] == [MAC.hex(":"), OTHER.hex(":")]
        assert len(heard.defended) == 1

    heard(check)


def test_a_successor_that_is_heard_before_this_device_knows_of_it_is_no_foreign_owner() -> None:
    def check(heard: Heard) -> None:
        heard.owners.hear(ip_address(VIP), MAC, 2 * SECOND)
        heard.owners._since = {}
        heard.due.pop()()
        heard.owners.hear(ip_address(VIP), MAC, 3 * SECOND)
        heard.owners._since = {ip_address(VIP): 3 * SECOND}
        assert not heard.due
        heard.owners.hear(ip_address(VIP), MAC, 5 * SECOND)
        heard.owners._since = {ip_address(VIP): 6 * SECOND}
        heard.due.pop()()
        assert (heard.told, heard.defended) == ([], [])
        assert heard.owners.present() == ()

    heard(check)


def test_frames_of_a_predecessor_and_of_other_addresses_are_no_claim() -> None:
    def check(heard: Heard) -> None:
        heard.hear(GRACE_NS / SECOND / 2)
        heard.hear(20, vip="10.0.0.101")
        assert (heard.told, heard.defended) == ([], [])

    heard(check)


def test_who_claims_a_vip_at_its_virtual_mac_is_no_foreign_owner() -> None:
    def check(heard: Heard) -> None:
        heard.virtual[VIP] = MAC
        heard.hear(2)
        assert (heard.told, heard.defended) == ([], [])
        heard.hear(3, OTHER)
        assert [owner.mac for owner in heard.told] == [OTHER.hex(":")]

    heard(check)


def test_a_flood_of_owners_is_remembered_to_a_limit() -> None:
    def check(heard: Heard) -> None:
        for number in range(3 * MAX_OWNERS):
            heard.hear(2 + number, number.to_bytes(6, "big"))
        assert len(heard.owners._owners) == MAX_OWNERS

    heard(check)


def test_an_owner_that_is_silent_for_a_while_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(heard: Heard) -> None:
        heard.hear(2)
        monkeypatch.setattr("agent.owners.boottime", lambda: 2 * SECOND + FRESH_NS - 1)
        assert len(heard.owners.present()) == 1
        monkeypatch.setattr("agent.owners.boottime", lambda: 2 * SECOND + FRESH_NS)
        assert heard.owners.present() == ()

    heard(check)


def test_the_verification_completes_the_timeline_of_the_takeover(tmp_path: Path) -> None:
    history = History(tmp_path)
    entry = HistoryEntry(1, "primary", "rdp", UID, "a", "a", 4, "b fell silent", {"total": 9.0})
    history.add(entry)
    done = history.verified(UID, "a", 12.3456)
    assert done is not None
    assert history.add(done)
    assert history.query() == (done,)
    assert done.timeline == {"total": 9.0, VERIFICATION: 12.346}
    assert history.verified(UID, "a", 1.0) is None
    assert history.verified(UID, "b", 1.0) is None


def test_a_flood_of_owners_hides_none_and_leaves_room_in_the_history() -> None:
    def check(heard: Heard) -> None:
        now = boottime()
        heard.owners._since = {ip_address(VIP): now - 10 * GRACE_NS}
        number = 0
        for _ in range(3 * MAX_TOLD):
            for _ in range(2 * MAX_OWNERS):
                number += 1
                heard.owners.hear(ip_address(VIP), number.to_bytes(6, "big"), now)
            heard.due.pop()()
            assert not heard.due
        assert len(heard.owners.present()) == 3 * MAX_TOLD
        assert len(heard.told) == MAX_TOLD

    heard(check)
