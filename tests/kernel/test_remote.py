"""The door for operators over real sockets: who has a known key gets in, and nobody else."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import count

import msgspec
import pytest

from agent import remote, sockets
from agent.keys import KeyPair
from agent.remote import RemoteServer
from agent.sockets import Socket
from protocol import api
from protocol.changes import PutOperator, PutToken
from protocol.control import OPERATORS
from protocol.errors import HalbError, InvalidInput, Refused
from protocol.objects import Operator
from protocol.wire import decode_reply, encode_request
from tests.kernel.namespaces import Inside, one_host

pytestmark = pytest.mark.kernel

IP = "10.77.0.11"
WAIT_S = 20.0
VERSION = api.VersionInfo("0.1.0", 1, 1, "a", "0" * 16, "paris")
STATUS = api.Status("paris", "1.1", "a", None, (), (), ())
_ports = count(7480, 10)


@pytest.fixture(scope="module")
def host() -> Iterator[Inside]:
    with one_host() as inside:
        yield inside


class Door:
    """A device's door, which answers what operators ask."""

    def __init__(self) -> None:
        self.keys = sockets.new_key_pair()
        self.address = f"{IP}:{next(_ports)}"
        self.asked: list[api.Op] = []
        self.go_on = asyncio.Event()
        self.server = RemoteServer((self.address,), self.keys, self.carry_out, self.watch)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2]) + OPERATORS

    async def carry_out(self, request: api.Request) -> api.Result:
        self.asked.append(request.op)
        if isinstance(request.op, api.Export):
            await self.go_on.wait()
        return VERSION

    async def watch(self, interval: float) -> AsyncIterator[api.Status]:
        while True:
            yield STATUS
            await asyncio.sleep(interval)


class Client:
    """An operator's DEALER, found again under its own identity."""

    def __init__(self, socket: Socket, context: sockets.Context, got: asyncio.Queue[bytes]) -> None:
        self.socket, self.context, self.got = socket, context, got

    @classmethod
    async def to(cls, door: Door, keys: KeyPair) -> Client:
        context, got = sockets.new_context(), asyncio.Queue[bytes]()
        options = sockets.BOUNDED | sockets.DIALLING | sockets.calling(keys, door.keys.public)
        options |= {sockets.ROUTING_ID: os.urandom(8), sockets.HANDSHAKE_IVL: 10_000}
        opened = await Socket.open(
            context, sockets.DEALER, options, lambda frames: got.put_nowait(frames[0])
        )
        opened.connect(sockets.tcp(IP, door.port))
        return cls(opened, context, got)

    def send(self, op: api.Op, request: str = "1") -> None:
        self.socket.send((encode_request(api.Request(api.API_VERSION, request, op)),))

    async def reply(self) -> api.Reply:
        return decode_reply(await asyncio.wait_for(self.got.get(), WAIT_S))

    async def version(self, request: str) -> None:
        self.send(api.GetVersion(), request)
        reply = await self.reply()
        assert (reply.id, reply.result) == (request, VERSION)

    async def failure(self) -> api.Failure:
        """The next failure; what was on its way before is read first."""
        while (reply := await self.reply()).failure is None:
            assert reply.more
        return reply.failure

    async def close(self) -> None:
        await self.socket.close()
        self.context.destroy()


def operator(name: str, keys: KeyPair) -> Operator:
    return Operator(name=name, public_key=keys.public, created_at=1)


@asynccontextmanager
async def visiting(door: Door, *keys: KeyPair) -> AsyncIterator[list[Client]]:
    clients = [await Client.to(door, each) for each in keys]
    try:
        yield clients
    finally:
        for client in clients:
            await client.close()


def run(host: Inside, scenario: Callable[[Door], Awaitable[None]]) -> None:
    async def main() -> None:
        door = Door()
        await door.server.start()
        try:
            await scenario(door)
        finally:
            door.go_on.set()
            await door.server.close()

    host.call(lambda: asyncio.run(main()))


def test_an_operator_is_answered(host: Inside) -> None:
    alice = sockets.new_key_pair()

    async def scenario(door: Door) -> None:
        door.server.let_in([operator("alice", alice)])
        async with visiting(door, alice) as (client,):
            await client.version("x")

    run(host, scenario)


def test_an_unknown_key_gets_nothing_and_may_become_known(host: Inside) -> None:
    alice, mallory = sockets.new_key_pair(), sockets.new_key_pair()

    async def scenario(door: Door) -> None:
        door.server.let_in([operator("alice", alice)])
        async with visiting(door, mallory) as (client,):
            client.send(api.GetVersion())
            await until(lambda: door.server.counters()["refused"] > 0)
            assert not door.asked
            assert client.got.empty()
        door.server.let_in([operator("alice", alice), operator("mallory", mallory)])
        async with visiting(door, mallory) as (client,):
            await client.version("x")

    run(host, scenario)


def test_the_devices_own_key_is_no_operators(host: Inside) -> None:
    async def scenario(door: Door) -> None:
        async with visiting(door, door.keys) as (client,):
            client.send(api.GetVersion())
            await until(lambda: door.server.counters()["refused"] > 0)
            assert not door.asked

    run(host, scenario)


