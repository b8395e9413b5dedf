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
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address
from typing import Protocol, TypeVar

from agent.aftermath import Survey
from agent.flowstream import Chunk, Incoming, Outgoing, Step, chunks
from agent.flowtable import FlowTable
from agent.mirror import Mirror, enter
from protocol.assignment import carriers_of
from protocol.config import Config
from protocol.effects import Event, Input
from protocol.flows import Behind, FlowsPart, FlowsWanted
from protocol.ids import SITE_GROUP, DeviceId, GroupId
from protocol.messages import Message
from protocol.timing import DRAIN_NS, SECOND

BATCH_S = 0.05
"""A flow is told of at most this long after it was established."""
KEEP_S = 2.0
"""Seconds between two signs of life of a stream."""
PAUSE_S = 1.0
"""A stream begins at most this often."""
COMPARE_S = 300.0
"""After so long a stream begins anew: what went wrong unseen is mended."""
DRAIN_S = DRAIN_NS / SECOND
"""After a hand-over the predecessor still forwards, and its entries must stay."""
MARGIN_S = 0.5
BEHIND_S = 30.0
"""After so long a device may be moved to although it still lacks flows."""
BEHIND = "is still being told the flows of the primary"

_OFFICES = ("primary", "leader", "released", "lame")
"""Kinds of events that tell who is primary."""

