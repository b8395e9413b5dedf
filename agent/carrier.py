"""A device that carries Virtual Servers: kernel, gateways and fitness, kept in step.

Takes the committed configuration and the health of the gateways, makes the
kernel so, and tells the core what this device cannot carry and why.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from random import Random

from agent import addresses, fitness, prechecks
from agent.absences import Absences, Sight
from agent.announce import Announcer
from agent.arbiter import Prober
from agent.balancing import Balancer
from agent.checks import Down, HealthChecks
from agent.clients import Holder, Send, StickyClients
from agent.clock import Deadlines, next_round
from agent.dataplane import DataPlane, Desired, Reconciled
from agent.draining import Draining
from agent.flows import Flows
from agent.gateway_news import GatewayNews, Remembering
from agent.host import HostWatch
from agent.kernel import Kernel
from agent.lasting import lasting
from agent.lastseen import Memory
from agent.lease import KernelLease
from agent.leftovers import Leftovers
from agent.meter import Meter
from agent.neighbour import mac_of
from agent.outlook import Outlook
from agent.passive import Passive
from agent.presence import Presence
from agent.repertoire import repertoire
from agent.settings import Settings
from agent.staying import NEVER, settled
from agent.tracing import Answer, Question, question_of, trace
from agent.views import seen
from agent.vips import Vips
from protocol import api
from protocol.addresses import split_endpoint
from protocol.changes import Change, NoteAbsences, SetGateway
from protocol.clients import ClientsMessage
from protocol.config import Config
from protocol.effects import ConfigApplied, Event, Fitness, GatewayHealth, Input, Propose
from protocol.errors import HalbError
from protocol.flows import FlowsMessage, FlowsWanted
from protocol.ids import DeviceId, GroupId, Revision
from protocol.messages import GatewaySeen, Message
from protocol.objects import VirtualServer
from protocol.timing import SECOND

LOOK_S = 4.0
"""Seconds between two looks at the interface and the leases where the kernel tells nothing."""
FOLLOW_S, IDLE_S = 0.5, 2.0
"""Seconds between two looks at shares and drains, where some change with time and where none."""
SLOTS_MOVE_S = 0.2
"""Seconds after a wish in which the rules that it changes come into force, here and elsewhere."""
SOON_S = 0.01
"""Seconds from the kernel's word to a look: notices come in crowds."""

_log = logging.getLogger("halb.carrier")