def test_garbage_is_survived_before_and_after_the_handshake(host: Inside) -> None:
    alice = sockets.new_key_pair()

    async def scenario(door: Door) -> None:
        door.server.let_in([operator("alice", alice)])
        for size in (1, 64, 4096, 200_000):
            with socket.create_connection((IP, door.port), WAIT_S) as raw, suppress(OSError):
                raw.sendall(os.urandom(size))
        async with visiting(door, alice) as (client,):
            for frame in (b"", b"\xc1", os.urandom(500)):
                client.socket.send((frame,))
            client.socket.send((b"two", b"parts"))
            await client.version("x")
            assert len(door.asked) == 1

    run(host, scenario)


@pytest.mark.parametrize("op", [api.Init("paris"), api.Join("halb1-x"), api.Leave()])
def test_whom_the_device_obeys_is_decided_on_its_host(host: Inside, op: api.Op) -> None:
    alice = sockets.new_key_pair()

    async def scenario(door: Door) -> None:
        door.server.let_in([operator("alice", alice)])
        async with visiting(door, alice) as (client,):
            client.send(op)
            failure = await client.failure()
            assert "over the network" in failure.message
            assert "on its host" in failure.remedy
            assert not door.asked

    run(host, scenario)


def test_a_way_in_bears_the_name_of_who_made_it_whatever_the_request_says(host: Inside) -> None:
    alice = sockets.new_key_pair()
    token, bob = PutToken("7" * 16, "d" * 64, 1, 1), PutOperator("bob", "b" * 40)
    forged: list[api.Op] = [
        api.CreateToken(60, 1, "bob", "b" * 40),
        api.PutChange(msgspec.structs.replace(token, by="bob", by_key="b" * 40)),
        api.PutChange(bob),
    ]

    async def scenario(door: Door) -> None:
        door.server.let_in([operator("alice", alice)])
        async with visiting(door, alice) as (client,):
            for number, op in enumerate(forged):
                client.send(op, str(number))
                await client.reply()
        assert door.asked == [
            api.CreateToken(60, 1, "alice", alice.public),
            api.PutChange(msgspec.structs.replace(token, by="alice", by_key=alice.public)),
            api.PutChange(msgspec.structs.replace(bob, by="alice", by_key=alice.public)),
        ]

    run(host, scenario)


def test_a_key_that_has_another_name_now_is_known_by_that(host: Inside) -> None:
    alice = sockets.new_key_pair()

    async def scenario(door: Door) -> None:
        door.server.let_in([operator("alice", alice)])
        door.server.let_in([operator("alicia", alice)])
        async with visiting(door, alice) as (client,):
            client.send(api.CreateToken(60, 1), "1")
            await client.reply()
        assert door.asked == [api.CreateToken(60, 1, "alicia", alice.public)]

    run(host, scenario)


def test_removal_ends_what_is_watched_and_lets_no_request_in(host: Inside) -> None:
    alice, bob = sockets.new_key_pair(), sockets.new_key_pair()

    async def scenario(door: Door) -> None:
        both = [operator("alice", alice), operator("bob", bob)]
        door.server.let_in(both)
        async with visiting(door, alice, bob) as (alices, bobs):
            for client in (alices, bobs):
                client.send(api.Watch(0.05), "w")
                assert (await client.reply()).more
            door.server.let_in(both[1:])
            alices.send(api.GetVersion(), "late")
            assert "'alice' was removed" in (await alices.failure()).message
            # All connections are ended; bob's comes back, and so does what he watches.
            await until(lambda: door.server.counters()["refused"] > 0)
            while not bobs.got.empty():
                bobs.got.get_nowait()
            assert (await bobs.reply()).result == STATUS
            bobs.send(api.GetVersion(), "v")
            while (await bobs.reply()).id != "v":
                pass
            assert door.asked == [api.GetVersion()]

    run(host, scenario)


def test_what_an_operator_asked_before_its_removal_is_answered(host: Inside) -> None:
    alice = sockets.new_key_pair()

    async def scenario(door: Door) -> None:
        door.server.let_in([operator("alice", alice)])
        async with visiting(door, alice) as (client,):
            client.send(api.Export())
            await until(lambda: bool(door.asked))
            door.server.let_in([])
            door.go_on.set()
            assert (await client.reply()).result == VERSION

    run(host, scenario)


def test_one_operator_cannot_keep_out_another(
    host: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "RATE", 0.001)
    monkeypatch.setattr(remote, "BURST", 50.0)
    alice, bob = sockets.new_key_pair(), sockets.new_key_pair()

    async def scenario(door: Door) -> None:
        door.server.let_in([operator("alice", alice), operator("bob", bob)])
        async with visiting(door, alice, bob) as (alices, bobs):
            for n in range(remote.AT_WORK + 1):
                alices.send(api.Export(), str(n))
            assert "under way" in (await alices.failure()).message
            await bobs.version("x")
            for n in range(100):
                alices.send(api.KeepWatching(), str(n))
                await asyncio.sleep(0)
            await until(lambda: door.server.counters().get("throttled", 0) > 0)
            await bobs.version("y")

    run(host, scenario)


def test_a_port_that_is_taken_is_named(host: Inside) -> None:
    async def main() -> None:
        door = Door()
        with socket.create_server((IP, door.port)), pytest.raises(HalbError) as caught:
            await door.server.start()
        assert isinstance(caught.value, InvalidInput)
        assert str(door.port) in caught.value.message
        assert not isinstance(caught.value, Refused)

    host.call(lambda: asyncio.run(main()))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  # what is waited for sends no event
            await asyncio.sleep(0.01)
