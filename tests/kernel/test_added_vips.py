"""A Virtual Server gets one more VIP: flows to it are told from then on, like all others."""

from __future__ import annotations

import asyncio
from contextlib import closing
from ipaddress import ip_address

import pytest
from msgspec.structs import replace

from agent.flows import Flows
from halbctl.lab.servers import ECHO
from protocol.config import Config, Edit
from protocol.effects import Event
from protocol.flows import FlowsPart, FlowsWanted, vip_of
from protocol.ids import DeviceId
from protocol.messages import Message
from protocol.objects import Gateway
from tests.kernel.namespaces import UID, VIP, VIP6, Device, Inside, connect, desired, hosts
from tests.kernel.test_slots_that_move import ME, NOTHING, PEER, SERVER, config
from tests.unit.listening import until

pytestmark = pytest.mark.kernel

GATEWAY6 = Gateway(name="gw6", address="fd77::13")


def with_vips(*vips: str) -> Config:
    full = config()
    return full.edited(Edit(put=(replace(full.assignments[UID], vips=vips),)), 3)


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("KEEP_S", 0.05), ("PAUSE_S", 0.0)):
        monkeypatch.setattr(f"agent.flows.{name}", seconds)


def test_a_primary_tells_of_flows_to_a_vip_that_was_added() -> None:
    told: list[FlowsPart] = []
    heard: set[bytes] = set()

    async def test(client: Inside) -> None:
        def send(to: DeviceId, message: Message) -> None:
            """The other device, which has everything at once."""
            if isinstance(message, FlowsPart) and not message.sign:
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


def test_a_secondary_asks_anew_once_it_knows_of_a_vip_that_was_added() -> None:
    """What the primary told of it before was heeded by nobody."""
    asked: list[FlowsWanted] = []

    async def test() -> None:
        def send(_: DeviceId, message: Message) -> None:
            if isinstance(message, FlowsWanted):
                asked.append(message)

        def begin(epoch: int) -> None:
            flows.on_message(PEER.id, FlowsPart(epoch, 1, True, (UID,)))

        flows = Flows(ME.id, 1, send, NOTHING)
        await flows.start()
        flows.on_config(with_vips(VIP))
        flows.on_event(Event("leader", UID, "", 1, PEER.id))
        begin(1)
        await until(lambda: asked[-1].number == 1)
        flows.on_config(with_vips(VIP, VIP6))
        await until(lambda: asked[-1].groups == (UID,))
        begin(2)
        await until(lambda: asked[-1].epoch == 2)
        number = len(asked)
        await until(lambda: len(asked) > number + 5)
        assert {each.epoch for each in asked[number:]} == {2}
        await flows.close()

    with hosts("a") as network:
        a = Inside(network, "a")
        a.call(asyncio.run, asyncio.wait_for(test(), 60))
        a.close()
