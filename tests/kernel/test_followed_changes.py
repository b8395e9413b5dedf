"""A Virtual Server changes while its flows are told: what was not heeded meanwhile is told anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from ipaddress import ip_address
from typing import Any

import pytest
from msgspec.structs import replace

from agent.flowfollowing import Following
from agent.flows import Flows
from halbctl.lab.servers import ECHO
from protocol.config import Config, Edit
from protocol.effects import Event
from protocol.flows import FlowsPart, FlowsWanted, vip_of
from protocol.ids import DeviceId, GroupId
from protocol.messages import Message
from protocol.objects import Gateway
from tests.kernel.namespaces import UID, VIP, VIP6, Device, Inside, connect, desired, hosts
from tests.kernel.test_slots_that_move import ME, NOTHING, PEER, SERVER, config
from tests.unit.cluster import device
from tests.unit.listening import until

pytestmark = pytest.mark.kernel

GATEWAY6 = Gateway(name="gw6", address="fd77::13")


def with_vips(*vips: str) -> Config:
    full = config()
    return full.edited(Edit(put=(replace(full.assignments[UID], vips=vips),)), 3)


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("flows.KEEP_S", 0.05), ("flowtelling.PAUSE_S", 0.0)):
        monkeypatch.setattr(f"agent.{name}", seconds)


def test_a_primary_tells_of_flows_to_a_vip_that_was_added() -> None:
    told: list[FlowsPart] = []
    heard: set[bytes] = set()

    async def test(client: Inside) -> None:
        def send(to: DeviceId, message: Message) -> None:
            """The other device, which has everything at once."""
            if isinstance(message, FlowsPart):
                told.append(message)
                heard.update(map(vip_of, message.begun))
                answer = FlowsWanted((), message.epoch, message.number)
                loop.call_soon(flows.on_message, to, answer)

        loop = asyncio.get_running_loop()
        flows = Flows(ME.id, 1, send, NOTHING)
        await flows.start()
        flows.on_config(with_vips(VIP))
        flows.on_event(Event("primary", UID, "", 1, ME.id))
        flows.on_message(PEER.id, FlowsWanted((UID,), 0, 0))
        await until(lambda: any(part.complete for part in told))
        flows.on_config(with_vips(VIP, VIP6))
        with closing(await asyncio.to_thread(client.call, connect, VIP6, ECHO, 30.0)):
            await until(lambda: ip_address(VIP6).packed in heard)
        await flows.close()

    with hosts("a", "client", "gw", servers=("gw",)) as network:
        a, client = Device(network, "a"), Inside(network, "client")
        a.reconcile(desired(replace(SERVER, gateways=(*SERVER.gateways, GATEWAY6))))
        a.take()
        a.call(asyncio.run, asyncio.wait_for(test(client), 60))
        client.close()
        a.close()


def test_a_secondary_is_not_sent_away_while_a_newer_stream_is_read_for_it() -> None:
    """It acknowledges the present one until it has seen the beginning of that."""
    told: list[FlowsPart] = []

    async def test() -> None:
        def send(_: DeviceId, message: Message) -> None:
            if isinstance(message, FlowsPart) and not message.sign:
                told.append(message)

        loop = asyncio.get_running_loop()
        flows: Any = Flows(ME.id, 1, send, NOTHING)
        await flows.start()
        flows.on_config(with_vips(VIP))
        flows.on_event(Event("primary", UID, "", 1, ME.id))
        flows.on_message(PEER.id, FlowsWanted((UID,), 0, 0))
        share = flows._telling._readings_for[PEER.id]
        await until(lambda: told and share.free_at <= loop.time())
        flows.on_message(PEER.id, FlowsWanted((UID,), 0, 0))
        flows.on_message(PEER.id, FlowsWanted((), told[0].epoch, 1))
        assert len(told) == 1
        await until(lambda: len(told) > 1)
        assert told[1].epoch > told[0].epoch > 0
        await flows.close()

    with hosts("a") as network:
        a = Inside(network, "a")
        a.call(asyncio.run, asyncio.wait_for(test(), 60))
        a.close()


def test_many_groups_that_move_at_once_are_arranged_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A device that dies may have been primary of a thousand, and each look is at all of them."""
    arranged: list[int] = []
    monkeypatch.setattr(Following, "arrange", lambda self: arranged.append(1))

    async def test() -> None:
        flows = Flows(ME.id, 1, lambda *_: None, NOTHING)
        await flows.start()
        for number in range(1000):
            flows.on_event(Event("leader", GroupId(f"{number:016x}"), "", 1, PEER.id))
        assert len(arranged) == 1
        await until(lambda: len(arranged) == 2)
        await asyncio.sleep(0)
        assert len(arranged) == 2
        await flows.close()

    with hosts("a") as network:
        a = Inside(network, "a")
        a.call(asyncio.run, asyncio.wait_for(test(), 60))
        a.close()


class Secondary:
    """A device whose primary has told it all flows, of which there are none."""

    def __init__(self) -> None:
        self.asked: list[FlowsWanted] = []
        self.flows = Flows(ME.id, 1, self.send, NOTHING)

    def send(self, to: DeviceId, message: Message) -> None:
        if to == PEER.id and isinstance(message, FlowsWanted):
            self.asked.append(message)

    async def begin(self, epoch: int) -> None:
        """The primary begins to tell, and this device goes on from there."""
        self.flows.on_message(PEER.id, FlowsPart(epoch, 1, True, (UID,)))
        await until(lambda: self.asked[-1].number == 1 and self.asked[-1].epoch == epoch)
        number = len(self.asked)
        await until(lambda: len(self.asked) > number + 5)
        assert {each.epoch for each in self.asked[number:]} == {epoch}

    async def asks_anew(self) -> None:
        await until(lambda: self.asked[-1].groups == (UID,) and not self.asked[-1].epoch)


def primary(device: DeviceId | None) -> Event:
    return Event("leader", UID, "", 1, device)


def grown(flows: Flows) -> None:
    """What the primary told of the new VIP before this device knew of it was ignored."""
    flows.on_config(with_vips(VIP, VIP6))


def left_out(flows: Flows) -> None:
    """For a while this device was none of those that carry the Virtual Server."""
    full = config()
    server = replace(full.virtual_servers[UID], devices=(PEER.id,))
    flows.on_config(full.edited(Edit(put=(server,)), 3))
    flows.on_config(with_vips(VIP))


def led_by_another(flows: Flows) -> None:
    """What the primary told before this device knew that it is primary again was ignored."""
    flows.on_event(primary(device(3).id))
    flows.on_event(primary(PEER.id))


@pytest.mark.parametrize("change", [grown, left_out, led_by_another])
def test_a_secondary_asks_anew_for_what_it_could_not_heed(change: Callable[[Flows], None]) -> None:
    async def test() -> None:
        secondary = Secondary()
        await secondary.flows.start()
        secondary.flows.on_config(with_vips(VIP))
        secondary.flows.on_event(primary(PEER.id))
        await secondary.begin(1)
        change(secondary.flows)
        await secondary.asks_anew()
        await secondary.begin(2)
        await secondary.flows.close()

    with hosts("a") as network:
        a = Inside(network, "a")
        a.call(asyncio.run, asyncio.wait_for(test(), 60))
        a.close()
