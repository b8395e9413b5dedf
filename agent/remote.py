"""The door for operators on the network: the control API for whoever owns a known key.

At PORT+3 of each address of the device. Whom the committed configuration names
as an operator gets in (CURVE and ZAP), and nobody else gets an answer to
anything. Each operator has bounds of its own, so that none keeps out another,
nor those on the host.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from agent import sockets
from agent.keys import KeyPair
from agent.rate import Rate
from agent.requests import CarryOut, Requests, WatchStatus
from agent.sockets import AllowList, Socket
from protocol import api
from protocol.addresses import check_endpoint, split_endpoint
from protocol.changes import PutOperator, PutToken
from protocol.control import OPERATORS
from protocol.errors import HalbError, Refused
from protocol.objects import Operator

QUEUE = 32
"""Frames that may wait for one connection; one that does not read loses the rest."""
AT_WORK = 16
"""Requests and watches of one operator that are carried out at the same time."""
RATE, BURST = 50.0, 200.0
"""Frames of one operator per second that are looked at, and at once."""
LINGER_MS = 200
HANDSHAKE_MS = 2000
"""Longer than among devices: this agent has a say in it, and may be busy."""
LAST_WORD_S = 0.2
"""For so long a removed operator's connections stay open, to be told why they end."""
PATIENCE = 25
"""So many times as long they may stay open because others are being answered."""
_AT_HOME = {api.Init: "init", api.Join: "join", api.Leave: "leave"}
"""Whoever does this has to be on the host: it decides whom the device obeys."""

_log = logging.getLogger("halb.operators")


@dataclass(frozen=True)
class _Session:
    """What one operator has under way, over all its connections."""

    name: str
    rate: Rate
    requests: Requests


class RemoteServer:
    """Takes requests of operators on the network and answers them."""

    def __init__(
        self, listen: tuple[str, ...], keys: KeyPair, carry_out: CarryOut, watch: WatchStatus
    ) -> None:
        """``listen``: the device's own ``IP:PORT``; the others as of the control socket."""
        parted = (split_endpoint(check_endpoint("address", each)) for each in listen)
        self._endpoints = [(str(ip), port + OPERATORS) for ip, port in parted]
        self._keys = keys
        self._carry_out = carry_out
        self._watch = watch
        self._context: sockets.Context | None = None
        self._socket: Socket | None = None
        self._allowed = AllowList()
        self._sessions: dict[bytes, _Session] = {}
        """By public key."""
        self._ending = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._counts: Counter[str] = Counter()

    async def start(self) -> None:
        """Bind; raises InvalidInput as :meth:`agent.transport.Transport.start` does."""
        self._context = sockets.new_context()
        await self._allowed.start(self._context)
        options = sockets.BOUNDED | sockets.limits(send=QUEUE, receive=QUEUE, size=api.MAX_FRAME)
        options |= sockets.serving(self._keys)
        # A client that comes back before its old connection is cleared away is still itself.
        options |= {sockets.LINGER: LINGER_MS, sockets.ROUTER_HANDOVER: 1}
        options |= {sockets.HANDSHAKE_IVL: HANDSHAKE_MS}
        self._socket = await Socket.open(
            self._context, sockets.ROUTER, options, self._came, signed=True
        )
        try:
            sockets.bind_all(self._socket, self._endpoints)
        except HalbError:
            await self.close()
            raise

    def counters(self) -> Mapping[str, int]:
        """Connections and frames that were refused, and frames that came too fast."""
        return {**self._counts, "refused": self._allowed.refused}

    def let_in(self, operators: Iterable[Operator]) -> None:
        """The whole set; who is not in it any more has no word from now on."""
        wanted = {each.public_key.encode(): each.name for each in operators}
        others = [key for key, each in self._sessions.items() if wanted.get(key) != each.name]
        gone = [self._sessions.pop(key) for key in others]
        self._allowed.keys = wanted
        for session in gone:
            _log.warning("operator %s was removed", session.name)
            session.requests.dismiss(_removed(session.name))
        for key in wanted.keys() - self._sessions.keys():
            self._sessions[key] = self._new_session(wanted[key], key.decode())
        if gone and self._socket is not None:
            self._in_background(self._end_connections(gone))

    def _new_session(self, name: str, key: str) -> _Session:
        async def carry_out(request: api.Request) -> api.Result:
            return await self._carry_out_for(name, _signed(request, name, key))

        requests = Requests(carry_out, self._watch, self._send, AT_WORK)
        return _Session(name, Rate(RATE, BURST), requests)

    def _came(self, frames: list[bytes]) -> None:
        key, sender, *parts = frames
        session = self._sessions.get(key)
        if session is None:
            self._counts["removed"] += 1
        elif not session.rate.admit(asyncio.get_running_loop().time()):
            self._counts["throttled"] += 1
        else:
            session.requests.came(sender, parts)

    def _send(self, frames: sockets.Frames) -> None:
        if self._socket is not None:
            self._socket.send(frames)

    async def _carry_out_for(self, name: str, request: api.Request) -> api.Result:
        op = request.op
        what = str(op.__struct_config__.tag)
        if isinstance(op, api.PutChange):
            what = str(op.change.__struct_config__.tag)
        try:
            if type(op) in _AT_HOME:
                raise Refused(
                    f"a device cannot be told over the network to {what}",
                    f"Run `halbctl {what}` on its host.",
                )
            result = await self._carry_out(request)
        except HalbError as error:
            _log.info("operator %s: %s: refused: %s", name, what, error.message)
            raise
        if isinstance(result, api.TokenCreated):
            _log.info("operator %s: %s: token %s", name, what, result.id)
        elif isinstance(result, api.Done) and not getattr(op, "dry_run", False):
            _log.info("operator %s: %s: %s", name, what, result.detail)
        return result

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_connections(self, gone: list[_Session]) -> None:
        """Of all operators, for a connection cannot be ended alone; the others come back.

        What they watch goes on over the new connection; what else was asked, also by
        those that are ``gone``, is answered before.
        """
        async with self._ending:
            try:
                await self._answered(gone)
            finally:
                for session in gone:
                    await session.requests.close()
            for endpoint in self._endpoints:
                if self._socket is not None:
                    await sockets.rebind(self._socket, endpoint, lambda: self._socket is not None)

    async def _answered(self, gone: list[_Session]) -> None:
        for _ in range(PATIENCE):
            await asyncio.sleep(LAST_WORD_S)
            if not any(s.requests.answering for s in (*self._sessions.values(), *gone)):
                return

    async def close(self) -> None:
        """Answer nothing more; what was answered has :data:`LINGER_MS` to leave."""
        for task in self._tasks:
            task.cancel()
        for session in self._sessions.values():
            await session.requests.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._socket is not None:
            socket, self._socket = self._socket, None
            await socket.close()
        await self._allowed.stop()
        if self._context is not None:
            self._context.destroy()


def _signed(request: api.Request, name: str, key: str) -> api.Request:
    """``request`` with its operator's name and key where the Site remembers who let somebody in."""
    replace, op = msgspec.structs.replace, request.op
    if isinstance(op, api.CreateToken):
        return replace(request, op=replace(op, by=name, by_key=key))
    if isinstance(op, api.PutChange) and isinstance(op.change, PutToken | PutOperator):
        return replace(request, op=replace(op, change=replace(op.change, by=name, by_key=key)))
    return request


def _removed(name: str) -> HalbError:
    return Refused(
        f"operator {name!r} was removed from the Site",
        "Whoever has another way in can give you a new key: `halbctl operator create`.",
    )
