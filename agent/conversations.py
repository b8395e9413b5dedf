"""Checks that talk with a gateway, as coroutines in place of callbacks.

Each has the check's timeout as a whole, however slowly the gateway speaks, and
reads no more than :data:`MAX_READ` bytes of what it says.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from agent.probes import Answer, Cancel, Done, Start, Verdict, answer_for
from protocol.objects import Check

MAX_READ = 64 * 1024
"""Bytes that are read of a gateway's answer; the rest is not looked at."""

NO_ANSWER, NO_REPLY = "no answer", "no reply"
"""What is missing where nothing was heard at all."""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Unhealthy(Exception):
    """The gateway answered, and not as it should; the message says how."""


class Conversation:
    """One check under way."""

    def __init__(self, address: str, port: int, check: Check) -> None:
        self.address, self.port, self.check = address, port, check
        self.lacks = NO_ANSWER
        """What is missing if the time runs out now."""
        self.late: Callable[[], Answer] = self._lacking
        """The judgement if the time runs out now."""

    def _lacking(self) -> Answer:
        reason = f"{self.lacks} in {self.check.timeout:g} s"
        return Answer(Verdict.BAD, reason, silent=self.lacks in (NO_ANSWER, NO_REPLY))


Talk = Callable[[Conversation], Awaitable[Answer]]


def start_of(talk: Talk) -> Start:
    """A coroutine in the form of :data:`agent.probes.Start`."""

    def start(
        loop: asyncio.AbstractEventLoop, address: str, port: int, check: Check, done: Done
    ) -> Cancel:
        task = loop.create_task(_answer_of(talk, Conversation(address, port, check)))
        unwanted = False

        def ended(task: asyncio.Task[Answer]) -> None:
            if unwanted or task.cancelled():
                return
            error = task.exception()
            if error is None:
                done(task.result())
                return
            # Without an answer the gateway would never be checked again.
            done(Answer(Verdict.UNCLEAR, f"check failed: {type(error).__name__}: {error}"))
            raise error

        task.add_done_callback(ended)

        def cancel() -> None:
            nonlocal unwanted
            unwanted = True  # a task that is done, and not heard of yet, is not cancelled
            task.cancel()

        return cancel

    return start


async def _answer_of(talk: Talk, about: Conversation) -> Answer:
    try:
        async with asyncio.timeout(about.check.timeout) as timer:
            return await talk(about)
    except Unhealthy as found:
        return Answer(Verdict.BAD, str(found))
    except ssl.SSLError as error:
        return Answer(Verdict.BAD, _tls_words(error))
    except OSError as error:
        if timer.expired():
            return about.late()
        return answer_for(error.errno or _code_of(error))


def _code_of(error: OSError) -> int:
    """Errors of asyncio's own making have no number."""
    return errno.ECONNRESET if isinstance(error, ConnectionError) else errno.EIO


def _tls_words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "closed the connection during the TLS handshake"
    reason = (error.reason or "protocol error").lower().replace("_", " ")
    return f"TLS failed: {reason}"


@asynccontextmanager
async def connected(about: Conversation) -> AsyncIterator[socket.socket]:
    """A TCP connection to the gateway, closed at the end whatever happened."""
    version = ipaddress.ip_address(about.address).version
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (about.address, about.port))
        yield sock


@asynccontextmanager
async def streams(
    about: Conversation, context: ssl.SSLContext | None = None
) -> AsyncIterator[Stream]:
    """Reader and writer of a connection, within TLS if a context is given."""
    async with connected(about) as sock:
        about.lacks = "accepts connections, but no answer"
        if context is not None:
            about.lacks = "accepts connections, but no TLS handshake"
        # The loop closes what it was given; a copy leaves ours to us.
        copy = sock.dup()
        try:
            reader, writer = await asyncio.open_connection(
                sock=copy,
                limit=MAX_READ,
                ssl=context,
                server_hostname=_server_name(about, context),
            )
        except BaseException:
            copy.close()
            raise
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


def _server_name(about: Conversation, context: ssl.SSLContext | None) -> str | None:
    """The name that is asked for; where none is given, a certificate is for the address."""
    if context is None:
        return None
    if about.check.name:
        return about.check.name
    return about.address if context.check_hostname else ""
