"""Connections outlive their device: the primary's flows, entered in the secondaries' kernels.

Which gateway a flow has, and which ports address translation gave it, is what
only the primary's kernel knows for sure: slots move, policies draw lots, ports
collide. So it tells the secondaries of each flow that was established, and of
each that ended, in batches; they enter them in their own kernels at once. A
takeover then needs nothing more. Reading and entering is a worker's: the loop
only passes parts on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from agent.aftermath import MOVING, UNREMEMBERED, Move, Survey
from agent.barrier import Barrier
from agent.clock import Deadlines, next_round
from agent.flowfollowing import KEEP_S, Following
from agent.flowstream import EPOCH_BITS
from agent.flowtelling import Telling
from agent.flowworker import FlowWorker
from agent.lasting import lasting
from agent.remembering import StickyListener
from agent.ruleset import Desired, unremembered
from agent.staying import settled
from agent.tellers import DRAIN_S, Tellers, office_of
from protocol.assignment import carriers_of
from protocol.config import Config
from protocol.effects import Event, Input
from protocol.flows import FlowsKept, FlowsMessage, FlowsPart
from protocol.ids import DeviceId, GroupId
from protocol.messages import Message
from protocol.objects import VirtualServer


class Told(Protocol):
    """Who is told what is found."""

    def deliver(self, item: Input) -> None: ...
    def on_event(self, event: Event) -> None: ...


class Flows:
    """This device's part in it, as primary of some groups and secondary of others."""

    def __init__(
        self,
        device: DeviceId,
        incarnation: int,
        send: Callable[[DeviceId, Message], None],
        agent: Told,
    ) -> None:
        self._me = device
        self._loop = asyncio.get_running_loop()
        self._worker = FlowWorker()
        self._survey = Survey(device, self._worker.count, agent.on_event)
        self._tasks: asyncio.Task[None] | None = None
        self._config = Config()
        self._named: frozenset[GroupId] = frozenset()
        """Virtual Servers that name this device."""
        self._tellers = Tellers(device)
        self._barrier = Barrier(agent.deliver)
        above = incarnation << EPOCH_BITS
        self._telling = Telling(above, send, self._worker, self._tellers, self._barrier)
        self._following = Following(send, self._worker, self._tellers, agent.deliver)
        self._soon: asyncio.Handle | None = None
        self._more = False
        self.hasten = self._telling.hasten
        self.flush = self._telling.flush

    async def start(self) -> None:
        """Open the connection table; raises HalbError with the remedy."""
        await self._worker.open()
        self._tasks = self._loop.create_task(lasting(self._keep_forever), name="flows")
        self._telling.listen()

    def on_config(self, config: Config) -> None:
        """Addresses and carriers of the groups, as committed."""
        self._config = config
        servers = config.virtual_servers.values()
        self._named = frozenset(s.uid for s in servers if self._me in carriers_of(config, s))
        self._tellers.on_config(config, self._loop.time())
        self._arrange()

    def carried(self) -> tuple[VirtualServer, ...]:
        """What this device carries: what names it, and what it has not handed over yet."""
        served = self._named | self._tellers.kept(self._loop.time())
        return tuple(s for s in self._config.virtual_servers.values() if s.uid in served)

    def on_event(self, event: Event) -> None:
        """Follow who is primary of what."""
        if event.kind == "handover-aborted" and event.group is not None:
            self._barrier.drop(event.group)
        group, now = office_of(event), self._loop.time()
        if group is None:
            return
        self._barrier.drop(group)
        if event.kind == "lame":
            self.hasten(DRAIN_S)
            return
        former = self._tellers.on_event(event, now)
        if former is not None:
            self._survey.moved_here(group, self._move(group, event.term, former))
        if event.kind == "released":
            self._following.was_away(group)
        # Hundreds may change their primary in one step: after the first all others at once.
        if self._soon is None:
            self._soon = self._loop.call_soon(self._moved)
            self._arrange()
        else:
            self._more = True

    def _move(self, group: GroupId, term: int, former: DeviceId) -> Move:
        """What is known of a move to this device, as it happens."""
        server = self._config.virtual_servers.get(group)
        assigned = self._config.assignments.get(group)
        found = found_without_entries(server, assigned.vips) if server and assigned else ""
        vips, told = self._tellers.vips_of((group,)), self._following.told(former)
        return Move(term, vips, told, found)

    def _moved(self) -> None:
        self._soon = None
        if self._more:
            self._arrange()

    def _arrange(self) -> None:
        self._more = False
        self._following.arrange()
        self._telling.listen()

    def on_message(self, sender: DeviceId, message: FlowsMessage) -> None:
        """What another device says about flows."""
        if isinstance(message, FlowsPart):
            self._following.on_part(sender, message)
        elif self._worker.table is None:
            return
        elif isinstance(message, FlowsKept):
            self._telling.on_kept(sender, message)
        else:
            self._telling.on_wanted(sender, message)

    async def _keep_forever(self) -> None:
        while True:
            await next_round(KEEP_S)
            now = self._loop.time()
            self._following.keep(now)
            self._telling.keep(now)

    async def close(self) -> None:
        """Stop; entries in the kernel stay as they are."""
        if self._tasks is not None:
            self._tasks.cancel()
            await asyncio.wait([self._tasks])
        if self._soon is not None:
            self._soon.cancel()
        self._following.forget_all()
        await self._worker.close()


def found_without_entries(server: VirtualServer, vips: tuple[str, ...]) -> str:
    """How flows of ``server`` find their gateways now, if no kernel has entries of them."""
    (now,), _ = settled((server,), Deadlines())
    if not unremembered(Desired((now,), {now.uid: vips})):
        return ""
    versions = {6 if ":" in vip else 4 for vip in vips}
    some = (StickyListener(now, each, v) for each in now.listeners for v in versions)
    return MOVING if any(each.remembers for each in some) else UNREMEMBERED
