"""Slots are about to move: flows that began just now are told of before they have moved."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from agent.carrier import SLOTS_MOVE_S, Carrier
from agent.flows import Flows
from agent.lastseen import NOTHING_SEEN, Memory
from agent.settings import Settings
from halbctl.lab.servers import ECHO
from protocol.config import Config, Edit
from protocol.effects import Event
from protocol.flows import FlowsPart, FlowsWanted, vip_of
from protocol.ids import DeviceId
from protocol.messages import Message
from protocol.objects import Assignment, Gateway, Listener
from protocol.objects import Device as Member
from protocol.timing import Profile
from tests.kernel.namespaces import (
    UID,
    VIP,
    VIPS,
    Device,
    Inside,
    connect,
    desired,
    hosts,
    virtual_server,
)
from tests.unit.cluster import device, first_config
from tests.unit.listening import until

pytestmark = pytest.mark.kernel

LISTENER = Listener(protocol="tcp", port=ECHO, gateway_port=ECHO)
GATEWAY = Gateway(name="gw", address="10.77.0.13")
SERVER = virtual_server([GATEWAY], [LISTENER])
ME, PEER = device(1), device(2)
UNTOLD = SimpleNamespace(texts=lambda kind: ())
NOTHING: Any = SimpleNamespace(deliver=print, on_event=print, on_verified=print, history=UNTOLD)


def config(*others: Member) -> Config:
    """This device, and the ``others`` (``PEER``), carry the Virtual Server."""
    devices = (ME, *(others or (PEER,)))
    assigned = Assignment(
        uid=UID,
        number=1,
        voters=tuple(each.id for each in devices),
        vips=VIPS,
        profile=Profile.NORMAL,
        slowest=Profile.NORMAL,
    )
    return first_config(list(devices), SERVER).edited(Edit(put=(assigned,)), 2)


def test_haste_tells_at_once_what_would_have_waited_for_the_next_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent.flowtelling.BATCH_S", 3600.0)
    told: list[FlowsPart] = []

    def send(to: DeviceId, message: Message) -> None:
        if isinstance(message, FlowsPart) and not message.sign:
            assert to == PEER.id
            told.append(message)

    async def test(client: Inside) -> None:
        flows = Flows(ME.id, 1, send, NOTHING)
        await flows.start()
        flows.on_config(config())
        flows.on_event(Event("primary", UID, "", 1, ME.id))
        flows.on_message(PEER.id, FlowsWanted((UID,), 0, 0))
        await until(lambda: any(part.complete for part in told))
        with closing(await asyncio.to_thread(client.call, connect, VIP, ECHO, 30.0)):
            flows.hasten(60.0)
            await until(lambda: [vip_of(flow) for part in told for flow in part.begun])
        await flows.close()

    with hosts("a", "client", "gw", servers=("gw",)) as network:
        a, client = Device(network, "a"), Inside(network, "client")
        a.reconcile(desired(SERVER))
        a.take()
        a.call(asyncio.run, asyncio.wait_for(test(client), 60))
        client.close()
        a.close()


def test_a_configuration_that_may_move_slots_makes_haste_before_it_is_committed(
    tmp_path: Path,
) -> None:
    made: list[float] = []
    flows: Any = type("Flows", (), {"hasten": staticmethod(made.append)})

    async def test() -> None:
        settings = Settings("a", ("10.77.0.11:7480",), "eth0", checks_dir=tmp_path)
        memory = Memory(NOTHING_SEEN, print, time.time, time.monotonic)
        carrier = Carrier(ME.id, settings, Random(1), print, flows, NOTHING, memory)
        carrier.on_stored(first_config([ME, PEER]))
        assert not made
        carrier.on_stored(config())
        assert made == [SLOTS_MOVE_S]

    with hosts("a") as network:
        a = Inside(network, "a")
        a.call(asyncio.run, test())
        a.close()
