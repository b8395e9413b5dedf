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
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

from agent.aftermath import Survey
from agent.barrier import Barrier
from agent.clock import next_round
from agent.flowreading import Found, changes, everything
from agent.flowstream import EPOCH_BITS, Chunk, Incoming, Outgoing, Step
from agent.flowtable import FlowTable
from agent.flowworker import FlowWorker
from agent.mirror import Mirror, enter
from agent.rate import Share
from agent.tellers import DRAIN_S, Tellers, office_of
from protocol.config import Config
from protocol.effects import Event, Input
from protocol.flows import Behind, FlowsPart, FlowsWanted, Flush
from protocol.ids import DeviceId, GroupId
from protocol.messages import Message

BATCH_S = 0.1
"""Between two looks. A flow is told of with the second one after it was established."""
HASTE_S = 0.005
"""The same while this device hands over, or slots move; a flow is told with the first look then."""
SHARE = 0.1
"""Of a processor, for what the kernel tells of flows; as much for reading all of them anew.
Where flows come faster, they are told later, and in the end not at all: traffic goes first."""
KEEP_S = 2.0
"""Seconds between two signs of life of a stream."""
ROUNDS, AGAIN_S = 8, KEEP_S / 8
"""How often a stream is asked for that does not begin, and seconds until the next time."""
PAUSE_S = 1.0
"""A stream begins at most this often."""
COMPARE_S = 300.0
"""After so long a stream begins anew: what went wrong unseen is mended."""
BEHIND_S = 30.0
"""After so long a device may be moved to although it still lacks flows."""
BEHIND = "is still being told the flows of the primary"

