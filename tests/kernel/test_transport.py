"""Messages between devices over real sockets: who is heard, who is refused, and cuts."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from agent import sockets
from agent.sockets import Publisher, Subscriber
from agent.transport import Transport
from protocol.errors import InvalidInput
from protocol.ids import DeviceId
from protocol.messages import Ack, Beat, Message
from protocol.wire import pack_header, site_bytes
from tests.kernel.namespaces import Inside, one_host
from tests.kernel.transports import (
    IP,
    NEWS,
    OTHER_SITE,
    SITE,
    Device,
    T,
    heard,
    run,
    started,
    stays_false,
    until,
)

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def host() -> Iterator[Inside]:
    with one_host() as inside:
        yield inside


def test_messages_of_both_channels_arrive_once_and_name_their_sender(host: Inside) -> None:
    async def scenario() -> None:
        a, b = Device("a"), Device("b")
        async with started(a, b):
            await until(
                lambda: (a.id, NEWS) in b.got, meanwhile=lambda: a.transport.send(b.id, NEWS)
            )
            await until(lambda: b.count("duplicates") > 0, meanwhile=lambda: a.beat(b))
            b.got.clear()
            sent = [Ack(n, 1) for n in range(200)]
            for message in sent:
                a.transport.send(b.id, message)
            await until(lambda: len(b.got) >= 200)
            await until(lambda: b.count("duplicates") >= 200)
            assert b.got == [(a.id, message) for message in sent]

    run(host, scenario)


def test_a_device_that_is_no_peer_is_refused_until_it_is_one(host: Inside) -> None:
    async def scenario() -> None:
        a, b = Device("a"), Device("b")
        await a.start()
        await b.start(a)
        await until(lambda: a.count("refused") > 0)
        await stays_false(lambda: bool(b.got), lambda: a.beat(b))
        a.transport.set_peers([b.as_peer()])
        await heard(a, b)
        await a.transport.close()
        await b.transport.close()

    run(host, scenario)


def test_a_peer_for_which_no_socket_was_left_is_heard_once_there_is_one(
    host: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        a, b, c = Device("a"), Device("b"), Device("c")
        monkeypatch.setattr(sockets, "MAX_SOCKETS", 6)  # its own three, and a peer's
        await a.start()
        monkeypatch.undo()
        await b.start(a)
        await c.start(a)
        a.transport.set_peers([b.as_peer(), c.as_peer()])
        await heard(b, a, 20.0)
        await stays_false(lambda: any(by == c.id for by, _ in a.got), lambda: c.beat(a))
        a.transport.set_peers([c.as_peer()])
        await heard(c, a, 20.0)
        await asyncio.gather(*(each.transport.close() for each in (a, b, c)))

    run(host, scenario)


def test_who_is_dialled_learns_by_whom_and_hears_them_once_it_dials_back(host: Inside) -> None:
    async def scenario() -> None:
        a, b, stranger = Device("a"), Device("b"), Device("c")
        await b.start()
        b.transport.set_peers([a.as_peer()], [])
        await stranger.start(b)
        await a.start(b)
        await until(lambda: a.id in b.dialled)
        await until(lambda: b.count("refused") > 0)
        assert stranger.id not in b.dialled
        # What b sends comes through; it does not hear a before it connects to it, too.
        await heard(b, a)
        await stays_false(lambda: bool(b.got), lambda: a.beat(b))
        b.transport.set_peers([a.as_peer()])
        await heard(a, b)
        b.dialled.clear()
        await a.restart(b)
        await heard(a, b)
        assert not b.dialled, "a peer that comes back is no news"
        for device in (a, b, stranger):
            await device.transport.close()

    run(host, scenario)


def test_a_stranger_with_another_key_hears_and_says_nothing(host: Inside) -> None:
    async def scenario() -> None:
        a, b = Device("a"), Device("b")
        stranger = Device("b")
        async with started(a, b):
            stranger.port = b.port + 5
            b.got.clear()
            await stranger.start(a)
            await stays_false(lambda: bool(stranger.got), lambda: a.beat(b))
            assert a.count("refused") > 0
            await stranger.transport.close()

    run(host, scenario)


def test_who_answers_at_a_peers_address_with_another_key_is_not_believed(host: Inside) -> None:
    async def scenario() -> None:
        a, b = Device("a"), Device("b")
        await a.start(b)
        impostor = Device("b")
        impostor.port = b.port
        await impostor.start(a)
        await stays_false(lambda: bool(a.got), lambda: impostor.beat(a))
        await impostor.transport.close()
        await a.transport.close()

    run(host, scenario)


def test_a_client_without_encryption_is_refused(host: Inside) -> None:
    async def scenario() -> None:
        a, b = Device("a"), Device("b")
        async with started(a, b):
            context, got = sockets.new_context(), list[bytes]()
            plain = Subscriber(context, {}, b"", got.append)
            plain.connect(sockets.tcp(IP, a.port))
            await stays_false(lambda: bool(got), lambda: a.beat(b))
            plain.close()
            context.destroy()

    run(host, scenario)


def test_another_site_is_not_heard(host: Inside) -> None:
    async def scenario() -> None:
        a, b = Device("a"), Device("b")
        async with started(a, b):
            a.transport.enter_site(OTHER_SITE)
            b.got.clear()
            await until(lambda: b.count("foreign") > 3, meanwhile=lambda: a.beat(b))
            assert not b.got
            b.transport.enter_site(OTHER_SITE)
            await heard(a, b)

    run(host, scenario)


def test_a_restarted_device_is_heard_and_its_former_life_is_not(host: Inside) -> None:
    async def scenario() -> None:
        a, b = Device("a", incarnation=7), Device("b")
        async with started(a, b):
            await a.restart(b)
            await heard(a, b)
            a.incarnation -= 2
            await a.restart(b)
            b.got.clear()
            await until(lambda: b.count("stale") > 3, meanwhile=lambda: a.beat(b))
            assert not b.got

    run(host, scenario)


def test_garbage_on_every_port_harms_nobody(host: Inside) -> None:
    async def scenario() -> None:
        a, b = Device("a"), Device("b")
        async with started(a, b):
            for port in (a.port, a.port + 1):
                for garbage in (b"", os.urandom(4096), b"GET / HTTP/1.0\r\n\r\n", b"\xff" * 10):
                    _, writer = await asyncio.open_connection(IP, port)
                    writer.write(garbage)
                    await writer.drain()
                    writer.close()
            await heard(a, b)
            await heard(b, a)

    run(host, scenario)


def test_garbage_from_a_peer_is_counted_and_dropped(host: Inside) -> None:
    async def scenario() -> None:
        a, b = Device("a"), Device("b")
        await b.start(a)
        context = sockets.new_context()
        allowed = sockets.AllowList()
        await allowed.start(context)
        allowed.keys = {b.keys.public.encode()}
        evil = Publisher(context, sockets.serving(a.keys))
        evil.bind(sockets.tcp(IP, a.port))
        topic, header = b.id.encode(), pack_header(site_bytes(SITE), 1, 0)
        frames = [
            topic,
            topic + b"HALB",
            topic + os.urandom(100),
            topic + header + b"\xc1",
            *(topic + pack_header(site_bytes(SITE), 1, n) + os.urandom(50) for n in range(1, 20)),
            topic + pack_header(site_bytes(SITE), 1, 50) + b"\x81\xa1t\xa6stored",
        ]

        def misbehave() -> None:
            for frame in frames:
                evil.send(frame)

        await until(lambda: b.count("malformed") >= 20, meanwhile=misbehave)
        assert not b.got
        await b.transport.close()
        evil.close()
        await allowed.stop()
        context.destroy()

    run(host, scenario)


def test_a_peer_that_floods_is_hung_up_and_comes_back(host: Inside) -> None:
    async def scenario() -> None:
        a, b = Device("a"), Device("b")
        async with started(a, b):

            def flood() -> None:
                for _ in range(1000):
                    a.beat(b)

            await until(lambda: b.count("throttled") > 0, 20, flood)
            await heard(a, b)

    run(host, scenario)


def test_a_failing_receiver_does_not_stop_what_follows(host: Inside) -> None:
    async def scenario() -> None:
        a, b = Device("a"), Device("b")
        seen: list[str] = []
        loop = asyncio.get_running_loop()
        async with started(a, b):
            loop.set_exception_handler(lambda _, context: seen.append(context["message"]))
            good = b.transport._deliver

            def fails(sender: DeviceId, message: Message) -> None:
                raise ValueError("a defect")

            b.transport._deliver = fails
            await until(lambda: len(seen) > 3, meanwhile=lambda: a.beat(b))
            b.transport._deliver = good
            await heard(a, b)

    run(host, scenario)


def test_a_stall_of_the_process_itself_is_not_taken_for_silence(host: Inside) -> None:
    async def scenario() -> None:
        a, b = Device("a"), Device("b")
        async with started(a, b):
            await heard(a, b)
            before = b.count("redials")
            for _ in range(3):
                a.beat(b)
            time.sleep(0.6)  # noqa: ASYNC251  # the stall
            b.beat(a)
            assert b.count("redials") == before

    run(host, scenario)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.5])
def test_after_a_cut_fresh_beats_come_soon_and_no_old_ones(host: Inside, seconds: float) -> None:
    async def scenario() -> None:
        a, b = Device("a"), Device("b")
        async with started(a, b):
            clock = asyncio.get_running_loop().time
            for _ in range(10):
                a.beat(b)
                b.beat(a)
                await asyncio.sleep(0.1)
            host_run(CUT)
            ends = clock() + seconds
            while clock() < ends:
                a.beat(b)
                b.beat(a)
                await asyncio.sleep(0.1)
            host_run("delete table inet cut")
            healed = time.monotonic_ns()
            b.got.clear()
            took = await heard(a, b)
            old = [m for _, m in b.got if isinstance(m, Beat) and m.sent < healed - 2 * T]
            print(f"cut {seconds} s: fresh beat after {took * 1000:.0f} ms, {len(old)} old ones")
            assert took < 1.5
            assert len(old) <= 20

    def host_run(command: str) -> None:
        subprocess.run(["nft", command], check=True)

    run(host, scenario)


CUT = (
    "add table inet cut; add chain inet cut c { type filter hook input priority 0; }; "
    "add rule inet cut c meta l4proto tcp drop"
)


def test_an_address_of_another_host_is_named_with_those_that_are(host: Inside) -> None:
    async def scenario() -> None:
        transport = Transport(
            device=DeviceId("a" * 16),
            keys=sockets.new_key_pair(),
            incarnation=1,
            listen=("10.99.0.1:7480",),
            receive=lambda sender, message: None,
        )
        with pytest.raises(InvalidInput, match=r"10\.99\.0\.1 is not on this host") as caught:
            await transport.start()
        assert IP in caught.value.remedy
        assert "--address" in caught.value.remedy

    run(host, scenario)


def test_a_port_in_use_is_named(host: Inside) -> None:
    async def scenario() -> None:
        a, b = Device("a"), Device("b")
        await a.start()
        b.port = a.port - 1
        with pytest.raises(InvalidInput, match=f"port {a.port} on {IP} is in use") as caught:
            await b.start()
        assert "ss -ltnp" in caught.value.remedy
        await a.transport.close()

    run(host, scenario)
