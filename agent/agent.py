"""The agent of one device: its parts, and how they are wired together."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping
from random import Random

from agent.carrier import Carrier
from agent.chronicle import Chronicle
from agent.clock import boottime, unix_ms, unix_offset
from agent.conflicts import keep, local_note
from agent.disk import Disk, Loaded
from agent.doors import Doors
from agent.errands import Errands
from agent.estranged import Estranged
from agent.executor import Executor
from agent.fitness import Lateness
from agent.flows import Flows
from agent.history import MAX_ENTRIES, History, two_owners_lately
from agent.inquiry import Inquiries
from agent.joining import ask_to_join
from agent.kernel import Counts
from agent.lasting import Faults
from agent.lastseen import Memory
from agent.loop import Loop
from agent.meter import Sample
from agent.news import News
from agent.operations import Operations
from agent.peers import Peers
from agent.picture import Facts
from agent.settings import Settings
from agent.status import status_of
from agent.steadyclocks import pause_watch
from agent.storage import Storage
from agent.tidings import Tidings
from agent.transport import Transport
from protocol import api
from protocol.changes import Change
from protocol.config import Config
from protocol.conflicts import Conflict
from protocol.effects import (
    Adopt,
    Connect,
    Dialled,
    Event,
    Input,
    Lossy,
    Outcome,
    Pace,
    Received,
    Resume,
    Stop,
    WallClock,
)
from protocol.errors import Refused, TimedOut
from protocol.hearing import link_reports
from protocol.ids import NO_REVISION, DeviceId, GroupId
from protocol.joining import JoinReply, JoinRequest
from protocol.messages import Inquire, Message, Moved, Report
from protocol.node import Node
from protocol.objects import Device
from protocol.token import JoinToken
from protocol.view import NodeView

STOP_S = 3.0
"""Seconds that a clean stop waits for its successors."""

_log = logging.getLogger("halb")


class Agent:
    """One device of a Site, or one that waits for ``init`` or ``join``."""

    def __init__(self, settings: Settings, disk: Disk, loaded: Loaded, version: str) -> None:
        self.settings = settings
        self.version = version
        self.device: DeviceId = disk.identity.device
        self.keys = disk.identity.keys
        self.notes = loaded.notes
        self.conflicts = loaded.conflicts
        self.history = History(settings.state_dir, report=_log.warning, beside=True)
        self.errands = Errands()
        self.news = News()
        self.lateness = Lateness()
        self.faults = Faults()
        self._incarnation = loaded.incarnation
        self._random = Random(secrets.randbits(128))
        self._storage = Storage(disk, loaded.ballots, self.deliver)
        self._transport = Transport(
            device=self.device,
            keys=self.keys,
            incarnation=loaded.incarnation,
            listen=settings.addresses,
            receive=self._on_message,
            dialled=lambda device: self.deliver(Dialled(device)),
        )
        self.inquiries = Inquiries(
            self.device, self._transport.send, self._report, self._neighbours
        )
        tidings = Tidings(self._transport.send, self._neighbours)
        self._chronicle = Chronicle(self.device, self.history, tidings, self.news.publish)
        self._operations = Operations(self)
        self._doors = Doors(settings, self.keys, self._operations)
        self._estranged = Estranged(
            self.keys, lambda: self.config, self.view, self.as_device,
            self.deliver, self.news.publish,
        )  # fmt: skip
        self._carrier: Carrier | None = None
        if not settings.witness:
            flows = Flows(self.device, loaded.incarnation, self._transport.send, self)
            now = asyncio.get_running_loop().time
            memory = Memory(loaded.gateways, self._storage.save_gateways, time.time, now)
            self._carrier = Carrier(
                self.device, settings, self._random, self.deliver, flows, self, memory
            )
        self._peers = Peers(self._transport)
        self._loaded = loaded
        self._loop = Loop(self._new_node(), self._on_woken, pause_watch())
        self._stopped = asyncio.Event()

    # Life

    async def start(self) -> None:
        """Take up work; raises HalbError with the remedy where this host does not allow it."""
        await self._transport.start()
        await self._doors.listen()
        if self._carrier is not None:
            await self._carrier.start(self._transport.send, self.primary_of)
        executor = Executor(
            send=self._transport.send, storage=self._storage, carrier=self._carrier, listener=self
        )
        if self.config.site is not None:
            self.on_config(self.config)
        elif self._carrier is not None:
            self._carrier.on_config(self.config)
        self._loop.start(executor.carry_out)
        self._estranged.start()
        await self._doors.open()

    def _new_node(self) -> Node:
        loaded = self._loaded
        return Node(
            device=self.device,
            config=loaded.config or Config(),
            committed=loaded.committed,
            in_force=loaded.in_force,
            ballots=loaded.ballots,
            now=boottime(),
            random=self._random,
            incarnation=self._incarnation,
            version=self.version,
            ballots_lost=loaded.ballots_lost,
            unix_offset=unix_offset(),
            local=loaded.local,
        )

    async def stop(self) -> None:
        """Hand everything over, then leave nothing behind."""
        if self.in_site:
            try:
                await self.step_aside()
            except TimedOut:
                _log.warning("stopped without a successor for some Virtual Servers")
        await self.close(leave_nothing=True)

    async def close(self, *, leave_nothing: bool) -> None:
        await self._doors.close()
        await self._estranged.close()
        self._peers.close()
        self._loop.close()
        await self._transport.close()
        if self._carrier is not None:
            await self._carrier.close(leave_nothing=leave_nothing)
        self._storage.close()
        self.history.file.close()

    # The core

    def deliver(self, item: Input) -> None:
        """Hand an input to the core."""
        self._loop.deliver(item)

    async def _report(self, request: str, group: GroupId | None) -> Report:
        """What this device tells another one's operator."""
        seen = await self._carrier.gateways_seen(group) if self._carrier and group else ()
        node, now = self._loop.node, boottime()
        links = link_reports(node.beats.contacts, self._transport.loss(), now)
        mtu = self._carrier.outlook.mtu() if self._carrier else 0
        own = None if group is None else node.report(group, now)
        return Report(request, links, own, gateways=seen, mtu=mtu)

    def _neighbours(self) -> tuple[tuple[DeviceId, ...], bool]:
        overlay = self._loop.node.neighbourhood.overlay
        return overlay.peers(), overlay.full_mesh

    def _on_woken(self, due: int, now: int) -> None:
        late = self.lateness.note(due, now)
        if late is not None:
            self.deliver(Pace(late))
            self.deliver(WallClock(unix_offset()))
            self.deliver(Lossy(self._transport.lossy()))

    def _on_message(self, sender: DeviceId, message: Message) -> None:
        if isinstance(message, Moved):
            self._chronicle.heard(sender, message)
        elif isinstance(message, Inquire | Report):
            self.inquiries.on_message(sender, message)
        elif self._carrier is None or not self._carrier.on_message(sender, message):
            self.deliver(Received(sender, message))

    def on_config(self, config: Config) -> None:
        """A newer configuration is committed: speak as it says, carry its services."""
        assert config.site is not None
        self._transport.enter_site(config.site.id, config.site.protocol)
        self._doors.on_config(config)
        if self._carrier is not None:
            self._carrier.on_config(config)
        self.news.publish()

    def on_connect(self, connect: Connect) -> None:
        """Connect to the core's choice of devices."""
        site = self.config.site or self._loop.node.configuration.newest.site
        assert site is not None
        self._transport.enter_site(site.id, site.protocol)
        self._peers.on_connect(connect)

    def on_event(self, event: Event) -> None:
        """Something worth remembering happened: log it, and tell everyone of a move."""
        marks = {} if self._carrier is None else self._carrier.on_event(event)
        self._chronicle.happened(event, self.config, marks)

    def on_verified(self, group: GroupId, took_ns: int) -> None:
        """The network has learnt of a takeover by this device, so long after the announcement."""
        self._chronicle.verified(group, self.name, took_ns)

    def on_conflict(self, conflict: Conflict) -> None:
        """Keep what the Site did not take; the worker writes it before what replaces it."""
        self.conflicts = keep(self.conflicts, conflict, unix_ms())
        self._storage.save_conflicts(self.conflicts)

    def on_outcome(self, outcome: Outcome) -> None:
        self.errands.end(outcome)

    def on_stopped(self) -> None:
        self._stopped.set()

    # What operations use

    @property
    def name(self) -> str:
        """Name of this device, in its Site if it has one."""
        known = self.config.devices.get(self.device)
        return known.name if known else self.settings.name

    @property
    def config(self) -> Config:
        """The configuration in force, with what this device's operator changed locally."""
        return self._loop.node.configuration.in_use

    @property
    def in_site(self) -> bool:
        return self._loop.node.configuration.in_site

    @property
    def removed_from(self) -> str:
        """Name of the Site that this device was removed from, if it was, as far as it knows."""
        return self._estranged.removed_from

    def view(self) -> NodeView:
        return self._loop.node.view()

    async def connections(self) -> Counts | None:
        return await self._carrier.kernel.connections() if self._carrier else None

    async def samples(self) -> tuple[Sample, Sample] | None:
        """Traffic now, and some time ago; None on a witness."""
        return await self._carrier.meter.sample() if self._carrier else None

    def frames(self) -> Mapping[str, int]:
        """Frames from other devices, by their fate."""
        return self._transport.counters()

    async def status(self, counts: Counts | None) -> api.Status:
        """What ``halbctl status`` shows."""
        carrier = self._carrier
        view = self.view()
        facts = Facts(
            device=self.device,
            name=self.name,
            version=self.version,
            applied=self._loop.node.roster.applied,
            since={g.group: g.since for g in view.groups if g.leader == self.device},
            connections=counts,
            down=carrier.checks.reasons() if carrier else {},
            shares=carrier.balancer.notes() if carrier else {},
            unheard=self._loop.node.roster.unheard,
            lossy=self._loop.node.roster.lossy,
            drift=tuple(carrier.kernel.drift) if carrier else (),
            notes=self._notes(view),
        )
        return await status_of(view, self.config, facts)

    def _notes(self, view: NodeView) -> tuple[str, ...]:
        profiles = {server.profile for server in self.config.virtual_servers.values()}
        found = [
            self._estranged.note,
            local_note(view.local),
            *self.notes,
            *self.history.file.notes,
            *two_owners_lately(self.history.query(limit=MAX_ENTRIES), unix_ms()),
            self._storage.problem,
            self.history.file.trouble,
            self.lateness.warning(profiles),
            *(self._carrier.warnings() if self._carrier else ()),
        ]
        return tuple(note for note in found if note)

    @property
    def carrier(self) -> Carrier:
        """What a witness does not have; raises Refused there."""
        if self._carrier is None:
            raise Refused("a witness carries nothing", "Ask a device that does.")
        return self._carrier

    def primary_of(self, group: GroupId) -> DeviceId | None:
        return self._loop.node.offices.holder(group)[0]

    def primary_name(self, group: GroupId) -> str | None:
        """Name of a group's primary as far as known here."""
        known = self.config.devices.get(self.primary_of(group) or DeviceId(""))
        return known.name if known else None

    async def precheck(self, change: Change) -> None:
        """Raise if this host shows that the change cannot work."""
        if self._carrier is not None:
            await self._carrier.precheck(change)

    def as_device(self) -> Device:
        """This device as the configuration describes one."""
        return Device(
            id=self.device,
            name=self.settings.name,
            public_key=self.keys.public,
            addresses=self.settings.addresses,
            joined=1,
            witness=self.settings.witness,
        )

    # Entering and leaving a Site

    def enter_site(self, config: Config) -> None:
        """Take ``config`` as the first configuration of this device."""
        self.deliver(Adopt(config))

    async def ask_to_join(
        self, token: JoinToken, request: JoinRequest, seconds: float
    ) -> JoinReply:
        return await ask_to_join(token, request, self.keys, seconds)

    async def step_aside(self) -> None:
        """Hand everything over, and forward what still comes here; raises TimedOut if handing
        over takes too long."""
        self._stopped.clear()
        self.deliver(Stop())
        try:
            await asyncio.wait_for(self._stopped.wait(), STOP_S)
        except TimeoutError as error:
            raise TimedOut(
                f"not everything was handed over within {STOP_S:g} s", "Look at `halbctl status`."
            ) from error
        finally:
            if self._carrier is not None and self._carrier.vips is not None:
                await self._carrier.vips.forwarded()

    def come_back(self) -> None:
        """Undo :meth:`step_aside`."""
        self.deliver(Resume())

    async def forget_site(self) -> None:
        """Begin anew, outside any Site."""
        self._estranged.forget()
        self._storage.forget_site()
        self._loaded = Loaded(
            ballots={}, config=None, committed=NO_REVISION, incarnation=self._incarnation, notes=()
        )
        # At once: whatever the old one wanted then would be done to what is forgotten.
        self._loop.node = self._new_node()
        self._peers.forget()
        self._transport.enter_site("")
        self._doors.on_config(Config())
        if self._carrier is not None:
            await self._carrier.withdraw()
        self.news.publish()