_log = logging.getLogger("halb.flows")
UNKNOWN = FlowsPart(0, 0, False)
"""There is no such stream: begin anew."""


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
        self._send = send
        self._deliver = agent.deliver
        self._loop = asyncio.get_running_loop()
        self._worker = FlowWorker()
        self._survey = Survey(device, self._worker.count, agent.on_event)
        self._tasks: asyncio.Task[None] | None = None
        self._attending = self._looking = self._shared = False
        self._soon: asyncio.TimerHandle | None = None
        self._looks, self._readings = (Share(SHARE, self._loop.time) for _ in range(2))
        self._epoch = incarnation << EPOCH_BITS
        self._tellers = Tellers(device)
        self._hasty_until = 0.0
        self._barrier = Barrier(agent.deliver)
        self._out: dict[DeviceId, Outgoing] = {}
        self._begun: dict[DeviceId, float] = {}
        """When the first part of the newest stream to each device was sent."""
        self._wanted: Mapping[DeviceId, frozenset[GroupId]] = {}
        self._in: dict[DeviceId, Incoming] = {}
        self._mirrors: dict[DeviceId, Mirror] = {}
        self._in_step: set[GroupId] = set()
        """Groups whose flows are in this kernel, as far as any primary told."""
        self._lacking: dict[GroupId, float] = {}
        """Other groups, and since when."""
        self._behind: tuple[tuple[GroupId, str], ...] = ()
        self._compared: dict[DeviceId, float] = {}
        """When the newest stream of each device began to come."""

    async def start(self) -> None:
        """Open the connection table; raises HalbError with the remedy."""
        await self._worker.open()
        self._tasks = self._loop.create_task(self._keep_forever(), name="flows")
        self._listen()

    # What is to be told, and to whom

    def on_config(self, config: Config) -> None:
        """Addresses and carriers of the groups, as committed."""
        self._tellers.on_config(config)
        self._arrange()

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
        if self._tellers.on_event(event, now):
            self._survey.moved_here(group, event.term, self._tellers.vips_of((group,)))
        self._arrange()

    def _arrange(self) -> None:
        """Ask each primary for its groups' flows; listen to the kernel if this is one."""
        before, self._wanted = self._wanted, self._tellers.wanted()
        for leader, groups in self._wanted.items():
            if not groups <= before.get(leader, frozenset()):
                # Also of those that it told of before: what it said meanwhile was not heeded.
                source = self._in.setdefault(leader, Incoming(groups))
                source.wanted, source.anew = groups, True
                self._ask_anew(leader)
        self._in_step &= self._tellers.carried
        self._in_step |= self._tellers.led()
        self._judge()
        self._listen()

    def _judge(self) -> None:
        """Tell the core for which groups this device is no choice of a planned move yet."""
        now = self._loop.time()
        wanted = frozenset().union(*self._wanted.values())
        self._lacking = {g: self._lacking.get(g, now) for g in wanted - self._in_step}
        lacking = sorted(self._lacking.items())
        behind = tuple((group, BEHIND) for group, since in lacking if now - since < BEHIND_S)
        if behind != self._behind:
            self._behind = behind
            self._deliver(Behind(behind))

    # As primary

    def _listen(self) -> None:
        """Hear of changes while there is somebody to tell; what fails is tried again soon."""
        table = self._worker.table
        if table is None:
            return
        if self._shared != self._tellers.accompanied:
            self._shared = not self._shared
            self._worker.do(partial(table.share, self._shared), lambda _: None, self._not_shared)
        attend = bool(self._out)
        if attend != self._attending:
            self._attending = attend
            then = partial(table.listen, attend), lambda _: self._await_notice()
            self._worker.do(*then, self._not_heard)

    def _not_shared(self) -> None:
        self._shared = not self._shared

    def _not_heard(self) -> None:
        self._attending = False
        for out in self._out.values():
            out.given_up = True

    def _await_notice(self) -> None:
        table = self._worker.table
        if not self._attending or table is None or self._looking:
            return
        if table.waiting:
            self._look_soon()
        else:
            self._loop.add_reader(table.fileno(), self._noticed, table)

    def _noticed(self, table: FlowTable) -> None:
        self._loop.remove_reader(table.fileno())
        self._look_soon()

    @property
    def _hasty(self) -> bool:
        return self._loop.time() < self._hasty_until

    def _look_soon(self) -> None:
        if self._soon is None:
            now = self._loop.time()
            at = now + HASTE_S if self._hasty else max(now + BATCH_S, self._looks.free_at)
            self._soon = self._loop.call_at(at, self._look)

    def hasten(self, seconds: float) -> None:
        """For so long other devices may need any flow at any moment: tell them at once."""
        self._hasty_until = max(self._hasty_until, self._loop.time() + seconds)
        self._look()

    def flush(self, effect: Flush) -> None:
        """Say when the device that is to be primary next has every flow of the group."""
        self._barrier.add(effect)
        self._read()

    def _look(self) -> None:
        """Read what changed, and tell it, unless that is under way."""
        if self._looking:
            self._soon = None
        else:
            self._read()

    def _read(self) -> None:
        table = self._worker.table
        if table is None:
            return
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        self._looking = True
        awaited = self._barrier.unmarked
        shares = {out.vips for out in self._out.values()}
        vips, whole = self._tellers.mine(self._loop.time()), self._hasty or bool(awaited)
        job = partial(changes, table, vips, shares, whole=whole)
        looked = partial(self._looked, awaited)
        self._worker.do(job, looked, partial(looked, None), self._looks)

    def _looked(
        self,
        awaited: frozenset[GroupId],
        found: Found | None,
    ) -> None:
        self._looking = False
        for device, out in self._out.items():
            if found is None:
                out.given_up = True
            else:
                out.go_on(found.get(out.vips, ()))
            self._tell(device)
        self._barrier.looked(awaited, self._out)
        self._await_notice()

    def _tell(self, device: DeviceId) -> None:
        out = self._out[device]
        for part in (UNKNOWN,) if out.given_up else out.due():
            self._send(device, part)

    def _on_wanted(self, device: DeviceId, message: FlowsWanted) -> None:
        now, out = self._loop.time(), self._out.get(device)
        if not message.epoch:
            self._begin(device, message.groups, now)
        elif out is not None and out.epoch == message.epoch and not out.given_up:
            out.acknowledge(message.number, now)
            self._tell(device)
            self._barrier.check(self._out)
            if self._barrier.unmarked:
                self._read()
        elif out is None or out.given_up or (out.ready and now >= self._begun[device] + PAUSE_S):
            # Not while a newer stream is read for it, or has its beginning on the way.
            self._send(device, UNKNOWN)

    def _begin(self, device: DeviceId, wanted: Iterable[GroupId], now: float) -> None:
        """Tell of all flows of ``wanted``, as far as this device does and if that is due."""
        table = self._worker.table
        assert table is not None
        present, groups = self._out.get(device), self._tellers.told_to(device, wanted, now)
        # A question that is repeated while the table is read must not begin that anew.
        reading = present is not None and not present.ready
        if present is not None and reading:
            present.acknowledge(0, now)
        due = max(self._begun.get(device, -PAUSE_S) + PAUSE_S, self._readings.free_at)
        if not groups or reading or now < due:
            return
        self._epoch += 1
        out = self._out[device] = Outgoing(self._epoch, groups, self._tellers.vips_of(groups), now)
        self._listen()

        def read(flows: tuple[Chunk, ...]) -> None:
            out.begin(flows)
            self._begun[device] = self._loop.time()
            if self._out.get(device) is out:
                self._tell(device)

        def failed() -> None:
            """The next question for a stream, a moment later, has one begun."""
            self._begun[device] = self._loop.time()
            if self._out.get(device) is out:
                del self._out[device]

        self._worker.do(partial(everything, table, out.vips), read, failed, self._readings)

    # As secondary

    def _ask_anew(self, leader: DeviceId, times: int = ROUNDS) -> None:
        """What is sent while a connection is made may be lost."""
        if times and leader in self._in and self._in[leader].anew:
            self._ask(leader)
            self._loop.call_later(AGAIN_S, self._ask_anew, leader, times - 1)

    def _ask(self, leader: DeviceId) -> None:
        for question in self._in[leader].questions() if leader in self._in else ():
            self._send(leader, question)

    def _on_part(self, leader: DeviceId, part: FlowsPart) -> None:
        source, table = self._in.get(leader), self._worker.table
        if source is None or table is None:
            return
        step = source.take(part)
        if step is Step.GAP:
            _log.info("flows of %s have to be told anew", leader)
            self._forget(leader, source)
            self._ask(leader)
        elif step is not Step.SIGN:
            now = self._loop.time()
            vips = self._tellers.vips_of(self._tellers.believed(leader, source.covered))
            if step is Step.FIRST:
                self._compared[leader] = now
                source.vips = self._tellers.vips_of(source.covered)
                source.blurred = self._tellers.draining(source.covered, now)
                self._mirrors[leader] = Mirror(table)
            mirror = self._mirrors[leader]
            mine = self._tellers.mine(now)
            work = partial(enter, mirror, part, vips, mine, first=step is Step.FIRST)
            entered = partial(self._entered, leader, source, part)
            self._worker.do(work, entered, partial(entered, None))

    def _entered(
        self, leader: DeviceId, source: Incoming, part: FlowsPart, refused: int | None
    ) -> None:
        if refused is None:
            self._forget(leader, source)
        elif source.enter(part):
            _log.info("in step with the flows of %s", leader)
            self._in_step |= source.covered
            self._judge()
        self._ask(leader)

    def _forget(self, leader: DeviceId, source: Incoming) -> None:
        """The stream has ended, and this device lacks what it would have told."""
        self._in_step -= {g for g in source.covered if self._tellers.leads(leader, g)}
        source.forget()
        self._judge()

    # Both

    def on_message(self, sender: DeviceId, message: FlowsWanted | FlowsPart) -> None:
        """What another device says about flows."""
        if isinstance(message, FlowsPart):
            self._on_part(sender, message)
        elif self._worker.table is not None:
            self._on_wanted(sender, message)

    async def _keep_forever(self) -> None:
        while True:
            await next_round(KEEP_S)
            self._keep(self._loop.time())

    def _keep(self, now: float) -> None:
        """Signs of life both ways; let go of whom nothing is asked of or told any more."""
        for leader, source in list(self._in.items()):
            if leader in self._wanted:
                source.unwanted = None
                old = now - self._compared.get(leader, now) > COMPARE_S
                old |= source.blurred and not self._tellers.draining(source.covered, now)
                uncovered = not self._wanted[leader] <= source.covered
                uncovered |= not self._tellers.vips_of(source.covered) <= source.vips
                source.anew = source.anew or (source.complete and (old or uncovered))
            elif source.unwanted is None:
                source.unwanted = now
            if source.unwanted is not None and now - source.unwanted > DRAIN_S:
                del self._in[leader]
                self._mirrors.pop(leader, None)
                self._compared.pop(leader, None)
            else:
                self._ask(leader)
        for device, out in list(self._out.items()):
            if out.silent(now) or not self._tellers.told(now):
                del self._out[device]
                continue
            self._send(device, out.sign())
            if not self._tellers.vips_of(out.groups) <= out.vips:
                self._begin(device, out.groups, now)
        self._begun = {d: t for d, t in self._begun.items() if d in self._out or now < t + PAUSE_S}
        self._judge()
        self._listen()

    async def close(self) -> None:
        """Stop; entries in the kernel stay as they are."""
        if self._tasks is not None:
            self._tasks.cancel()
            await asyncio.wait([self._tasks])
        self._in.clear()
        await self._worker.close()
