"""What a secondary does with sticky clients that it is told of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from msgspec.structs import replace

from agent.clients import StickyClients
from agent.distribution import seat_number
from agent.gated import MAX_CLIENTS, numbers
from agent.kernel import Kernel
from protocol.clients import MAX_CLIENTS_TOLD, Client, ClientsEntered, ClientsKept, pack
from protocol.config import Config
from protocol.ids import DeviceId, GroupId
from protocol.messages import Message
from protocol.objects import Former, Gateway, Listener, VirtualServer
from tests.unit.listening import run, until

ME, PRIMARY, OTHER = DeviceId("a" * 16), DeviceId("b" * 16), DeviceId("c" * 16)
LISTENER = Listener(protocol="tcp", port=443, gateway_port=443, sticky=300)
SERVER = VirtualServer(
    uid=GroupId("0000000000000001"),
    name="rdp",
    vips=("10.0.0.9/24",),
    seed=1,
    gateways=(Gateway(name="gw1", address="10.0.0.31"),),
    listeners=(LISTENER,),
)
NUMBER = numbers(SERVER)["10.0.0.31"]


class Slow:
    """A kernel that enters what it is given when it is let."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.entered: list[set[str]] = []

    async def do(self, job: Callable[..., Any]) -> None:
        told = cast(Any, job).keywords["told"]
        self.entered.append({client.address for client in told})
        await self.go_on.wait()


def told(first: int, count: int, number: int = NUMBER) -> ClientsKept:
    """Clients with consecutive addresses."""
    some = [
        Client(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", number, 60_000)
        for n in range(first, first + count)
    ]
    return ClientsKept(SERVER.uid, "tcp/443", 4, pack(4, some))


async def secondary(kernel: Slow) -> StickyClients:
    clients = StickyClients(ME, cast(Kernel, kernel))
    clients.on_config(Config(), [SERVER])
    clients.start(lambda device, message: None, lambda group: PRIMARY)
    return clients


def test_what_comes_while_the_kernel_is_busy_is_entered_together() -> None:
    async def test() -> None:
        kernel = Slow()
        clients = await secondary(kernel)
        clients.on_message(PRIMARY, told(0, 10))
        await until(lambda: kernel.entered)
        for part in range(1, 20):
            clients.on_message(PRIMARY, told(10 * part, 10))
        kernel.go_on.set()
        await until(lambda: len(kernel.entered) == 2)
        assert [len(each) for each in kernel.entered] == [10, 190]
        await clients.close()

    run(test())


def test_who_asks_is_answered_once_it_is_in_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, although this device rests after a long entering."""
    monkeypatch.setattr("agent.clients.ENTER_SHARE", 1e-6)
    said: list[tuple[DeviceId, Message]] = []

    async def test() -> None:
        kernel = Slow()
        clients = await secondary(kernel)
        clients._send = lambda *each: said.append(each)
        kernel.go_on.set()
        clients.on_message(PRIMARY, told(0, 10))
        await until(lambda: clients._resting is not None)
        kernel.go_on.clear()
        clients.on_message(PRIMARY, told(10, 10))
        clients.on_message(PRIMARY, replace(told(20, 10), ask=7))
        clients.on_message(OTHER, replace(told(20, 10), ask=8))
        await until(lambda: len(kernel.entered) == 2)
        assert len(kernel.entered[1]) == 20
        assert not said
        kernel.go_on.set()
        await until(lambda: said)
        assert said == [(PRIMARY, ClientsEntered(7))]
        await clients.close()

    run(test())


def test_nobody_else_is_believed_nor_what_the_primary_cannot_know() -> None:
    async def test() -> None:
        kernel = Slow()
        clients = await secondary(kernel)
        clients.on_message(OTHER, told(0, 10))
        clients.on_message(PRIMARY, told(0, 10, number=NUMBER + 1))
        clients.on_message(PRIMARY, ClientsKept(SERVER.uid, "tcp/443", 4, b"torn"))
        clients.on_message(PRIMARY, told(7, 1))
        await until(lambda: kernel.entered)
        assert kernel.entered == [{"10.0.0.7"}]
        await clients.close()

    run(test())


def test_a_flood_of_clients_fills_no_memory() -> None:
    async def test() -> None:
        kernel = Slow()
        clients = await secondary(kernel)
        clients.on_message(PRIMARY, told(0, 1))
        await until(lambda: kernel.entered)
        for part in range(MAX_CLIENTS // MAX_CLIENTS_TOLD + 2):
            clients.on_message(PRIMARY, told(MAX_CLIENTS_TOLD * part, MAX_CLIENTS_TOLD))
        kernel.go_on.set()
        await until(lambda: len(kernel.entered) == 2)
        assert len(kernel.entered[1]) == MAX_CLIENTS
        await clients.close()

    run(test())


def test_connections_are_believed_of_a_listener_of_dsr_while_its_slots_move() -> None:
    async def test() -> None:
        kernel = Slow()
        clients = StickyClients(ME, cast(Kernel, kernel))
        at_rest = replace(SERVER, forwarding="dsr", listeners=(replace(LISTENER, sticky=0),))
        (gateway,) = SERVER.gateways
        amid = replace(at_rest, gateways=(replace(gateway, former=Former(0, 9)),))
        clients.start(lambda device, message: None, lambda group: PRIMARY)
        clients.on_config(Config(), [at_rest])
        clients.on_message(PRIMARY, told(0, 1, number=seat_number(0)))
        clients.on_config(Config(), [amid])
        clients.on_message(PRIMARY, told(1, 1, number=NUMBER))
        clients.on_message(PRIMARY, told(2, 1, number=seat_number(0)))
        await until(lambda: kernel.entered)
        assert kernel.entered == [{"10.0.0.2"}]
        await clients.close()

    run(test())
