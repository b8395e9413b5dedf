"""Checks by conversation, against real servers: silent, broken, endless, slow, expired."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from agent import certificates as settings
from agent.certificates import expiry_fault, not_after
from agent.conversations import Conversation, start_of
from agent.probes import GOOD, Answer, Verdict
from agent.repertoire import repertoire
from protocol.objects import Check
from tests.unit.certificates import certificate, server_context
from tests.unit.listening import never, refusing_port, run

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nall fine"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nall \r\n4;x=y\r\nfine\r\n0\r\n\r\n"
)


async def ask(port: int, check: Check, address: str = "127.0.0.1") -> Answer:
    """The answer of one check."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Answer] = loop.create_future()
    repertoire()[check.type](loop, address, port, check, answer.set_result)
    return await answer


@asynccontextmanager
async def serving(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of a server that does ``serve`` with each connection; all end with it."""
    tasks: list[asyncio.Task[None]] = []

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(attend(reader, writer))
        # A server that is done closes in peace; one that is cut short is cut.
        task.add_done_callback(
            lambda done: writer.transport.abort() if done.cancelled() else writer.close()
        )
        tasks.append(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)


async def says(data: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Wait for a request, say ``data`` and close."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(data)
    await writer.drain()


async def is_silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def resets(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def talks_garbage(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x15\x03SSH-2.0-garbage\r\n" * 10)


async def is_endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 8192)
        await writer.drain()


async def drips(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A byte at a time, never done."""
    writer.write(b"HTTP/1.1 200 OK\r\nX: ")
    while not writer.is_closing():
        writer.write(b"a")
        await writer.drain()
        await asyncio.sleep(0.01)


def answer_of(serve: Serve, check: Check) -> Answer:
    """What ``check`` says of a server that does ``serve`` with each connection."""
    found: list[Answer] = []

    async def test() -> None:
        async with serving(serve) as port:
            found.append(await ask(port, check))

    run(test())
    return found[0]


def http(data: bytes, **fields: object) -> Answer:
    check = Check(**{"type": "http", "timeout": 5.0, **fields})  # type: ignore[arg-type]
    return answer_of(lambda reader, writer: says(data, reader, writer), check)


def bad(reason: str) -> Answer:
    return Answer(Verdict.BAD, reason)


def silent(reason: str) -> Answer:
    return Answer(Verdict.BAD, reason, silent=True)


class TestHttp:
    def test_a_status_that_is_wanted_is_good(self) -> None:
        assert http(OK) == GOOD
        assert http(b"HTTP/1.0 302 Found\r\n\r\n") == GOOD

    def test_another_status_is_bad_and_named(self) -> None:
        sick = b"HTTP/1.1 503 Service Unavailable\r\n\r\n"
        assert http(sick) == bad("status 503, and 200-399 is wanted")
        assert http(sick, status="200,500-503") == GOOD

    @pytest.mark.parametrize(
        "data",
        [
            OK,
            b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
            CHUNKED,
            b"HTTP/1.0 200 OK\r\n\r\nsurely all fin",
        ],
    )  # fmt: skip
    def test_a_body_is_searched_however_it_is_framed(self, data: bytes) -> None:
        assert http(data, body="all fin") == GOOD
        assert "the body lacks 'sick'" in http(data, body="sick").reason

    def test_path_and_host_are_asked_for(self) -> None:
        asked: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(OK)

        check = Check(type="http", name="rdp.example", path="/health?deep=1", timeout=5)
        assert answer_of(serve, check) == GOOD
        assert asked[0].startswith(b"GET /health?deep=1 HTTP/1.1\r\nHost: rdp.example\r\n")

    def test_an_endless_body_is_read_to_a_limit(self) -> None:
        check = Check(type="http", body="needle", timeout=5)
        answer = answer_of(is_endless, check)
        assert answer == bad("status 200, but the body lacks 'needle' in its first 64 KiB")

    def test_answers_that_only_announce_another_one_have_an_end(self) -> None:
        # The server waits for more to say until the check gives up on it.
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 1000)
            await reader.read()

        answer = answer_of(serve, Check(type="http", timeout=5))
        assert answer == bad("the header is too long")

    def test_a_server_that_drips_has_no_more_time_than_others(self) -> None:
        began = time.monotonic()
        answer = answer_of(drips, Check(type="http", timeout=0.7))
        assert answer == bad("accepts connections, but no answer to the request in 0.7 s")
        assert time.monotonic() - began < 8

    @pytest.mark.parametrize(
        ("serve", "reason"),
        [
            (is_silent, "accepts connections, but no answer to the request in 0.7 s"),
            (talks_garbage, "the answer is not HTTP"),
        ],
    )
    def test_who_does_not_speak_http_is_bad(self, serve: Serve, reason: str) -> None:
        assert answer_of(serve, Check(type="http", timeout=0.7)) == bad(reason)

    def test_who_resets_is_bad(self) -> None:
        assert answer_of(resets, Check(type="http", timeout=5)) == bad("connection reset")

    def test_who_closes_at_once_is_bad(self) -> None:
        answer = http(b"")
        assert answer == bad("closed the connection without an answer")

    def test_a_header_without_end_is_bad(self) -> None:
        answer = http(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000)
        assert answer == bad("the header is too long")


