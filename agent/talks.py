"""Checks of type ``tls``, ``http`` and ``https``: what is said, and what is expected."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from agent.certificates import Contexts, expiry_fault
from agent.conversations import MAX_READ, Conversation, Stream, Unhealthy, streams
from agent.http_reply import NotHttp, Reply, request
from agent.probes import GOOD, Answer
from protocol.health import has_status
from protocol.shown import shown

_EXPIRED = 10
"""OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED."""
_READ = 16 * 1024


class Talks:
    """The checks by conversation, with the TLS settings that they share."""

    def __init__(self) -> None:
        self._contexts = Contexts()

    async def tls(self, about: Conversation) -> Answer:
        """Good after a handshake, with a certificate that is valid for long enough."""
        async with self._secured(about) as stream:
            _require_life(stream, about.check.expires_within)
        return GOOD

    async def http(self, about: Conversation) -> Answer:
        """Good with the status, and the body, that are wanted."""
        async with streams(about) as stream:
            return await _get(about, stream)

    async def https(self, about: Conversation) -> Answer:
        """As ``http``, within TLS; without ``expires_within`` an old certificate is no fault."""
        async with self._secured(about) as stream:
            if about.check.expires_within:
                _require_life(stream, about.check.expires_within)
            return await _get(about, stream)

    @asynccontextmanager
    async def _secured(self, about: Conversation) -> AsyncIterator[Stream]:
        context = await self._contexts.context(verify=about.check.verify)
        try:
            async with streams(about, context) as stream:
                yield stream
        except ssl.SSLCertVerificationError as error:
            if error.verify_code != _EXPIRED:
                raise
            # A certificate that was refused is not shown: look at it to name the date.
            lenient = await self._contexts.context(verify=False)
            async with streams(about, lenient) as stream:
                _require_life(stream, 0)
            raise


def _require_life(stream: Stream, days: float) -> None:
    secured = stream[1].get_extra_info("ssl_object")
    fault = expiry_fault(secured.getpeercert(binary_form=True), days, datetime.now(UTC))
    if fault:
        raise Unhealthy(fault)


async def _get(about: Conversation, stream: Stream) -> Answer:
    check = about.check
    reader, writer = stream
    bare = f"[{about.address}]" if ":" in about.address else about.address
    writer.write(request(check.name or bare, check.path))
    about.lacks = "accepts connections, but no answer to the request"
    reply, enough = Reply(), False
    while not enough:
        more, searched = await reader.read(_READ), len(reply.body)
        try:
            reply.take(more)
        except NotHttp as error:
            raise Unhealthy(str(error)) from None
        if reply.status:
            about.lacks = "the answer began, but has no end"
            enough = _is_enough(about, reply, searched)
    return GOOD


def _is_enough(about: Conversation, reply: Reply, searched: int) -> bool:
    """Whether the answer is good already; False if more of it is needed. So much of its body was
    looked at before."""
    check, wanted = about.check, about.check.body.encode()
    if not has_status(reply.status, check.status):
        raise Unhealthy(f"status {reply.status}, and {check.status} is wanted")
    if not wanted or reply.body.find(wanted, max(0, searched - len(wanted))) >= 0:
        return True
    if reply.whole or reply.size >= MAX_READ:
        where = "" if reply.whole else f" in its first {MAX_READ // 1024} KiB"
        raise Unhealthy(f"status {reply.status}, but the body lacks {shown(check.body)}{where}")
    return False