class Carrier:
    """The part of the agent that a witness does not have."""

    def __init__(
        self,
        device: DeviceId,
        settings: Settings,
        random: Random,
        deliver: Callable[[Input], None],
        flows: Flows,
        news: Remembering,
        memory: Memory,
    ) -> None:
        self.device = device
        self.flows = flows
        self._random, self._news = random, news
        self.interface = interface = settings.interface
        self._deliver = deliver
        self._config = Config()
        self._loaded: frozenset[GroupId] = frozenset()
        self._refused: dict[GroupId, str] = {}
        self._outdated: dict[GroupId, str] = {}
        self._trouble = ""
        self.outlook = Outlook(interface)
        self._told: Fitness | None = None
        self._plane = DataPlane(interface, settings.addresses, flow_marks=settings.flow_marks)
        self.kernel = Kernel(self._plane, self._on_pass, self._look_soon)
        self._memory, probes = memory, repertoire(settings.checks_dir)
        self.checks = HealthChecks(self._on_health, random, probes=probes, known=memory.down)
        self.clients = StickyClients(device, self.kernel)
        self.host = HostWatch()
        self.meter = Meter(self.kernel.traffic, self.host.on_sample)
        self._loop = asyncio.get_running_loop()
        self.balancer = Balancer(self._loop.time)
        self._desired, self._settles_at, self._deadlines = Desired(), NEVER, Deadlines()
        self.draining = Draining(news.on_event)
        now = self._loop.time()
        self._absences = Absences({key: now - age for key, age in memory.ages.items()}, now)
        self._leftovers = Leftovers()
        self._gateway_news = GatewayNews(news.on_event, news.history.texts)
        self.passive = Passive(self._led, self.checks.suspect)
        self.vips: Vips | None = None
        self.presence: Presence | None = None
        self.prober: Prober | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._soon: asyncio.TimerHandle | None = None

    async def start(self, send: Send, holder: Holder) -> None:
        """Prepare the kernel; raises with the remedy if this host cannot carry anything.

        ``send`` sends to another device, ``holder`` says who is primary of a group.
        """
        await self.kernel.start()
        await self.flows.start()
        self.clients.start(send, holder)
        self.host.start(self._news.on_event)
        self.meter.start()
        lease, announcer = KernelLease(self.interface, self._plane.lacks), Announcer(self.interface)
        self.presence = Presence(
            self.interface, announcer, self._random, self._neighbours_of, self._news, self._mac_of
        )
        self.vips = Vips(lease, announcer, self._deliver, self._addresses_of, self.presence)
        self.prober = Prober(self.interface, announcer, self._deliver, self._mac_of)
        self._look_at_interface()
        self.passive.start()
        create = self._loop.create_task
        self._tasks = (
            create(lasting(self._look_forever), name="look"),
            create(lasting(self._follow_forever), name="follow"),
        )

    # What is wished

    def on_config(self, config: Config) -> None:
        """A newer committed configuration."""
        self._config = config
        self._plane.door.know(config.devices.values())
        self.flows.on_config(config)
        self._leftovers.on_config(config)
        self.checks.set_targets(self._carried())
        self.balancer.observe(self._carried(), self.checks.avoided)
        before = self._desired.virtual_servers
        self._wish()
        if self._desired.virtual_servers == before:  # else they know already
            self.clients.on_config(config, before)
        self._judge()

    def on_event(self, event: Event) -> dict[str, int]:
        """What the core remembers: follow it; further marks of its timeline."""
        self.flows.on_event(event)
        at = self.vips.announced.get(event.group) if self.vips and event.group else None
        return {} if at is None or event.kind != "primary" else {"announced": at}

    def _addresses_of(self, device: DeviceId) -> tuple[str, ...]:
        """Addresses of another device, without ports."""
        known = self._config.devices.get(device)
        return tuple(str(split_endpoint(each)[0]) for each in known.addresses) if known else ()

    @property
    def _held(self) -> Collection[GroupId]:
        """Virtual Servers that this device is primary of."""
        return self.vips.held if self.vips is not None else frozenset()

    def _led(self) -> list[VirtualServer]:
        held = self._held
        return [server for server in self._carried() if server.uid in held]

    async def gateways_seen(self, group: GroupId) -> tuple[GatewaySeen, ...]:
        """This device's view of a group's gateways; none where it does not carry it."""
        server = next((s for s in self._carried() if s.uid == group), None)
        if server is None:
            return ()
        return seen(server, self.checks, await self.kernel.fresh_connections())

    def _neighbours_of(self, group: GroupId) -> list[str]:
        """Who on the segment must know where a group's VIPs are, the most important first."""
        server = self._config.virtual_servers.get(group)
        found = list(self.outlook.routers)
        if server is not None:
            others = [server.arbiter] if server.arbiter else []
            if server.forwarding != "dsr":  # where gateways have the VIP themselves
                others += (g.address for g in server.gateways if g.state != "disabled")
            found += (each for each in others if self.outlook.is_near(each))
        return list(dict.fromkeys(found))

    def _mac_of(self, vip: str) -> bytes | None:
        """Hardware address that a VIP has on every device, if it has one of its own."""
        mac = self._desired.macs.get(vip)
        return None if mac is None else mac_of(mac)

    def warnings(self) -> Iterator[str]:
        """What an operator should know of this host, a sentence each."""
        yield from (*self.checks.troubles(), *map(str, self._plane.lacks))
        yield from self.host.warnings(self._loop.time())
        if self.presence is not None:
            yield from self.presence.warnings(self._name_of)

    def _name_of(self, group: GroupId) -> str:
        server = self._config.virtual_servers.get(group)
        return server.name if server is not None else group

    def _carried(self) -> tuple[VirtualServer, ...]:
        return self.flows.carried()

    def _handed_over(self) -> bool:
        """Whether something that names this device no more is another one's by now."""
        return {s.uid for s in self._carried()} != {s.uid for s in self._desired.virtual_servers}

    def on_stored(self, config: Config) -> None:
        """A newer configuration may be in force on any device as soon as it is committed."""
        if config.virtual_servers != self._config.virtual_servers:
            self.flows.hasten(SLOTS_MOVE_S)

    def _wish(self) -> None:
        now, checks = self._loop.time(), self.checks
        sight = Sight(checks.down, checks.proved, self._held, now, time.time())
        noted = self._absences.observe(self._carried(), sight)
        carried, self._settles_at = settled(noted, self._deadlines)
        assignments = self._config.assignments
        vips = {vs.uid: assignments[vs.uid].vips for vs in carried if vs.uid in assignments}
        before, brief = self._desired, self._absences.brief(now)
        desired = Desired(carried, vips, checks.avoided, self.balancer.moment, brief=brief)
        self._desired = desired
        if self._config.site is None:
            self.kernel.want(None, self._config.revision)
            return
        if desired != before:
            self.flows.hasten(SLOTS_MOVE_S)
        if carried != before.virtual_servers:
            self.clients.on_config(self._config, carried)
        self.kernel.want(desired, self._config.revision)

    def _on_health(self, down: Down) -> None:
        self._deliver(GatewayHealth(tuple(sorted(down))))
        self._memory.note(down, self.checks.reasons(), self.checks.proved)
        self.balancer.observe(self._carried(), self.checks.avoided)
        self._tell_of_gateways()
        self._wish()
        self._propose()

    def _tell_of_gateways(self) -> None:
        checks = self.checks
        self._gateway_news.observe(self._carried(), checks.down, checks.reasons, self._held)

    async def _balance(self) -> None:
        """Let shares follow what happens, in steps."""
        if self.balancer.count_is_due:
            counts = await self.kernel.connections()
            if counts is not None:
                self.balancer.count(counts, self.kernel.counting_s)
        if self._deadlines.now() >= self._settles_at or self._handed_over():
            self.on_config(self._config)
        elif (self.balancer.moment, self._absences.brief(self._loop.time())) != (
            self._desired.moment,
            self._desired.brief,
        ):
            self._wish()

    async def trace(self, op: api.Trace, server: VirtualServer) -> tuple[Question, Answer]:
        """Which gateway a flow goes to by this device's rules."""
        question = question_of(op, server, self._desired)
        evidence = await self.kernel.do(partial(DataPlane.evidence, question=question))
        return question, trace(question, evidence)

    def on_message(self, sender: DeviceId, message: Message) -> bool:
        """What another device says of what its kernel knows; False if it is of something else."""
        if isinstance(message, FlowsMessage):
            self.flows.on_message(sender, message)
        if isinstance(message, ClientsMessage | FlowsWanted):
            self.clients.on_message(sender, message)
        return isinstance(message, ClientsMessage | FlowsMessage)

    # What is

    def _on_pass(
        self, desired: Desired, revision: Revision, done: Reconciled | None, error: str
    ) -> None:
        self._trouble = error
        if done is not None:
            self._refused, self._outdated = dict(done.unfit), dict(done.outdated)
            self._loaded = frozenset(server.uid for server in desired.virtual_servers)
            self._leftovers.on_pass(done.in_force, mended=bool(done.drift))
            self._deliver(ConfigApplied(revision))
            if self.vips is not None:
                self.vips.on_pass(lost=done.lease_lost, moved=done.moved)
        self._judge()

    async def _look_forever(self) -> None:
        assert self.vips is not None
        while True:
            await next_round(LOOK_S)
            try:
                self._look()
                self.vips.check()
            except HalbError as error:
                # Such as a gate that somebody has just removed, and that is about to be mended.
                _log.warning("cannot look at the leases: %s", error.message)

    async def _follow_forever(self) -> None:
        while True:
            await next_round(FOLLOW_S if self.balancer.needed or self._drains() else IDLE_S)
            self._propose()
            self._memory.keep()
            self._tell_of_gateways()
            await self._balance()

    def _drains(self) -> bool:
        return any(g.drain_until for server in self._carried() for g in server.gateways)

    def _propose(self) -> None:
        """Ask as primary to disable gateways whose time to drain is over, and for notes."""
        unix_s, held = int(time.time()), self._held
        changes: list[Change] = [*self.draining.due(self._carried(), held, self._deadlines)]
        if absences := tuple(self._absences.due(held, self._loop.time())):
            changes.append(NoteAbsences(absences))
        for change in changes:
            request = f"own-{secrets.token_hex(8)}"
            # Not what an operator has changed meanwhile.
            revision = self._config.revision if isinstance(change, SetGateway) else None
            self._deliver(Propose(request, change, revision, unix_s, 2 * SECOND))

    def _look_soon(self) -> None:
        if self._soon is None:
            self._soon = self._loop.call_later(SOON_S, self._look)

    def _look(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._look_at_interface():
            self._judge()

    def _look_at_interface(self) -> bool:
        """Read the interface's state; whether it changed."""
        changed = self.outlook.look()
        if self.outlook.moved and self.vips is not None:
            self.vips.move(partial(addresses.own, self.interface))
        self.checks.excuse = fitness.cut_off(self.interface, self.outlook.link)
        return changed

    def _judge(self) -> None:
        host = fitness.Host(
            interface=self.interface,
            link=self.outlook.link,
            networks=self.outlook.networks,
            loaded=self._loaded,
            refused=self._refused,
            trouble=(self._trouble,) if self._trouble else (),
            lost=self.outlook.lost,
        )
        found = fitness.judged(self._config, self.device, host, self._outdated)
        if found != self._told:
            self._told = found
            self._deliver(found)

    async def withdraw(self) -> None:
        """The device left its Site: carry nothing, and leave nothing in the kernel."""
        self.on_config(Config())
        await self.kernel.withdraw()
        # Whatever a pass has told meanwhile: the device may join the same Site again.
        self._loaded = frozenset()

    async def precheck(self, change: Change) -> None:
        """Raise if this host shows that the change cannot work."""
        assert self.vips is not None
        self._look()  # nobody tells of an address that was added
        host = self.outlook.host(self.device)
        await prechecks.check_change(change, self._config, host, self.vips.probe)

    async def close(self, *, leave_nothing: bool) -> None:
        """Stop; with ``leave_nothing`` the kernel is as if HALB had never been there."""
        self.checks.close()
        self._memory.keep(last=True)
        self.draining.close()
        await self._leftovers.close()
        await self.passive.close()
        await self.flows.close()
        await self.clients.close()
        if self._soon is not None:
            self._soon.cancel()
        for task in self._tasks:
            task.cancel()
            await asyncio.wait([task])
        await self.meter.close()
        await self.host.close()
        if self.prober is not None:
            self.prober.close()
        if self.vips is not None:
            self.vips.close()
        await (self.kernel.remove() if leave_nothing else self.kernel.close())
