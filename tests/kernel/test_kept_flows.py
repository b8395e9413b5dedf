"""A new primary that lacks flows is told of them by others, who do not throw them away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from agent.flows import Flows
from agent.flowstream import kept
from agent.flowtable import TIMEOUT_S, FlowTable
from agent.keptflows import WORTH_S
from protocol.config import Config
from protocol.effects import Event
from protocol.flows import RECORD, TCP, Flow, FlowsKept, FlowsPart, FlowsWanted
from protocol.ids import DeviceId
from protocol.messages import Message
from tests.kernel.namespaces import UID, VIP, Inside, hosts
from tests.kernel.test_slots_that_move import ME, NOTHING, PEER, config
from tests.kernel.tracked import PACKED
from tests.unit.cluster import device
from tests.unit.listening import until

pytestmark = pytest.mark.kernel

OTHER = device(3).id
GATEWAY, PORT = bytes([10, 77, 0, 13]), (7100).to_bytes(2, "big")
VIP4 = bytes(map(int, VIP.split(".")))


def flow(number: int, vip: bytes = VIP4, gateway: bytes = GATEWAY) -> Flow:
    client, port = bytes([10, 77, 1, number]), bytes([0x80, number])
    return RECORD[4].pack(TCP, client, vip, port, PORT, gateway, vip, PORT, port, 0)


OLD, NEW, LACKED = flow(1), flow(2), flow(3)


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.flows.KEEP_S", 0.05)


class Third:
    """A device that is told flows, and tells of those that a new primary lacks."""

    def __init__(self, agent: Any = NOTHING) -> None:
        self.returned: list[tuple[DeviceId, Flow]] = []
        self.flows: Any = Flows(ME.id, 1, self.send, agent)
        self.epoch = 0

    def send(self, to: DeviceId, message: Message) -> None:
        if isinstance(message, FlowsKept):
            self.returned += [(to, flow) for flow in message.flows]

    async def start(self, config: Config) -> None:
        await self.flows.start()
        self.flows.on_config(config)

    @property
    def kernel(self) -> set[Flow]:
        with closing(FlowTable()) as table:
            return set(table.all(PACKED))

    def follows(self, leader: DeviceId | None) -> None:
        self.flows.on_event(Event("leader", UID, "", 1, leader))

    async def is_told(self, leader: DeviceId, *flows: Flow) -> None:
        """All that this primary has."""
        await asyncio.sleep(0)
        self.epoch += 1
        part = FlowsPart(self.epoch, 1, True, (UID,), b"".join(flows))
        self.flows.on_message(leader, part)
        source = self.flows._following._in[leader]
        await until(lambda: source._entered == 1 and source._epoch == self.epoch)


async def in_step_with_the_first() -> Third:
    """The primary before had flows that the next one may lack."""
    third = Third()
    await third.start(config())
    third.follows(PEER.id)
    await third.is_told(PEER.id, OLD, LACKED)
    return third


def inside(test: Callable[[], Any]) -> None:
    with hosts("a") as network:
        a = Inside(network, "a")
        a.call(lambda: asyncio.run(asyncio.wait_for(test(), 30.0)))
        a.close()


@pytest.mark.parametrize("unknown_meanwhile", [False, True])
def test_what_a_new_primary_does_not_tell_of_stays_and_is_told_to_it(
    unknown_meanwhile: bool,
) -> None:
    async def test() -> None:
        third = await in_step_with_the_first()
        if unknown_meanwhile:
            third.follows(None)
        third.follows(OTHER)
        await third.is_told(OTHER, OLD, NEW)
        assert third.kernel == {OLD, NEW, LACKED}
        await until(lambda: third.returned == [(OTHER, LACKED)])
        # From then on it is right about everything.
        await third.is_told(OTHER, OLD, NEW)
        assert third.kernel == {OLD, NEW}
        await third.flows.close()
        assert third.returned == [(OTHER, LACKED)]

    inside(test)


@pytest.mark.parametrize("carried", [True, False])
def test_an_agent_that_starts_anew_keeps_flows_of_what_its_kernel_carried_just_now(
    carried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if carried:  # as if a packet had met what is entered here
        monkeypatch.setattr("agent.flowtable._given", lambda: {TIMEOUT_S[TCP]})

    async def test() -> None:
        with closing(FlowTable()) as table:
            table.put([OLD, LACKED])
        third = Third()
        await third.start(config())
        third.follows(OTHER)
        await third.is_told(OTHER, OLD, NEW)
        assert third.kernel == {OLD, NEW} | ({LACKED} if carried else set())
        await until(lambda: third.returned == [(OTHER, LACKED)] * carried)
        # It is not new any more.
        await third.is_told(OTHER, OLD, NEW)
        assert third.kernel == {OLD, NEW}
        await third.flows.close()

    inside(test)


@pytest.mark.parametrize("how", ["released", "lame"])
def test_who_lost_its_office_is_out_of_step_and_who_handed_it_over_is_not(how: str) -> None:
    async def test() -> None:
        former = Third()
        await former.start(config())
        former.flows.on_event(Event("primary", UID, "", 1, ME.id))
        former.flows.on_event(Event(how, UID, "", 1, ME.id if how == "released" else OTHER))
        former.follows(OTHER)
        await asyncio.sleep(0)
        in_step = former.flows._following._in_step
        assert (UID in in_step) == (how == "lame")
        await former.is_told(OTHER)
        assert UID in in_step
        await former.flows.close()

    inside(test)


def long_ago(third: Third) -> None:
    """The primary had said nothing for a while when another one took over."""
    third.flows._following._in[PEER.id].heard -= WORTH_S


def out_of_step(third: Third) -> None:
    """A part of what the primary told was lost on the way."""
    third.flows.on_message(PEER.id, FlowsPart(third.epoch, 9, False))


@pytest.mark.parametrize("what", [long_ago, out_of_step])
def test_a_device_that_may_have_missed_their_end_keeps_no_flows(
    what: Callable[[Third], None],
) -> None:
    async def test() -> None:
        third = await in_step_with_the_first()
        what(third)
        third.follows(OTHER)
        await third.is_told(OTHER, OLD)
        assert third.kernel == {OLD}
        await third.flows.close()
        assert not third.returned

    inside(test)


def test_a_primary_that_tells_nothing_any_more_leaves_a_device_out_of_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where a link between just these two is cut."""
    monkeypatch.setattr("agent.flowfollowing.QUIET_S", 0.2)

    async def test() -> None:
        third = Third()
        await third.start(config())
        third.follows(PEER.id)
        await third.is_told(PEER.id, OLD)
        assert UID in third.flows._following._in_step
        await until(lambda: UID not in third.flows._following._in_step)
        await third.is_told(PEER.id, OLD)
        assert UID in third.flows._following._in_step
        await third.flows.close()

    inside(test)