_log = logging.getLogger("halb.flows")
UNKNOWN = FlowsPart(0, 0, False)
"""There is no such stream: begin anew."""
_NONE: frozenset[bytes] = frozenset()
Result = TypeVar("Result")


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
        self._send = send
        self._deliver = agent.deliver
        self._survey = Survey(device, self._count, agent.on_event)
        self._loop = asyncio.get_running_loop()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="halb-flows")
        self._table: FlowTable | None = None
        self._tasks: asyncio.Task[None] | None = None
        self._attending = self._looking = False
        self._epoch = incarnation
        self._leaders: dict[GroupId, DeviceId] = {}
        self._former: dict[GroupId, float] = {}
        """Until when the flows of a group that this device led last are told on."""
        self._vips: Mapping[GroupId, frozenset[bytes]] = {}
        self._carriers: Mapping[GroupId, frozenset[DeviceId]] = {}
        self._out: dict[DeviceId, Outgoing] = {}
        self._begun: dict[DeviceId, float] = {}
        """When the first part of the newest stream to each device was sent."""
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
        self._table = await self._loop.run_in_executor(self._worker, FlowTable)
        self._tasks = self._loop.create_task(self._keep_forever(), name="flows")

    # What is to be told, and to whom

    def on_config(self, config: Config) -> None:
        """Addresses and carriers of the groups, as committed."""
        carried = {
            server.uid: frozenset(carriers_of(config, server))
            for server in config.virtual_servers.values()
            if server.uid in config.assignments
        }
        self._carriers = {g: devices for g, devices in carried.items() if self._me in devices}
        assigned = {g: config.assignments[g].vips for g in self._carriers}
        self._vips = {
            g: frozenset(ip_address(vip).packed for vip in vips) for g, vips in assigned.items()
        }
        self._arrange()

    def on_event(self, event: Event) -> None:
        """Follow who is primary of what."""
        group, now = event.group, self._loop.time()
        if group is None or group == SITE_GROUP or event.kind not in _OFFICES:
            return
        if event.kind == "lame":
            self._look()
            return
        before = self._leaders.get(group)
        leader = self._me if event.kind == "primary" else event.device
        if event.kind == "released" or leader is None:
            self._leaders.pop(group, None)
        else:
            self._leaders[group] = leader
        if event.kind == "primary" and before not in (None, self._me):
            self._survey.moved_here(group, event.term, self._vips.get(group, _NONE))
        if before == self._me != leader:
            self._former[group] = now + DRAIN_S
        self._arrange()

    def _vips_of(self, groups: Iterable[GroupId]) -> frozenset[bytes]:
        return frozenset().union(*(self._vips.get(group, _NONE) for group in groups))

    def _told(self) -> frozenset[GroupId]:
        """Groups whose flows this device tells of."""
        now = self._loop.time()
        led = {g for g, leader in self._leaders.items() if leader == self._me}
        late = {g for g, until in self._former.items() if now < until}
        return frozenset((led | late) & self._vips.keys())

    def _mine(self) -> frozenset[bytes]:
        """VIPs that are this device's, or were a moment ago."""
        return self._vips_of(self._told())

    def _wanted(self) -> dict[DeviceId, frozenset[GroupId]]:
        """Whom to ask for the flows of which groups."""
        wanted: dict[DeviceId, set[GroupId]] = {}
        for group, leader in self._leaders.items():
            if leader != self._me and group in self._vips:
                wanted.setdefault(leader, set()).add(group)
        return {leader: frozenset(groups) for leader, groups in wanted.items()}

    def _arrange(self) -> None:
        """Ask each primary for its groups' flows; listen to the kernel if this is one."""
        now = self._loop.time()
        for leader, groups in self._wanted().items():
            present = self._in.get(leader)
            if present is None or not groups <= present.wanted:
                drained = max((self._former.get(g, 0.0) for g in groups), default=0.0)
                at = drained + MARGIN_S if drained > now else now
                self._in[leader] = Incoming(groups, at)
                self._loop.call_at(at, self._ask, leader)
        self._in_step |= {g for g, leader in self._leaders.items() if leader == self._me}
        self._judge()
        self._listen()

    def _judge(self) -> None:
        """Tell the core for which groups this device is no choice of a planned move yet."""
        now = self._loop.time()
        wanted = frozenset().union(*self._wanted().values())
        self._lacking = {g: self._lacking.get(g, now) for g in wanted - self._in_step}
        behind = tuple(
            (group, BEHIND)
            for group, since in sorted(self._lacking.items())
            if now - since < BEHIND_S
        )
        if behind != self._behind:
            self._behind = behind
            self._deliver(Behind(behind))

    # As primary

    def _listen(self) -> None:
        """Hear of changes while there is a group to tell of."""
        attend = bool(self._told())
        if self._table is None or attend == self._attending:
            return
        self._attending = attend
        self._work(partial(self._table.listen, attend), lambda _: self._await_notice())

    def _await_notice(self) -> None:
        if self._attending and self._table is not None and not self._looking:
            self._loop.add_reader(self._table.fileno(), self._noticed)

    def _noticed(self) -> None:
        assert self._table is not None
        self._loop.remove_reader(self._table.fileno())
        self._loop.call_later(BATCH_S, self._look)

    def _look(self) -> None:
        """Read what changed, and tell it."""
        if self._table is None or self._looking:
            return
        self._looking = True
        shares = {out.vips for out in self._out.values()}
        self._work(partial(_changes, self._table, self._mine(), shares), self._looked)

    def _looked(self, found: Mapping[frozenset[bytes], tuple[Chunk, ...]] | None) -> None:
        self._looking = False
        for device, out in self._out.items():
            if found is None:
                out.given_up = True
            else:
                out.go_on(found.get(out.vips, ()))
            self._tell(device)
        self._await_notice()

    def _tell(self, device: DeviceId) -> None:
        out = self._out[device]
        if out.given_up:
            self._send(device, UNKNOWN)
            return
        for part in out.due():
            self._send(device, part)

    def _on_wanted(self, device: DeviceId, message: FlowsWanted) -> None:
        now = self._loop.time()
        out = self._out.get(device)
        if message.epoch:
            if out is None or out.epoch != message.epoch or out.given_up:
                self._send(device, UNKNOWN)
            else:
                out.acknowledge(message.number, now)
                self._tell(device)
            return
        told = self._told()
        groups = tuple(
            g for g in message.groups if g in told and device in self._carriers.get(g, ())
        )
        # A question that is repeated while the table is read must not begin that anew.
        reading = out is not None and not out.ready
        if groups and not reading and now - self._begun.get(device, -PAUSE_S) >= PAUSE_S:
            self._begin(device, groups, now)

    def _begin(self, device: DeviceId, groups: tuple[GroupId, ...], now: float) -> None:
        assert self._table is not None
        self._epoch += 1
        out = self._out[device] = Outgoing(self._epoch, groups, self._vips_of(groups), now)

        def read(flows: tuple[Chunk, ...]) -> None:
            out.begin(flows)
            self._begun[device] = self._loop.time()
            if self._out.get(device) is out:
                self._tell(device)

        self._work(partial(_everything, self._table, out.vips), read)

    # As secondary

    def _ask(self, leader: DeviceId) -> None:
        source = self._in.get(leader)
        if source is not None and self._loop.time() >= source.not_before:
            self._send(leader, source.question())

    def _on_part(self, leader: DeviceId, part: FlowsPart) -> None:
        source = self._in.get(leader)
        if source is None or self._table is None:
            return
        step = source.take(part)
        if step is Step.GAP:
            _log.info("flows of %s have to be told anew", leader)
            self._forget(leader, source)
            self._ask(leader)
        elif step is not Step.SIGN:
            covered = [g for g in source.covered if self._leaders.get(g) in (leader, self._me)]
            vips = self._vips_of(covered)
            if step is Step.FIRST:
                self._compared[leader] = self._loop.time()
                self._mirrors[leader] = Mirror(self._table)
            mirror = self._mirrors[leader]
            work = partial(enter, mirror, part, vips, self._mine(), first=step is Step.FIRST)
            self._work(work, partial(self._entered, leader, source, part))

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
        self._in_step -= {g for g in source.covered if self._leaders.get(g) == leader}
        source.forget()
        self._judge()

    # Both

    def on_message(self, sender: DeviceId, message: FlowsWanted | FlowsPart) -> None:
        """What another device says about flows."""
        if isinstance(message, FlowsPart):
            self._on_part(sender, message)
        elif self._table is not None:
            self._on_wanted(sender, message)

    async def _keep_forever(self) -> None:
        while True:
            await asyncio.sleep(KEEP_S)
            self._keep(self._loop.time())

    def _keep(self, now: float) -> None:
        """Signs of life both ways; let go of whom nothing is asked of or told any more."""
        self._former = {g: until for g, until in self._former.items() if now < until}
        wanted = self._wanted()
        for leader, source in list(self._in.items()):
            if leader not in wanted and now > source.not_before + DRAIN_S:
                del self._in[leader]
                self._mirrors.pop(leader, None)
                self._compared.pop(leader, None)
            else:
                old = now - self._compared.get(leader, now) > COMPARE_S
                uncovered = not wanted.get(leader, frozenset()) <= source.covered
                source.anew = source.anew or (source.complete and (old or uncovered))
                self._ask(leader)
        for device, out in list(self._out.items()):
            if out.silent(now) or not self._told():
                del self._out[device]
            else:
                self._send(device, out.sign())
        self._judge()
        self._listen()

    def _work(self, job: Callable[[], Result], then: Callable[[Result], None]) -> None:
        """Do ``job`` in the worker, after those before it, and ``then`` in the loop."""

        def done(future: asyncio.Future[Result]) -> None:
            if not future.cancelled():
                then(future.result())

        self._loop.run_in_executor(self._worker, job).add_done_callback(done)

    def _count(self, job: Callable[[FlowTable], Result], then: Callable[[Result], None]) -> None:
        """Do a job with the connection table, if it is still open."""
        if self._table is not None:
            self._work(partial(job, self._table), then)

    async def close(self) -> None:
        """Stop; entries in the kernel stay as they are."""
        if self._tasks is not None:
            self._tasks.cancel()
            await asyncio.wait([self._tasks])
        table, self._table = self._table, None
        if table is not None:
            self._loop.remove_reader(table.fileno())
        await asyncio.to_thread(self._worker.shutdown)
        if table is not None:
            table.close()


def _changes(
    table: FlowTable, vips: frozenset[bytes], shares: Iterable[frozenset[bytes]]
) -> Mapping[frozenset[bytes], tuple[Chunk, ...]] | None:
    """What changed, for each of ``shares``; None if something was missed."""
    found = table.changes(vips)
    if found.missed:
        return None
    return {share: chunks(found.begun.values(), found.ended, share) for share in shares}


def _everything(table: FlowTable, vips: frozenset[bytes]) -> tuple[Chunk, ...]:
    return chunks(table.all(vips), (), vips)
