"""Joining a Site over the network: the member's side and the newcomer's.

A member listens at PORT+2 of each of its addresses. Anyone may connect there,
so requests are small, bounded in rate and number, connections end, and only a
token's secret counts. The newcomer connects only to the keys that its token names.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from agent import sockets
from agent.guests import Guests
from agent.keys import KeyPair
from agent.monitors import Handshakes
from agent.rate import Rate
from agent.sockets import Frames, Socket
from protocol.addresses import check_endpoint, split_endpoint
from protocol.errors import HalbError, MalformedMessage, NoQuorum, Refused, TimedOut, Unreachable
from protocol.joining import (
    MAX_REPLY,
    MAX_REQUEST,
    JoinReply,
    JoinRequest,
    config_of,
    decode_join_reply,
    decode_join_request,
    encode_join_reply,
    encode_join_request,
    error_of,
    refusal,
)
from protocol.token import JoinToken

PORT_OFFSET = 2
RATE, BURST = 5.0, 20.0
"""Requests per second that are looked at, and at once."""
AT_WORK = 8
"""Requests that are answered at the same time."""
ANSWER_S = 12.0
"""Seconds that the Site may take to answer one."""
CONNECT_S = 1.0
RETRY_S = 0.5
REFUSALS = 3
"""Handshakes that a member ends before it is certain that it has another key. One may end
because it is just stopping; the next begins a tenth of a second later."""
LOOK_S = 0.05

_log = logging.getLogger(__name__)


class NotMember(Refused):
    """Who is at the address of a member is none: another host, or a device that has left."""


class JoinServer:
    """Takes requests to join and has them answered."""

    def __init__(
        self, listen: tuple[str, ...], keys: KeyPair,
        answer: Callable[[JoinRequest], Awaitable[JoinReply]],
    ) -> None:  # fmt: skip
        """``answer`` may raise HalbError: the newcomer gets it as the reason."""
        parted = (split_endpoint(check_endpoint("address", each)) for each in listen)
        self._endpoints = [(str(ip), port + PORT_OFFSET) for ip, port in parted]
        self._keys = keys
        self._answer = answer
        self._context: sockets.Context | None = None
        self._socket: Socket | None = None
        self._guests = Guests(self._answered, self._end_connections)
        self._work: set[asyncio.Task[None]] = set()
        self._rate = Rate(RATE, BURST)
        self._counts: Counter[str] = Counter()

    async def start(self) -> None:
        """Bind; raises InvalidInput as :meth:`agent.transport.Transport.start` does."""
        self._context = sockets.new_context()
        await self._guests.start(self._context)
        options = sockets.BOUNDED | sockets.limits(send=AT_WORK, receive=AT_WORK, size=MAX_REQUEST)
        options |= sockets.serving(self._keys)
        options |= {sockets.LINGER: 100}
        self._socket = await Socket.open(self._context, sockets.ROUTER, options, self._came)
        try:
            sockets.bind_all(self._socket, self._endpoints)
        except HalbError:
            await self.close()
            raise

    def counters(self) -> Mapping[str, int]:
        """Requests by fate since the start."""
        return dict(self._counts)

    def _came(self, frames: list[bytes]) -> None:
        now = asyncio.get_running_loop().time()
        if len(self._work) >= AT_WORK or not self._rate.admit(now):
            self._counts["throttled"] += 1
            return
        try:
            if len(frames) != 2:
                raise MalformedMessage(f"{len(frames) - 1} parts instead of 1")
            request = decode_join_request(frames[1])
        except MalformedMessage as error:
            self._counts["malformed"] += 1
            if len(frames) == 2:
                self._reply(frames[0], refusal(error))
            return
        task = asyncio.get_running_loop().create_task(self._work_on(frames[0], request))
        self._work.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled():
            task.result()

    async def _work_on(self, sender: bytes, request: JoinRequest) -> None:
        try:
            reply = await asyncio.wait_for(self._answer(request), ANSWER_S)
        except HalbError as error:
            _log.warning("device %s may not join: %s", request.device.name[:64], error.message)
            reply = refusal(error)
        except TimeoutError:
            reply = refusal(TimedOut("the Site did not admit the device in time", "Try again."))
        self._counts["refused" if reply.failure else "admitted"] += 1
        self._reply(sender, reply)

    def _reply(self, sender: bytes, reply: JoinReply) -> None:
        if self._socket is not None:
            self._socket.send((sender, encode_join_reply(reply)))

    async def _answered(self) -> None:
        if self._work:
            await asyncio.wait(self._work, timeout=ANSWER_S)

    async def _end_connections(self) -> None:
        for endpoint in self._endpoints:
            if self._socket is not None:
                await sockets.rebind(self._socket, endpoint, lambda: self._socket is not None)

    async def close(self) -> None:
        for task in self._work:
            task.cancel()
        await self._guests.close()
        if self._socket is not None:
            socket, self._socket = self._socket, None
            await socket.close()
        if self._context is not None:
            self._context.destroy()


async def ask_to_join(
    token: JoinToken, request: JoinRequest, keys: KeyPair, seconds: float
) -> JoinReply:
    """Ask the Site's members, one after the other, until one lets this device in.

    Returns a reply that carries a configuration. Raises what the Site refused
    with, NotMember as soon as that is all that any member can be blamed for, or
    Unreachable if within ``seconds`` no member answered.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    failed: dict[str, HalbError] = {}
    while True:
        for key, addresses in token.members:
            for address in addresses:
                left = deadline - clock()
                if left <= 0:
                    raise _nobody(failed, seconds)
                try:
                    reply = await ask_member(key, address, request, keys, left)
                    config_of(reply)
                except (Unreachable, NoQuorum, TimedOut, NotMember) as error:
                    said = isinstance(failed.get(address), NoQuorum | TimedOut)
                    # What time is left in the end may be too short for the same answer.
                    if not (said and isinstance(error, Unreachable)):
                        failed[address] = error
                else:
                    return reply
        if failed and all(isinstance(error, NotMember) for error in failed.values()):
            raise next(iter(failed.values()))
        await asyncio.sleep(max(0.0, min(RETRY_S, deadline - clock())))


