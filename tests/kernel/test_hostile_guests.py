"""Strangers at the joining port who send messages without measure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count

import pytest
import zmq

from agent import guests
from protocol.joining import config_of
from tests.kernel.namespaces import Inside, one_host
from tests.kernel.test_joining import CONFIG, IP, Member, ask, run, token

pytestmark = pytest.mark.kernel

_ports = count(9000)


@pytest.fixture(scope="module")
def host() -> Iterator[Inside]:
    with one_host() as inside:
        yield inside


@contextmanager
def stranger(member: Member, port: int, parts: int, size: int) -> Iterator[None]:
    """Sends one message of many parts."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.sndhwm, dealer.linger, dealer.reconnect_ivl = 0, 0, -1
    dealer.curve_serverkey = member.keys.public.encode()
    dealer.curve_publickey, dealer.curve_secretkey = zmq.curve_keypair()
    dealer.connect(f"tcp://{IP}:{port}")
    for _ in range(parts):
        dealer.send(bytes(size), zmq.SNDMORE)
    dealer.send(b"")
    try:
        yield
    finally:
        dealer.close()
        context.destroy()


async def longest_pause(until_then: Callable[[], bool]) -> float:
    """Seconds that the loop was held up at the most."""
    clock = asyncio.get_running_loop().time
    last, longest = clock(), 0.0
    while not until_then():
        await asyncio.sleep(0)
        now = clock()
        last, longest = now, max(longest, now - last)
    return longest


def test_a_message_of_very_many_parts_does_not_hold_up_the_loop(host: Inside) -> None:
    member = Member()

    async def scenario() -> None:
        with stranger(member, member.port, 200_000, 0):
            async with asyncio.timeout(20):
                pause = await longest_pause(lambda: "malformed" in member.server.counters())
                pause = max(pause, await longest_pause(counted_to(5000)))
            assert pause < 0.15
            assert config_of(await ask(token(member))) == CONFIG
            assert member.server.counters()["malformed"] == 1

    run(host, scenario, member)


def counted_to(number: int) -> Callable[[], bool]:
    rounds = count()
    return lambda: next(rounds) >= number


def test_a_message_that_does_not_end_takes_no_more_memory_than_there_is_room_for(
    host: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "ROOM", 16 * 1024 * 1024)
    member = Member()
    ended = asyncio.Event()

    async def keep_the_end_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, before = await asyncio.open_connection(IP, member.port)
        passed = 0

        async def back() -> None:
            with suppress(ConnectionError):
                while data := await behind.read(4096):
                    writer.write(data)
            ended.set()

        answers = asyncio.get_running_loop().create_task(back())
        with suppress(ConnectionError):
            while data := await reader.read(64 * 1024):
                passed += len(data)
                before.write(data if passed < 60_000_000 else b"")
                await before.drain()
        await answers
        before.close()
        writer.close()

    async def scenario() -> None:
        port = next(_ports)
        async with await asyncio.start_server(keep_the_end_back, IP, port):
            with stranger(member, port, 8_000, 8_000):
                await asyncio.wait_for(ended.wait(), 10)
        assert config_of(await ask(token(member))) == CONFIG

    run(host, scenario, member)