def test_a_new_primary_enters_what_it_lacks_and_replaces_nothing() -> None:
    ours, theirs = flow(4), flow(4, gateway=bytes([10, 77, 0, 14]))
    foreign = flow(5, vip=bytes([10, 77, 0, 99]))

    async def test() -> None:
        primary = Third()
        await primary.start(config())
        primary.flows.on_event(Event("primary", UID, "", 1, ME.id))
        with closing(FlowTable()) as table:
            table.put([ours])
        (message,) = kept([LACKED, theirs, foreign])
        primary.flows.on_message(PEER.id, message)
        await until(lambda: LACKED in primary.kernel)
        assert primary.kernel == {ours, LACKED}
        await primary.flows.close()

    inside(test)


def test_a_secondary_of_the_new_primary_is_told_of_them_at_once() -> None:
    told: list[Flow] = []

    async def test() -> None:
        def send(to: DeviceId, message: Message) -> None:
            if isinstance(message, FlowsPart):
                told.extend(message.begun)

        flows: Any = Flows(ME.id, 1, send, NOTHING)
        await flows.start()
        flows.on_config(config())
        flows.on_event(Event("primary", UID, "", 1, ME.id))
        flows.on_message(PEER.id, FlowsWanted((UID,), 0, 0))
        await until(lambda: flows._telling._out[PEER.id].ready)
        (message,) = kept([LACKED])
        flows.on_message(OTHER, message)
        await until(lambda: told == [LACKED])
        await flows.close()

    inside(test)


@pytest.mark.parametrize("role", ["leader", "primary, for long"])
def test_who_is_no_new_primary_is_told_in_vain(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if role != "leader":
        monkeypatch.setattr("agent.tellers.FRESH_S", 0.0)

    async def test() -> None:
        device = Third()
        await device.start(config())
        kind, who = ("leader", PEER.id) if role == "leader" else ("primary", ME.id)
        device.flows.on_event(Event(kind, UID, "", 1, who))
        (message,) = kept([LACKED])
        device.flows.on_message(OTHER, message)
        await asyncio.wrap_future(device.flows._worker._thread.submit(int))
        assert device.kernel == set()
        await device.flows.close()

    inside(test)


def test_a_torn_record_changes_nothing() -> None:
    async def test() -> None:
        primary = Third()
        await primary.start(config())
        primary.flows.on_event(Event("primary", UID, "", 1, ME.id))
        primary.flows.on_message(PEER.id, FlowsKept(LACKED + b"torn"))
        await asyncio.wrap_future(primary.flows._worker._thread.submit(int))
        assert primary.kernel == set()
        await primary.flows.close()

    inside(test)