async def ask_member(
    server_key: str, address: str, request: JoinRequest, keys: KeyPair, seconds: float
) -> JoinReply:
    """One member's reply; raises Unreachable, NotMember, or what it refused with."""
    ip, port = split_endpoint(check_endpoint("token", address))
    await _probe(str(ip), port + PORT_OFFSET, min(CONNECT_S, seconds))
    context = sockets.new_context()
    answered: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()

    def came(frames: Frames) -> None:
        if not answered.done():
            answered.set_result(list(frames))

    options = sockets.BOUNDED | sockets.DIALLING | sockets.limits(send=1, size=MAX_REPLY)
    options |= sockets.calling(keys, server_key)
    socket = await Socket.open(context, sockets.DEALER, options, came)
    handshakes = Handshakes(socket)
    try:
        socket.connect(sockets.tcp(str(ip), port + PORT_OFFSET))
        socket.send((encode_join_request(request),))
        async with asyncio.timeout(min(ANSWER_S, seconds)):
            while not answered.done():
                await asyncio.wait([answered], timeout=LOOK_S)
                if handshakes.ended() >= REFUSALS:
                    raise NotMember(
                        f"{address} does not have the key that the token names",
                        "The token is of another Site, or that device was installed anew: make "
                        "a new one on a device of this Site with `halbctl token create`.",
                    )
        frames = answered.result()
    except TimeoutError:
        raise Unreachable(f"{address} accepts connections but does not answer") from None
    finally:
        handshakes.close()
        await socket.close()
        context.destroy()
    try:
        reply = decode_join_reply(frames[0])
    except MalformedMessage as error:
        raise Refused(f"{address} answered what is no reply: {error.message}") from error
    if reply.failure is not None and reply.elsewhere:
        raise NotMember(reply.failure.message, reply.failure.remedy)
    if reply.failure is not None:
        raise error_of(reply.failure)
    return reply


async def _probe(ip: str, port: int, seconds: float) -> None:
    """Raise Unreachable unless something accepts TCP connections there."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(ip, port), seconds)
    except TimeoutError:
        raise Unreachable(f"{ip} port {port} does not answer") from None
    except OSError as error:
        raise Unreachable(f"{ip} port {port}: {error.strerror or error}") from error
    writer.close()


def _nobody(failed: Mapping[str, HalbError], seconds: float) -> HalbError:
    """What to report when time is up: a member's own reason, if one had any.

    One that has left, such as the device that asks, does not hide why those that stayed say no.
    """
    own = [error for error in failed.values() if not isinstance(error, Unreachable)]
    if own:
        return min(own, key=lambda error: isinstance(error, NotMember))
    reasons = "; ".join(error.message for error in failed.values()) or "the token names nobody"
    return Unreachable(
        f"no device of the Site answered within {seconds:g} s: {reasons}",
        "Let this host reach the TCP ports PORT to PORT+2 (7480-7482) of one of them, or make "
        "a new token there if they were installed anew.",
    )
