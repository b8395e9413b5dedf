"""A device's part in carrying Virtual Servers: it looks at its leases as long as it lives."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agent.announce import Announcer
from agent.carrier import Carrier
from agent.lastseen import NOTHING_SEEN, Memory
from agent.lease import KernelLease
from agent.presence import Presence
from agent.settings import Settings
from agent.vips import Vips
from protocol.effects import Acquire, Input, LeaseLapsed
from protocol.ids import DeviceId
from protocol.objects import Listener
from tests.kernel.namespaces import LONG, UID, VIPS, Device, desired, hosts, virtual_server
from tests.unit.listening import until

pytestmark = pytest.mark.kernel

ME = DeviceId("a" * 16)
WANTED = desired(virtual_server([], [Listener(protocol="tcp", port=80, gateway_port=80)]))


def test_leases_are_looked_at_also_after_somebody_removed_the_gate(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr("agent.carrier.LOOK_S", 0.02)
    caplog.set_level(logging.WARNING)
    told: list[Input] = []

    async def test(device: Device) -> None:
        anybody: Any = None
        settings = Settings("a", ("10.77.0.11:7480",), "eth0", checks_dir=tmp_path)
        news: Any = type("News", (), {"on_event": print, "on_verified": print})
        memory = Memory(NOTHING_SEEN, print, time.time, time.monotonic)
        carrier = Carrier(ME, settings, Random(1), told.append, anybody, news, memory)
        announcer, lease = Announcer("eth0"), KernelLease("eth0")
        presence = Presence("eth0", announcer, Random(1), lambda _: (), news, lambda _: None)
        carrier.vips = Vips(lease, announcer, told.append, lambda _: (), presence)
        carrier.vips.acquire([Acquire(UID, 1, VIPS, LONG, 1 << 62)])
        looking = asyncio.create_task(carrier._look_forever())
        device.run("nft", "delete", "table", "netdev", "halb_lease")
        await until(lambda: "cannot look at the leases" in caplog.text)
        device.plane.prepare()
        await until(lambda: LeaseLapsed((UID,)) in told)
        looking.cancel()
        await asyncio.wait([looking])
        carrier.vips.close()

    with hosts("a") as network:
        device = Device(network, "a")
        device.reconcile(WANTED)
        device.call(asyncio.run, asyncio.wait_for(test(device), 30))
        device.close()
