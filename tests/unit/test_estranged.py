"""A device that hears nobody asks whether it still belongs, and believes who knows enough."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent import estranged
from agent.estranged import Estranged
from agent.keys import KeyPair
from agent.sockets import new_key_pair
from protocol.config import Config, Edit
from protocol.effects import Input, Resume, Stop
from protocol.errors import HalbError, Refused
from protocol.joining import JoinReply, JoinRequest, membership
from protocol.view import NodeView, PeerState
from tests.unit.paris import device, site

D = device("d", 4)
WITH_D = site().edited(Edit(put=(D,)), 1)
WITHOUT_D = WITH_D.edited(Edit(delete=(("device", D.id),)), 1)
BEFORE_D = site()


class Life:
    """Device d, whose only answers come from members with these configurations."""

    def __init__(self, *answer: Config) -> None:
        self.answer = {
            address: config
            for other, config in zip(WITH_D.devices.values(), answer, strict=False)
            for address in other.addresses
        }
        self.asked: list[JoinRequest] = []
        self.told: list[Input] = []
        self.heard = False
        self.config = WITH_D
        self.estranged = Estranged(
            new_key_pair(), lambda: self.config, self.view, lambda: D,
            self.told.append, lambda: None,
        )  # fmt: skip

    def view(self) -> NodeView:
        peers = [SimpleNamespace(state=PeerState.ALIVE if self.heard else PeerState.DEAD)]
        return cast(NodeView, SimpleNamespace(peers=peers))

    async def ask(
        self, key: str, address: str, request: JoinRequest, keys: KeyPair, seconds: float
    ) -> JoinReply:
        self.asked.append(request)
        if address not in self.answer:
            raise HalbError("does not answer")
        return membership(self.answer[address], request)


def live(monkeypatch: pytest.MonkeyPatch, life: Life, *until: Callable[[], object]) -> None:
    async def main() -> None:
        life.estranged.start()
        async with asyncio.timeout(5):
            for condition in until:
                done = False
                while not done:
                    await asyncio.sleep(0.005)
                    done = bool(condition())
        await life.estranged.close()

    monkeypatch.setattr(estranged, "SILENCE_S", 0.01)
    monkeypatch.setattr(estranged, "ask_member", life.ask)
    asyncio.run(main())


def test_a_device_that_was_removed_stops_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(WITHOUT_D)
    live(monkeypatch, life, lambda: life.told)
    assert life.told == [Stop()]
    assert "was removed from Site" in life.estranged.note


def test_a_device_that_heard_of_its_removal_says_so_at_once() -> None:
    life = Life()
    assert not life.estranged.note
    life.config = WITHOUT_D
    assert life.estranged.removed_from == "paris"
    assert "was removed from Site paris" in life.estranged.note
    life.config = Config()
    assert not life.estranged.note


def test_a_member_that_knows_less_than_the_device_does_not_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    life = Life(BEFORE_D)
    every = sum(len(other.addresses) for other in BEFORE_D.devices.values())
    live(monkeypatch, life, lambda: len(life.asked) > 3 * every)
    assert not life.told
    assert not life.estranged.removed_from


def test_where_one_cannot_tell_the_next_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(BEFORE_D, WITHOUT_D)
    live(monkeypatch, life, lambda: life.told)
    assert life.told == [Stop()]


def test_a_device_that_members_speak_to_takes_part_again(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(WITHOUT_D)

    def is_heard() -> bool:
        life.heard = True
        return len(life.told) > 1

    live(monkeypatch, life, lambda: life.told, is_heard)
    assert life.told == [Stop(), Resume()]
    assert not life.estranged.note


def test_a_release_that_does_not_say_what_it_knows_is_answered_as_before() -> None:
    config: Any = WITHOUT_D
    assert config.site is not None
    assert membership(config, JoinRequest("", "", D, config.site.id)).member is False
    with pytest.raises(Refused, match="older than"):
        membership(BEFORE_D, JoinRequest("", "", D, config.site.id, WITH_D.revision))
