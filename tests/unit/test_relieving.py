"""A device that is removed or replaced while it serves: what it is primary of moves first."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from agent import relieving
from agent.errands import Errands
from agent.news import News
from agent.relieving import relieve
from protocol.changes import RemoveDevice, ReplaceDevice
from protocol.config import Edit
from protocol.effects import Outcome, Promote
from protocol.errors import Refused
from protocol.ids import DeviceId
from protocol.objects import Assignment, SiteRecord
from protocol.timing import Profile
from protocol.view import PeerState
from tests.unit.cluster import RDP, device, first_config, server
from tests.unit.listening import run

A, B, C = devices = [device(i) for i in (1, 2, 3)]
IDS = tuple(each.id for each in devices)
ASSIGNED = Assignment(
    uid=RDP, number=1, voters=IDS, vips=("10.0.0.1",), profile=Profile.NORMAL,
    slowest=Profile.NORMAL,
)  # fmt: skip
SITE = SiteRecord(id="a" * 16, name="paris", voters=IDS)
CONFIG = first_config(devices, server()).edited(Edit(put=(SITE, ASSIGNED)), 2)


class Relieved:
    """Asks ``d2`` to take a device out; ``refused`` moves fail before one is made."""

    def __init__(
        self, refused: int = 0, *, alive: tuple[DeviceId, ...] = IDS,
        coordinator: DeviceId | None = B.id,
    ) -> None:  # fmt: skip
        self.moves: list[Promote] = []
        self._refused = refused
        self._errands = Errands()
        peers = [SimpleNamespace(device=each, state=PeerState.ALIVE) for each in alive]
        self._agent: Any = SimpleNamespace(
            config=CONFIG, device=B.id, errands=self._errands, news=News(), deliver=self._deliver,
            primary_of=lambda uid: A.id,
            view=lambda: SimpleNamespace(peers=peers, coordinator=coordinator),
        )  # fmt: skip

    def _deliver(self, item: Promote) -> None:
        self.moves.append(item)
        refusal = Refused("cannot hand over: no other device can take it")
        error = refusal if len(self.moves) <= self._refused else None
        self._errands.end(Outcome(item.request, detail="moved", error=error))

    def of(self, name: str, left: float = 0.4) -> list[str]:
        return self.by(RemoveDevice(name), left)

    def by(self, change: RemoveDevice | ReplaceDevice, left: float = 0.4) -> list[str]:
        async def test() -> list[str]:
            return await relieve(self._agent, change, left)

        return run(test())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relieving, "AGAIN_S", 0.01)


def test_what_it_is_primary_of_is_moved_by_name() -> None:
    relieved = Relieved()
    assert relieved.of("d1") == []
    assert [(move.virtual_server, move.to) for move in relieved.moves] == [("rdp", None)]


def test_a_move_that_is_refused_is_tried_again() -> None:
    relieved = Relieved(refused=3)
    assert relieved.of("d1") == []
    assert len(relieved.moves) == 4


def test_what_nobody_takes_is_named_in_time_for_the_change() -> None:
    began = time.monotonic()
    (stayed,) = Relieved(refused=10_000).of("d1", left=0.4)
    assert stayed == (
        "rdp was not handed over first: cannot hand over: no other device can take it"
    )
    assert time.monotonic() - began < 0.4


def test_a_device_that_serves_nothing_or_is_gone_holds_nobody_up() -> None:
    for name, alive in (("d3", IDS), ("d1", (C.id,))):
        relieved = Relieved(alive=alive)
        assert relieved.of(name) == []
        assert not relieved.moves


def test_nothing_is_moved_for_a_change_that_is_refused_or_that_nobody_can_make() -> None:
    for change in (RemoveDevice("d9"), ReplaceDevice("d1", "d9")):
        relieved = Relieved()
        assert relieved.by(change) == []
        assert not relieved.moves
    for coordinator in (None, A.id):
        relieved = Relieved(alive=(C.id,), coordinator=coordinator)
        assert relieved.of("d2", left=0.1) == []
        assert not relieved.moves
