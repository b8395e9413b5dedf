"""What the kernel refuses once, or takes long to say, costs a moment of telling flows, not more."""

from __future__ import annotations

import asyncio
import resource
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from agent import flowreading
from agent.flows import Flows
from agent.flowstream import SILENT_S
from agent.flowtable import FlowTable
from protocol.effects import Event
from protocol.flows import FlowsPart, FlowsWanted, Flush
from protocol.ids import DeviceId
from protocol.messages import Message
from tests.kernel.namespaces import UID, Inside, hosts
from tests.kernel.test_slots_that_move import ME, NOTHING, PEER, config
from tests.unit.cluster import device
from tests.unit.listening import until

pytestmark = pytest.mark.kernel

ASK_S = 0.05


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("flows.KEEP_S", ASK_S), ("flowtelling.PAUSE_S", 0.0)):
        monkeypatch.setattr(f"agent.{name}", seconds)


def without_descriptors(job: Callable[..., Any]) -> Callable[..., Any]:
    """``job`` as it goes where the process can open nothing; the next time it can."""
    left = [1]

    def scarce(*args: Any, **named: Any) -> Any:
        if not left:
            return job(*args, **named)
        left.clear()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            return job(*args, **named)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    return scarce


def refused_once(job: Callable[..., Any]) -> Callable[..., Any]:
    left = [OSError(12, "Cannot allocate memory")]

    def refused(*args: Any, **named: Any) -> Any:
        if left:
            raise left.pop()
        return job(*args, **named)

    return refused


class Telling:
    """A primary, and a secondary that asks again and again and enters all at once."""

    def __init__(self, incarnation: int = 1) -> None:
        self.told: list[FlowsPart] = []
        self.flows: Any = Flows(ME.id, incarnation, self.send, NOTHING)
        self.epoch = self.number = 0

    def send(self, _: DeviceId, message: Message) -> None:
        assert isinstance(message, FlowsPart)
        self.told.append(message)
        if not message.epoch:
            self.epoch = 0
        elif message.number == 1 and not message.sign:
            self.epoch = message.epoch
        self.number = message.number

    async def asks_until(self, condition: Callable[[], object]) -> None:
        while not condition():
            groups = () if self.epoch else (UID,)
            self.flows.on_message(PEER.id, FlowsWanted(groups, self.epoch, self.number))
            await asyncio.sleep(ASK_S)

    async def begins(self) -> None:
        """The secondary is told all flows, in a stream that it was not told of before."""
        await self.flows.start()
        self.flows.on_config(config())
        self.flows.on_event(Event("primary", UID, "", 1, ME.id))
        await self.asks_until(lambda: self.epoch)

    def is_ended(self) -> bool:
        return any(not part.epoch for part in self.told)


def inside(test: Callable[[], Any], seconds: float = 30.0) -> None:
    with hosts("a") as network:
        a = Inside(network, "a")
        a.call(lambda: asyncio.run(asyncio.wait_for(test(), seconds)))
        a.close()


def test_a_full_reading_that_failed_is_tried_again_at_the_next_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent.flowtelling.everything", without_descriptors(flowreading.everything))

    async def test() -> None:
        telling = Telling()
        await telling.begins()
        await telling.flows.close()

    inside(test, SILENT_S / 3)


def test_a_full_reading_may_take_longer_than_a_secondary_may_be_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent.flowstream.SILENT_S", 5 * ASK_S)
    readings: list[float] = []
    over = threading.Event()

    def slow(*args: Any) -> Any:
        readings.append(time.monotonic())
        over.wait()
        return flowreading.everything(*args)

    monkeypatch.setattr("agent.flowtelling.everything", slow)

    async def test() -> None:
        telling = Telling()
        asyncio.get_running_loop().call_later(20 * ASK_S, over.set)
        try:
            await telling.begins()
        finally:
            over.set()
        assert len(readings) == 1
        await telling.flows.close()

    inside(test)