class TestTls:
    def answer(self, folder: Path, days: float, **fields: object) -> Answer:
        context, _ = server_context(folder, "rdp.example", days)
        return self.answer_of(context, **fields)

    def answer_of(self, context: ssl.SSLContext, **fields: object) -> Answer:
        check = Check(**{"type": "tls", "timeout": 5.0, **fields})  # type: ignore[arg-type]
        found: list[Answer] = []

        async def test() -> None:
            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await says(OK, reader, writer)

            async with serving(serve, context) as port:
                found.append(await ask(port, check))

        run(test())
        return found[0]

    def test_a_handshake_is_good_whoever_signed(self, tmp_path: Path) -> None:
        assert self.answer(tmp_path, days=90) == GOOD

    def test_an_expired_certificate_is_bad_with_its_date(self, tmp_path: Path) -> None:
        day = datetime.now(UTC) - timedelta(days=3)
        answer = self.answer(tmp_path, days=-3)
        assert answer.reason.startswith(f"certificate expired on {day:%Y-%m-%d}")

    def test_one_that_expires_soon_is_bad_if_more_days_are_wanted(self, tmp_path: Path) -> None:
        assert self.answer(tmp_path, days=9) == GOOD
        answer = self.answer(tmp_path, days=9, expires_within=14)
        assert re.fullmatch(
            r"certificate expires on .* UTC, in (9\.0|8\.9) days, and 14 are wanted", answer.reason
        )

    def test_an_unknown_authority_is_refused_if_it_is_to_be_verified(self, tmp_path: Path) -> None:
        answer = self.answer(tmp_path, days=90, verify=True, name="rdp.example")
        assert "self" in answer.reason
        assert answer.reason.startswith("certificate refused: ")

    def test_the_name_must_be_right_if_it_is_verified(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        context, authority = server_context(tmp_path, "rdp.example", 90)
        strict = settings.strict()
        strict.load_verify_locations(authority)
        monkeypatch.setattr(settings, "strict", lambda: strict)
        assert self.answer_of(context, verify=True, name="rdp.example") == GOOD
        answer = self.answer_of(context, verify=True, name="other.example")
        assert "mismatch" in answer.reason.lower()

    def test_https_goes_on_to_ask(self, tmp_path: Path) -> None:
        assert self.answer(tmp_path, days=-3, type="https", body="fin") == GOOD
        answer = self.answer(tmp_path, days=90, type="https", status="204")
        assert answer == bad("status 200, and 204 is wanted")
        assert "expires" in self.answer(tmp_path, days=9, type="https", expires_within=30).reason

    @pytest.mark.parametrize(
        ("serve", "reason"),
        [
            (is_silent, "accepts connections, but no TLS handshake in 0.7 s"),
            (resets, "connection reset"),
        ],
    )
    def test_silence_and_resets_are_bad(self, serve: Serve, reason: str) -> None:
        assert answer_of(serve, Check(type="tls", timeout=0.7)) == bad(reason)

    def test_who_does_not_speak_tls_is_bad(self) -> None:
        answer = answer_of(talks_garbage, Check(type="tls", timeout=5))
        assert answer.verdict is Verdict.BAD
        assert "TLS" in answer.reason

    def test_a_port_that_refuses_is_bad(self) -> None:
        async def test() -> None:
            answer = await ask(refusing_port(), Check(type="tls", timeout=5))
            assert answer == bad("connection refused")

        run(test())

    def test_a_cancelled_check_says_nothing(self) -> None:
        async def test() -> None:
            loop = asyncio.get_running_loop()
            async with serving(is_silent) as port:
                check = Check(type="tls", timeout=5)
                cancel = repertoire()["tls"](loop, "127.0.0.1", port, check, never)
                await asyncio.sleep(0.05)
                cancel()
                cancel()
                await asyncio.sleep(0.05)

        run(test())

    def test_a_check_that_is_cancelled_as_it_ends_says_nothing(self) -> None:
        async def test() -> None:
            loop = asyncio.get_running_loop()
            ending, told = asyncio.Event(), list[Answer]()

            async def talk(_: Conversation) -> Answer:
                ending.set()
                return GOOD

            cancel = start_of(talk)(loop, "127.0.0.1", 80, Check(type="http"), told.append)
            await ending.wait()
            cancel()
            await asyncio.sleep(0)
            assert not told

        run(test())


class TestDates:
    @pytest.mark.parametrize("days", [-20_000, -1, 1, 40, 15_000])
    def test_the_end_of_a_certificate_is_read(self, days: float) -> None:
        end = not_after(certificate("x.example", days))
        assert end is not None
        assert abs(end - datetime.now(UTC) - timedelta(days=days)) < timedelta(minutes=1)

    def test_what_is_cut_or_no_certificate_has_no_end(self) -> None:
        der = certificate("x.example", 1)
        assert [not_after(der[:size]) for size in range(120)] == [None] * 120
        assert expiry_fault(b"junk", 0, datetime.now(UTC))


class Answering(asyncio.DatagramProtocol):
    """Answers each datagram with what it is told to."""

    def __init__(self, answer: bytes, heard: list[bytes]) -> None:
        self.answer, self.heard = answer, heard

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.heard.append(data)
        if self.answer:
            self.transport.sendto(self.answer, addr)


class TestUdp:
    def answer(self, answer: bytes, **fields: object) -> tuple[Answer, list[bytes]]:
        check = Check(**{"type": "udp", "timeout": 0.7, **fields})  # type: ignore[arg-type]
        heard: list[bytes] = []
        found: list[Answer] = []

        async def test() -> None:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(
                lambda: Answering(answer, heard), ("127.0.0.1", 0)
            )
            found.append(await ask(transport.get_extra_info("sockname")[1], check))
            transport.close()

        run(test())
        return found[0], heard

    def test_the_payload_is_sent_and_the_reply_compared(self) -> None:
        answer, heard = self.answer(b"\x01pong!", payload="hex:00 ff", reply="pong", timeout=5.0)
        assert (answer, heard) == (GOOD, [b"\x00\xff"])
        answer, _ = self.answer(b"ping", payload="?", reply="pong")
        assert answer == bad("answers, but not as wanted in 0.7 s")

    def test_silence_is_bad_where_a_reply_is_wanted_and_good_where_not(self) -> None:
        assert self.answer(b"", payload="?", reply="!")[0] == silent("no reply in 0.7 s")
        assert self.answer(b"", payload="?")[0] == GOOD

    def test_silence_is_good_however_late_the_loop_notices_it(self) -> None:
        async def test() -> None:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(
                lambda: Answering(b"", []), ("127.0.0.1", 0)
            )
            loop.call_later(0.1, time.sleep, 0.3)
            port = transport.get_extra_info("sockname")[1]
            assert await ask(port, Check(type="udp", payload="?", timeout=0.2)) == GOOD
            transport.close()

        run(test())

    def test_a_closed_port_is_bad(self) -> None:
        async def test() -> None:
            answer = await ask(refusing_port(), Check(type="udp", timeout=5))
            assert answer == bad("connection refused")

        run(test())


def test_a_check_that_fails_itself_says_nothing_of_the_gateway_and_goes_on() -> None:
    """Such as a name that a release before this one took, and that no TLS library takes."""
    answer = answer_of(is_silent, Check(type="https", name="a..b", timeout=5))
    assert answer.verdict is Verdict.UNCLEAR
    assert answer.reason.startswith("check failed: Unicode")
