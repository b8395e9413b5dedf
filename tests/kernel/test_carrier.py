"""A device's part in carrying Virtual Servers: it looks at its leases as long as it lives."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from agent.announce import Announcer
from agent.carrier import Carrier
from agent.lastseen import NOTHING_SEEN, Memory
from agent.lease import KernelLease
from agent.presence import Presence
from agent.settings import Settings
from agent.vips import Vips
from protocol.admission import found_site
from protocol.changes import PutVirtualServer
from protocol.config import Edit
from protocol.document import VirtualServerDocument
from protocol.effects import Acquire, Fitness, Input, LeaseLapsed
from protocol.errors import InvalidInput
from protocol.ids import DeviceId
from protocol.objects import Listener
from tests.kernel.namespaces import LONG, UID, VIPS, Device, desired, hosts, virtual_server
from tests.unit import paris
from tests.unit.listening import until

pytestmark = pytest.mark.kernel

ME = DeviceId("a" * 16)
UNTOLD = SimpleNamespace(texts=lambda kind: ())
NEWS: Any = SimpleNamespace(on_event=print, on_verified=print, history=UNTOLD)
WANTED = desired(virtual_server([], [Listener(protocol="tcp", port=80, gateway_port=80)]))


def carrier_of(told: list[Input], folder: Path) -> Carrier:
    anybody: Any = None
    settings = Settings("a", ("10.77.0.11:7480",), "eth0", checks_dir=folder)
    memory = Memory(NOTHING_SEEN, print, time.time, time.monotonic)
    return Carrier(ME, settings, Random(1), told.append, anybody, NEWS, memory)


@contextmanager
def looking(told: list[Input], folder: Path) -> Iterator[Carrier]:
    """A carrier that opened its leases, and looks at them and at the interface."""
    carrier = carrier_of(told, folder)
    announcer, lease = Announcer("eth0"), KernelLease("eth0")
    presence = Presence("eth0", announcer, Random(1), lambda _: (), NEWS, lambda _: None)
    carrier.vips = Vips(lease, announcer, told.append, lambda _: (), presence)
    carrier.vips.acquire([Acquire(UID, 1, VIPS, LONG, 1 << 62)])
    task = asyncio.create_task(carrier._look_forever())
    try:
        yield carrier
    finally:
        task.cancel()
        carrier.vips.close()


def test_leases_are_looked_at_also_after_somebody_removed_the_gate(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr("agent.carrier.LOOK_S", 0.02)
    caplog.set_level(logging.WARNING)
    told: list[Input] = []

    async def test(device: Device) -> None:
        with looking(told, tmp_path):
            device.run("nft", "delete", "table", "netdev", "halb_lease")
            await until(lambda: "cannot look at the leases" in caplog.text)
            device.plane.prepare()
            await until(lambda: LeaseLapsed((UID,)) in told)

    with hosts("a") as network:
        device = Device(network, "a")
        device.reconcile(WANTED)
        device.call(asyncio.run, asyncio.wait_for(test(device), 30))
        device.close()


@pytest.mark.parametrize("address", [*VIPS, "10.77.0.11", "fd77::11", "fe80::11"])
def test_an_interface_that_gets_another_hardware_address_is_announced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str
) -> None:
    """The VIPs on it, and the device's own addresses."""
    monkeypatch.setattr("agent.carrier.LOOK_S", 0.02)
    monkeypatch.setattr("agent.announce.AFTER_NS", (0,))
    mac = "02:48:41:4c:42:99"

    async def test(device: Device) -> None:
        network = device.network
        with looking([], tmp_path) as carrier:
            known = f"{address} lladdr 02:48:41:4c:42:0b dev eth0 nud stale"
            network.run("client", "ip", "neigh", "replace", *known.split())
            await until(lambda: carrier.outlook.link)
            device.run("ip", "link", "set", "eth0", "address", mac)
            await until(lambda: mac in network.run("client", "ip", "neigh", "show", address))

    with hosts("a", "client") as network:
        device = Device(network, "a")
        device.reconcile(WANTED)
        device.call(asyncio.run, asyncio.wait_for(test(device), 10))
        device.close()


def test_a_change_is_checked_against_the_addresses_that_the_host_has_now(tmp_path: Path) -> None:
    wanted = PutVirtualServer(VirtualServerDocument(name="web", vips=("10.78.0.100/24",)))

    async def test(device: Device) -> None:
        async def nobody(vips: Sequence[str], seconds: float) -> dict[str, str]:
            return {}

        carrier = carrier_of([], tmp_path)
        vips: Any = type("Nobody", (), {"probe": staticmethod(nobody)})
        carrier.vips = vips
        carrier._config = found_site("paris", "5" * 16, paris.device("a", 1, id=ME))
        carrier._look_at_interface()
        with pytest.raises(InvalidInput, match="outside the networks"):
            await carrier.precheck(wanted)
        device.run("ip", "address", "add", "10.78.0.11/24", "dev", "eth0")
        await carrier.precheck(wanted)

    with hosts("a") as network:
        device = Device(network, "a")
        device.call(asyncio.run, asyncio.wait_for(test(device), 30))
        device.close()


def test_a_device_that_joins_its_site_again_carries_nothing_before_its_rules_are_back(
    tmp_path: Path,
) -> None:
    founded = found_site("paris", "5" * 16, paris.device("a", 1, id=ME))
    config = founded.edited(Edit(put=WANTED.virtual_servers), 1)
    fit = Fitness(())
    unfit = Fitness(((UID, "its rules are not in the kernel yet"),))

    async def test() -> None:
        told: list[Input] = []
        carrier = carrier_of(told, tmp_path)
        flows: Any = SimpleNamespace(
            carried=lambda: tuple(carrier._config.virtual_servers.values()),
            on_config=bool, hasten=bool,
        )  # fmt: skip
        carrier.flows = flows
        await carrier.kernel.start()
        carrier._look_at_interface()
        for _ in range(2):
            told.clear()
            carrier.on_config(config)
            assert told == [unfit]
            await until(lambda: fit in told)
            await carrier.withdraw()
        await carrier.kernel.remove()

    with hosts("a") as network:
        device = Device(network, "a")
        device.call(asyncio.run, asyncio.wait_for(test(), 30))
        device.close()
