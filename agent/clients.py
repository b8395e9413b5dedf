"""Sticky clients on every device: the primary tells the secondaries which gateway they keep.

So it does with connections of `dsr` whose slots move (:mod:`agent.direct`). Only the
primary's kernel learns them. It is read every few seconds; what is new or was renewed is
told, and everything again from time to time, so that a device that comes back is in step soon,
and nothing needs an acknowledgement but what the successor of a planned move is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import inf
from typing import Literal

from agent.clock import next_round, rest
from agent.dataplane import DataPlane
from agent.gated import MAX_CLIENTS
from agent.kernel import Kernel
from agent.lasting import lasting
from agent.receipts import Receipts
from agent.remembering import StickyListener
from protocol.assignment import carriers_of
from protocol.clients import (
    MAX_CLIENTS_TOLD,
    Client,
    ClientsEntered,
    ClientsKept,
    ClientsMessage,
    pack,
)
from protocol.config import Config
from protocol.errors import HalbError, MalformedMessage
from protocol.flows import FlowsWanted, Flush
from protocol.ids import DeviceId, GroupId
from protocol.messages import Message
from protocol.objects import VirtualServer

TELL_S = 2.0
"""Seconds between two looks at what the kernel has learnt, at least."""
READ_SHARE = 0.05
"""Reading takes at most this share of the time: the more clients, the rarer."""
RETELL_S = 30.0
"""After so long a client is told again."""
RENEWED = 1 / 8
"""A client is told again when this part of its time was added."""
MAX_PARTS = 16
"""Messages to one device in one look; the rest follows in the next one."""
ENTER_SHARE = 0.1
"""The same for entering what is told: what comes meanwhile is entered together."""
ENTER_S = 0.5
"""But not where that is little in so many seconds: a planned move may be about to happen."""
ENTERED_S, ENTERING_S = 0.3, 20e-6
"""Seconds for which the successor of a planned move is waited for, until it says to have entered
what it is told, and for each connection; measured: 3 ms and 8 µs. Who must go does after 0.5 s."""
MOVE_PARTS = 48
"""Messages to it then: fewer than wait for a slow connection before some are dropped."""
MOVE_S = 1.5
"""Seconds for all of this at most: the core gives up a move that waits for 2."""
ANEW_S = 0.5
"""Seconds until a device that asks for flows again is told all clients again, at least."""
MAX_ASKS = 256
"""Answers that this device owes at a time: two for each IP version of a listener that moves."""

_log = logging.getLogger("halb.clients")
Send = Callable[[DeviceId, Message], None]
Holder = Callable[[GroupId], DeviceId | None]


@dataclass(frozen=True, slots=True)
class _Told:
    number: int
    until: float
    at: float


class StickyClients:
    """This device's part, as primary of some groups and secondary of others."""

    def __init__(self, me: DeviceId, kernel: Kernel) -> None:
        self._me = me
        self._kernel = kernel
        self._loop = asyncio.get_running_loop()
        self._send: Send = lambda device, message: None
        self._holder: Holder = lambda group: None
        self._listeners: tuple[StickyListener, ...] = ()
        self._others: Mapping[GroupId, tuple[DeviceId, ...]] = {}
        self._told: dict[str, dict[str, _Told]] = {}
        """What was told of each map, by address of the client."""
        self._to_enter: dict[str, dict[str, Client]] = {}
        """What other devices told of each map, and that is not entered yet, by address."""
        self._asks: list[tuple[str, DeviceId, ClientsEntered]] = []
        """Who waits until what was told of a map is entered, and what to say then."""
        self._told_of = asyncio.Event()
        self._resting: asyncio.Task[None] | None = None
        self._receipts = Receipts()
        self._moves: dict[GroupId, asyncio.Task[None]] = {}
        """Groups that are about to be handed over."""
        self._lacking: dict[DeviceId, asyncio.Task[None]] = {}
        """Devices that are told everything."""
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    def start(self, send: Send, holder: Holder) -> None:
        """Begin; ``holder`` says who is primary of a group."""
        self._send, self._holder = send, holder
        self._tasks = (
            self._loop.create_task(lasting(self._tell_forever), name="tell clients"),
            self._loop.create_task(lasting(self._enter_forever), name="enter clients"),
        )

    def on_config(self, config: Config, carried: Iterable[VirtualServer]) -> None:
        """The Virtual Servers that this device carries now."""
        servers = tuple(carried)
        self._listeners = tuple(
            each
            for server in servers
            for listener in server.listeners
            for version in sorted({6 if ":" in vip else 4 for vip in server.vips})
            if (each := StickyListener(server, listener, version)).remembers
        )
        self._others = {
            server.uid: tuple(d for d in carriers_of(config, server) if d != self._me)
            for server in servers
        }
        names = {each.name for each in self._listeners}
        self._to_enter = {name: some for name, some in self._to_enter.items() if name in names}
        self._told = {name: told for name, told in self._told.items() if name in names}

    # As primary

    async def _tell_forever(self) -> None:
        while True:
            await next_round(TELL_S)
            began = self._loop.time()
            try:
                await self._tell()
            except HalbError as error:
                _log.warning("cannot read the sticky clients: %s", error.message)
            await rest(self._loop.time() - began, READ_SHARE, TELL_S)

    async def _tell(self) -> None:
        room, listeners = MAX_PARTS, self._listeners
        # Where there is no room for all, those have had their turn that were told of last.
        for each in sorted(listeners, key=self._newest):
            uid = each.server.uid
            others = self._others[uid]
            if self._holder(uid) != self._me or not others:
                self._told.pop(each.name, None)
                continue
            if not room:
                continue
            found = await self._kernel.do(partial(DataPlane.clients, name=each.name))
            if self._listeners is not listeners:
                # The configuration has changed: the next look is at what there is now.
                return
            due = self._due(each, found, room * MAX_CLIENTS_TOLD)
            room -= self._say(each, due, others)

    async def _tell_anew(self, device: DeviceId, groups: Collection[GroupId]) -> None:
        """Tell a device that comes back, or hears of a new primary, what it was not told: all.

        Where that is too much for once, the rest as everybody is told it.
        """
        room, began = MOVE_PARTS, self._loop.time()
        try:
            for each in self._listeners:
                uid = each.server.uid
                lacks = uid in groups and device in self._others.get(uid, ())
                if lacks and room and self._holder(uid) == self._me:
                    found = await self._kernel.do(partial(DataPlane.clients, name=each.name))
                    due = list(found.values())[: room * MAX_CLIENTS_TOLD]
                    room -= self._say(each, due, (device,))
            took = self._loop.time() - began
            await asyncio.sleep(ANEW_S)
            await rest(took, READ_SHARE, ANEW_S)
        except HalbError as error:
            _log.warning("cannot read the sticky clients: %s", error.message)
        finally:
            del self._lacking[device]

    def _newest(self, each: StickyListener) -> float:
        """When a client of the listener was told of last."""
        told = self._told.get(each.name)
        return next(reversed(told.values())).at if told else -inf

    def _say(
        self, each: StickyListener, due: list[Client], to: tuple[DeviceId, ...], ask: int = 0
    ) -> int:
        """Tell devices of clients; in how many parts. ``ask`` for an answer to the last."""
        parts = list(_parts(due))
        version: Literal[4, 6] = 6 if each.version == 6 else 4
        for left, part in zip(reversed(range(len(parts))), parts, strict=True):
            key, records = each.listener.key, pack(each.version, part)
            message = ClientsKept(each.server.uid, key, version, records, 0 if left else ask)
            for device in to:
                self._send(device, message)
        return len(parts)

    def flush(self, effect: Flush, then: Callable[[Flush], None]) -> None:
        """Before a planned move: tell the successor of all connections that no slot tells of.

        It says when it has entered them, or is given time for it; ``then`` is what comes next.
        """
        if (earlier := self._moves.pop(effect.group, None)) is not None:
            earlier.cancel()
        server = effect.group
        known = [e for e in self._listeners if e.server.uid == server and not e.listener.sticky]
        if known:
            work = self._hand_on(known, effect, then)
            self._moves[effect.group] = self._loop.create_task(work, name="hand clients on")
        else:
            then(effect)

    async def _hand_on(
        self, known: list[StickyListener], effect: Flush, then: Callable[[Flush], None]
    ) -> None:
        try:
            async with asyncio.timeout(MOVE_S):
                await self._hand_all_on(known, effect.to)
        except HalbError as error:
            _log.warning("cannot read connections before a move: %s", error.message)
        except TimeoutError:
            _log.info("there was no time to tell %s of all connections before a move", effect.to)
        del self._moves[effect.group]
        then(effect)

    async def _hand_all_on(self, known: list[StickyListener], to: DeviceId) -> None:
        room, told = MOVE_PARTS, dict.fromkeys((each.name for each in known), frozenset[str]())
        answers = True
        for _ in range(2):  # at last those that began meanwhile
            count, asks = 0, []
            for each in known:
                found = await self._kernel.do(partial(DataPlane.clients, name=each.name))
                due = [c for address, c in found.items() if address not in told[each.name]]
                # Most likely to be lacking are those that nobody was told of.
                due.sort(key=lambda client: client.address in self._told.get(each.name, ()))
                told[each.name] = frozenset(found)
                if due := due[: room * MAX_CLIENTS_TOLD]:
                    asks.append(self._receipts.expect(to))
                    room -= self._say(each, due, (to,), asks[-1])
                    count += len(due)
            # A device of a release before never answers: it is waited for once.
            enough = ENTERED_S + ENTERING_S * count if answers else 0
            answers = await self._receipts.all_came(asks, enough)
        if not answers:
            _log.info("%s has not said that it knows connections that no slot tells of", to)

    def _due(self, each: StickyListener, found: Mapping[str, Client], most: int) -> list[Client]:
        """Clients to be told of now, and note that they are: who is new, then who was told of
        longest ago."""
        now = self._loop.time()
        before = self._told.get(each.name, {})
        # In the order in which they were told of.
        told = {address: old for address, old in before.items() if address in found}
        new = (c for a, c in found.items() if a not in told or told[a].number != c.number)
        due = list(islice(new, most))
        renewed_s = each.seconds * RENEWED
        again = (
            client
            for address, old in told.items()
            if (client := found[address]).number == old.number
            and (now > old.at + RETELL_S or now + client.left_ms / 1000 > old.until + renewed_s)
        )
        due += islice(again, most - len(due))
        for client in due:
            told.pop(client.address, None)
            told[client.address] = _Told(client.number, now + client.left_ms / 1000, now)
        self._told[each.name] = told
        return due

    # As secondary

    def on_message(self, sender: DeviceId, message: ClientsMessage | FlowsWanted) -> None:
        """What another device says of sticky clients: believed of the primary, of what it knows.

        Who asks for all flows lacks clients, too.
        """
        if isinstance(message, FlowsWanted):
            if not message.epoch and sender not in self._lacking:
                work = self._tell_anew(sender, message.groups)
                self._lacking[sender] = self._loop.create_task(work, name="tell clients anew")
            return
        if isinstance(message, ClientsEntered):
            self._receipts.came(sender, message.ask)
            return
        if self._holder(message.group) != sender:
            return
        for each in self._listeners:
            if (each.server.uid, each.listener.key, each.version) == (
                message.group,
                message.listener,
                message.version,
            ):
                self._remember(each, message)
                if message.ask and len(self._asks) < MAX_ASKS:
                    self._asks.append((each.name, sender, ClientsEntered(message.ask)))
                    self._told_of.set()
                    if self._resting is not None:
                        self._resting.cancel()

    def _remember(self, of: StickyListener, message: ClientsKept) -> None:
        known = of.numbers
        told = self._to_enter.setdefault(of.name, {})
        some = ((each.address, each) for each in message.clients if each.number in known)
        try:
            told.update(islice(some, MAX_CLIENTS - len(told)))
        except MalformedMessage as error:
            _log.warning("sticky clients that another device told of: %s", error.message)
        if told:
            self._told_of.set()
        else:
            del self._to_enter[of.name]

    async def _enter_forever(self) -> None:
        while True:
            await self._told_of.wait()
            self._told_of.clear()
            while self._to_enter or self._asks:
                began = self._loop.time()
                some, self._to_enter = self._to_enter, {}
                asks, self._asks = self._asks, []
                failed = {name for name, told in some.items() if not await self._enter(name, told)}
                for name, device, answer in asks:
                    if name not in failed:
                        self._send(device, answer)
                if not self._asks:
                    await self._rest(self._loop.time() - began)

    async def _rest(self, took: float) -> None:
        """Unless somebody waits for an answer."""
        self._resting = self._loop.create_task(rest(took, ENTER_SHARE, ENTER_S), name="rest")
        try:
            await asyncio.wait([self._resting])
        finally:
            self._resting.cancel()
            self._resting = None

    async def _enter(self, name: str, told: Mapping[str, Client]) -> bool:
        """Enter what was told of one map, which is read for that: once, however much it is."""
        some = tuple(told.values())
        try:
            await self._kernel.do(partial(DataPlane.enter_clients, name=name, told=some))
        except HalbError as error:
            _log.warning("sticky clients that another device told of: %s", error.message)
            return False
        return True

    async def close(self) -> None:
        """Stop; what the kernel remembers stays."""
        tasks = (*self._tasks, *self._moves.values(), *self._lacking.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _parts(clients: list[Client]) -> Iterator[list[Client]]:
    for at in range(0, len(clients), MAX_CLIENTS_TOLD):
        yield clients[at : at + MAX_CLIENTS_TOLD]