def test_a_secondary_does_not_wait_until_the_reading_for_another_is_paid_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A reading takes a second of each thousand here, for the secondary that it is for."""
    monkeypatch.setattr("agent.flowtelling.SHARE", 0.001)
    monkeypatch.setattr("agent.flowtelling.READINGS_SHARE", 1.0)
    third = device(3)

    def costly(*args: Any) -> Any:
        ends = time.thread_time() + 0.1
        while time.thread_time() < ends:
            pass
        return flowreading.everything(*args)

    monkeypatch.setattr("agent.flowtelling.everything", costly)

    async def test() -> None:
        begun: list[DeviceId] = []

        def send(to: DeviceId, message: Message) -> None:
            assert isinstance(message, FlowsPart)
            if message.number == 1 and not message.sign:
                begun.append(to)

        flows: Any = Flows(ME.id, 1, send, NOTHING)
        await flows.start()
        flows.on_config(config(PEER, third))
        flows.on_event(Event("primary", UID, "", 1, ME.id))
        for each in (PEER, third):
            async with asyncio.timeout(20.0):
                while each.id not in begun:
                    flows.on_message(each.id, FlowsWanted((UID,), 0, 0))
                    await asyncio.sleep(ASK_S)
        flows.on_message(PEER.id, FlowsWanted((UID,), 0, 0))
        await asyncio.sleep(4 * ASK_S)
        assert begun == [PEER.id, third.id]
        await flows.close()

    inside(test)


def test_a_look_that_failed_has_all_flows_told_anew_and_the_next_one_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent.flowtelling.changes", refused_once(flowreading.changes))
    looks: list[bool] = []

    async def test() -> None:
        telling = Telling()
        await telling.begins()
        telling.flows.hasten(0.0)
        await telling.asks_until(telling.is_ended)
        await telling.asks_until(lambda: telling.epoch)

        def noted(*args: Any, **named: Any) -> Any:
            looks.append(True)
            return flowreading.changes(*args, **named)

        monkeypatch.setattr("agent.flowtelling.changes", noted)
        telling.flows.hasten(0.0)
        await telling.asks_until(lambda: looks)
        await telling.flows.close()

    inside(test)


@pytest.mark.parametrize("name", ["listen", "share"])
def test_a_primary_that_could_not_listen_tries_again(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    done: list[bool] = []
    real = getattr(FlowTable, name)

    def noted(table: FlowTable, wanted: bool) -> None:
        real(table, wanted)
        done.append(wanted)

    monkeypatch.setattr(FlowTable, name, refused_once(noted))

    async def test() -> None:
        telling = Telling()
        await telling.begins()
        await telling.asks_until(lambda: done)
        assert done == [True]
        await telling.asks_until(lambda: telling.epoch)
        assert telling.is_ended() == (name == "listen")
        await telling.flows.close()

    inside(test)


def test_a_move_that_was_given_up_is_waited_for_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the kernel would be a whole one, and each word of a secondary the next."""
    looks: list[bool] = []

    def noted(*args: Any, **named: Any) -> Any:
        looks.append(named["whole"])
        return flowreading.changes(*args, **named)

    monkeypatch.setattr("agent.flowtelling.changes", noted)
    dead = device(3).id

    async def asked(telling: Telling) -> None:
        end = time.monotonic() + 10 * ASK_S
        await telling.asks_until(lambda: time.monotonic() > end)

    async def test() -> None:
        telling = Telling()
        await telling.begins()
        telling.flows.flush(Flush(UID, dead))
        await telling.asks_until(lambda: len(looks) > 3)
        telling.flows.on_event(Event("handover-aborted", UID, "", 1, dead))
        await asked(telling)
        made = len(looks)
        await asked(telling)
        assert len(looks) == made
        await telling.flows.close()

    inside(test)


def test_a_primary_that_starts_anew_numbers_its_streams_above_all_it_told_before() -> None:
    """Its incarnation is one more than the last where the clock was set back meanwhile."""
    incarnation = 1_700_000_000_000
    epochs: list[int] = []

    async def run(started: int, streams: int) -> None:
        telling = Telling(started)
        await telling.begins()
        for _ in range(streams):
            epochs.append(telling.epoch)
            telling.epoch = 0
            await telling.asks_until(lambda: telling.epoch)
        await telling.flows.close()

    async def test() -> None:
        for more, streams in enumerate((5, 2, 1)):
            await run(incarnation + more, streams)

    inside(test)
    assert epochs == sorted(set(epochs))


def test_a_secondary_whose_questions_are_lost_asks_again_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As those are that it sends while its connection to the primary is made."""
    monkeypatch.setattr("agent.flows.KEEP_S", 60.0)
    monkeypatch.setattr("agent.flowfollowing.AGAIN_S", 0.02)
    asked: list[Message] = []
    anew, here = FlowsWanted((UID,), 0, 0), FlowsWanted((), 5, 1)

    async def test() -> None:
        flows: Any = Flows(ME.id, 1, lambda _, message: asked.append(message), NOTHING)
        await flows.start()
        flows.on_config(config())
        flows.on_event(Event("leader", UID, "", 1, PEER.id))
        await until(lambda: asked.count(anew) >= 3)
        flows.on_message(PEER.id, FlowsPart(5, 1, True, (UID,)))
        await until(lambda: here in asked)
        before = asked.count(anew)
        await asyncio.sleep(0.1)
        assert asked.count(anew) == before
        await flows.close()

    inside(test)
