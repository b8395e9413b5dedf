"""What a primary tells of sticky clients, and of connections before a planned move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from agent import clients as under_test
from agent.clients import MAX_PARTS, MOVE_PARTS, MOVE_S, RETELL_S, StickyClients
from agent.distribution import seat_number
from agent.gated import MAX_CLIENTS
from agent.kernel import Kernel
from protocol.clients import MAX_CLIENTS_TOLD, Client, ClientsKept
from protocol.config import Config, Edit
from protocol.flows import Flush
from protocol.flush import FLUSH_NS
from protocol.ids import DeviceId
from protocol.messages import Message
from protocol.objects import Device, Former, VirtualServer
from protocol.timing import SECOND
from tests.unit.listening import run, until
from tests.unit.test_clients import LISTENER, ME, NUMBER, OTHER, SERVER

PACE_S = 12.0
"""Between two looks at a map that is full: reading it takes most of that."""


def site(server: VirtualServer) -> Config:
    devices = (
        Device(id=each, name=each, public_key="", addresses=(), joined=1) for each in (ME, OTHER)
    )
    return Config().edited(Edit((server, *devices)), 1)


class Primary:
    """A device that has a Virtual Server, whose kernel remembers what it is given here."""

    def __init__(self, server: VirtualServer) -> None:
        self.now = 100.0
        self.known: dict[str, dict[str, Client]] = {}
        """Clients by address, by name of the map."""
        self.told: list[ClientsKept] = []
        self.clients = StickyClients(ME, cast(Kernel, self))
        self.clients._send, self.clients._holder = self._send, lambda _: ME
        self.clients._loop = cast(Any, SimpleNamespace(
            time=lambda: self.now, create_task=asyncio.get_running_loop().create_task
        ))  # fmt: skip
        self.clients.on_config(site(server), [server])

    @property
    def maps(self) -> list[str]:
        return [each.name for each in self.clients._listeners]

    def _send(self, to: DeviceId, message: Message) -> None:
        assert to == OTHER
        assert isinstance(message, ClientsKept)
        self.told.append(message)

    async def do(self, job: Callable[..., Any]) -> dict[str, Client]:
        await asyncio.sleep(0)
        return dict(self.known.get(cast(Any, job).keywords["name"], {}))

    async def look(self) -> list[str]:
        """Addresses of whom others are told now."""
        self.told.clear()
        await self.clients._tell()
        assert len(self.told) <= MAX_PARTS
        return [client.address for message in self.told for client in message.clients]


def crowd(count: int, first: int = 0, number: int = NUMBER) -> dict[str, Client]:
    found = (f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(first, first + count))
    return {address: Client(address, number, 3_600_000) for address in found}


def test_of_as_many_clients_as_a_map_holds_each_is_told() -> None:
    """Also where it takes longer to tell of all than until they are told again."""

    async def test() -> None:
        primary = Primary(SERVER)
        primary.known = {name: crowd(MAX_CLIENTS) for name in primary.maps}
        told: set[str] = set()
        looks = -(-MAX_CLIENTS // (MAX_PARTS * MAX_CLIENTS_TOLD))
        assert looks * PACE_S > RETELL_S
        for _ in range(looks):
            told.update(await primary.look())
            primary.now += PACE_S
        assert len(told) == MAX_CLIENTS

    run(test())


def test_a_client_that_is_new_is_told_before_those_that_are_told_again() -> None:
    async def test() -> None:
        primary = Primary(SERVER)
        (name,) = primary.maps
        old = crowd(MAX_CLIENTS - 1)
        primary.known = {name: old}
        for _ in range(5):
            await primary.look()
            primary.now += PACE_S
        primary.known = {name: old | crowd(1, first=MAX_CLIENTS)}
        assert next(iter(await primary.look())) == "10.1.0.0"

    run(test())


def test_every_listener_has_its_turn_however_many_have_new_clients() -> None:
    async def test() -> None:
        ports = range(1, 3 * MAX_PARTS + 1)
        some = tuple(replace(LISTENER, port=port, gateway_port=port) for port in ports)
        primary = Primary(replace(SERVER, listeners=some))
        heard_of: set[str] = set()
        for look in range(3):
            primary.known = {name: crowd(look + 1) for name in primary.maps}
            await primary.look()
            heard_of |= {message.listener for message in primary.told}
            primary.now += 2
        assert len(heard_of) == len(ports)

    run(test())


AMID = replace(
    SERVER,
    forwarding="dsr",
    listeners=tuple(replace(LISTENER, port=p, gateway_port=p, sticky=0) for p in (80, 443)),
    gateways=tuple(replace(each, former=Former(0, 9)) for each in SERVER.gateways),
)


def test_a_planned_move_does_not_wait_longer_than_the_core_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert MOVE_S * SECOND < FLUSH_NS
    monkeypatch.setattr(under_test, "MOVE_S", 0.5)

    async def test() -> None:
        primary = Primary(AMID)
        primary.known = {name: crowd(MAX_CLIENTS, number=seat_number(0)) for name in primary.maps}
        moved: list[Flush] = []
        primary.clients.flush(flush := Flush(AMID.uid, OTHER), moved.append)
        async with asyncio.timeout(5):
            await until(lambda: moved)
        assert moved == [flush]
        assert 0 < len(primary.told) <= MOVE_PARTS

    run(test())


def test_all_are_told_before_a_planned_move_and_who_came_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(under_test, "ENTERED_S", 0.05)

    async def test() -> None:
        primary = Primary(AMID)
        primary.known = {name: crowd(1500, number=seat_number(0)) for name in primary.maps}
        moved: list[Flush] = []
        primary.clients.flush(Flush(AMID.uid, OTHER), moved.append)
        await until(lambda: len(primary.told) == 4)
        late = crowd(1, first=1 << 16, number=seat_number(0))
        primary.known = {name: known | late for name, known in primary.known.items()}
        assert not moved
        await until(lambda: moved)
        counts = [len(list(message.clients)) for message in primary.told]
        assert counts == [1000, 500, 1000, 500, 1, 1]

    run(test())
