"""Devices of a test that are nothing but their transports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count

import pytest

from agent import sockets
from agent.keys import KeyPair
from agent.transport import Peer, Transport
from protocol.ids import DeviceId, Revision
from protocol.messages import Beat, Message, Stored
from tests.kernel.namespaces import Inside

IP = "10.77.0.11"
SITE, OTHER_SITE = "ab" * 8, "cd" * 8
NEWS = Stored(3, Revision(1, 2), Revision(1, 1))
T = 100_000_000
_ports = count(7480, 10)


class Device:
    """One device's transport, with what it received."""

    def __init__(self, letter: str, incarnation: int = 1, keys: KeyPair | None = None) -> None:
        self.id = DeviceId(letter * 16)
        self.keys = keys or sockets.new_key_pair()
        self.port = next(_ports)
        self.got: list[tuple[DeviceId, Message]] = []
        self.dialled: list[DeviceId] = []
        """Who connected to this device while it was not connected to them."""
        self.incarnation = incarnation
        self.transport: Transport

    def as_peer(self) -> Peer:
        return Peer(self.id, self.keys.public, (f"{IP}:{self.port}",))

    async def start(self, *peers: Device, site: str = SITE) -> None:
        self.transport = Transport(
            device=self.id,
            keys=self.keys,
            incarnation=self.incarnation,
            listen=(f"{IP}:{self.port}",),
            receive=lambda sender, message: self.got.append((sender, message)),
            dialled=self.dialled.append,
        )
        await self.transport.start()
        self.transport.enter_site(site)
        self.transport.set_peers(peer.as_peer() for peer in peers)

    async def restart(self, *peers: Device) -> None:
        await self.transport.close()
        self.incarnation += 1
        await self.start(*peers)

    def beat(self, to: Device) -> None:
        self.transport.send(to.id, Beat(time.monotonic_ns(), T, 1, None))

    def count(self, name: str) -> int:
        return self.transport.counters().get(name, 0)


@asynccontextmanager
async def started(*devices: Device) -> AsyncIterator[None]:
    """All devices as peers of each other, and connected."""
    try:
        for device in devices:
            await device.start(*devices)
        for one in devices:
            for other in devices:
                if one is not other:
                    await heard(one, other)
        yield
    finally:
        for device in devices:
            await device.transport.close()


async def heard(sender: Device, receiver: Device, within: float = 5.0) -> float:
    """Send beats until one that was sent from now on arrives; seconds that it took."""
    began = time.monotonic_ns()

    def fresh() -> bool:
        return any(
            isinstance(message, Beat) and message.sent >= began and sender.id == by
            for by, message in receiver.got
        )

    await until(fresh, within, lambda: sender.beat(receiver))
    return (time.monotonic_ns() - began) / 1e9


async def until(
    condition: Callable[[], bool], within: float = 5.0, meanwhile: Callable[[], None] = lambda: None
) -> None:
    async with asyncio.timeout(within):
        while not condition():
            meanwhile()
            await asyncio.sleep(0.02)


async def stays_false(condition: Callable[[], bool], meanwhile: Callable[[], None]) -> None:
    """Fail if ``condition`` comes true within 1.2 s, which is several dials."""
    with pytest.raises(TimeoutError):
        await until(condition, 1.2, meanwhile)


def run(host: Inside, scenario: Callable[[], Awaitable[None]]) -> None:
    """Run ``scenario`` in an event loop inside the namespace."""

    async def main() -> None:
        await scenario()

    host.call(lambda: asyncio.run(main()))
