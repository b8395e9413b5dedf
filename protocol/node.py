"""A whole device: routes inputs to the parts of the protocol, and their effects out.

``step(now, inputs)`` handles all inputs first and timers after them, then
returns effects in the order in which the shell must carry them out. It never
raises on what peers send; the same code runs in halb-agent and in the
simulator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random

from protocol.beats import Beats, Heartbeat
from protocol.config import Config
from protocol.configuration import Configuration
from protocol.contact import Contact
from protocol.effects import (
    Adopt,
    Ballot,
    BallotsStored,
    ConfigApplied,
    ConfigStored,
    Dialled,
    Effect,
    Event,
    Fitness,
    Force,
    GatewayHealth,
    Input,
    LeaseLapsed,
    Lossy,
    Pace,
    Paused,
    PersistFailed,
    PersistWorks,
    Probed,
    Promote,
    Propose,
    Received,
    Recover,
    Resume,
    Stop,
    Stopped,
    WallClock,
)
from protocol.explain import report_of
from protocol.flows import Behind, Flushed
from protocol.forcing import Forcing
from protocol.groups import Groups
from protocol.ids import NO_REVISION, SITE_GROUP, DeviceId, GroupId, Revision
from protocol.local import Local
from protocol.messages import (
    Answer,
    Append,
    Ask,
    GroupReport,
    HandOver,
    Info,
    Message,
    ProposeChange,
    RequestMove,
    Resign,
    Return,
    ShellMessage,
    Stored,
    Vote,
    Voted,
)
from protocol.moving import Moving
from protocol.neighbourhood import Neighbourhood
from protocol.offices import Offices
from protocol.outbox import Outbox
from protocol.pace import Pace as OwnPace
from protocol.planned import PlannedMoves, Scene
from protocol.preference import Preference
from protocol.requests import Requests
from protocol.rescue import Rescue
from protocol.roster import Roster
from protocol.timing import MILLISECOND
from protocol.tombstones import Retention
from protocol.versions import OURS, Gate, Range, cannot_speak
from protocol.view import NodeView, Role

STALL_NS = 20 * MILLISECOND
"""A step that comes later than this after it was due was missed by this process."""


class Node:
    """The protocol of one device. All times are nanoseconds of its own clock."""

    def __init__(
        self,
        *,
        device: DeviceId,
        config: Config,
        committed: Revision,
        in_force: Config | None = None,
        ballots: Mapping[GroupId, Ballot],
        now: int,
        random: Random,
        incarnation: int,
        version: str,
        ballots_lost: bool = False,
        unix_offset: int = 0,
        retention: Retention = Retention(),  # noqa: B008 - frozen
        local: Local | None = None,
        protocol: Range = OURS,
    ) -> None:
        """``unix_offset``: nanoseconds from this clock to Unix time, until :class:`WallClock`.
        ``in_force``: the configuration at ``committed``, if it is known where ``config`` is newer.
        ``ballots_lost``: a configuration was found on disk but no ballots that
        can be trusted; the device votes again once it has heard a primary.
        """
        self.me = device
        contacts = self.contacts = dict[DeviceId, Contact]()
        self.configuration = Configuration(
            device, config, committed, random, retention, local, Gate(device, protocol), contacts,
            in_force,
        )  # fmt: skip
        self.groups = Groups(
            device, random, ballots, now=now, ballots_lost=ballots_lost, unix=now + unix_offset,
            restarted=self.configuration.restarted,
        )  # fmt: skip
        self.beats = Beats(self.groups.by_id, contacts, incarnation)
        self.groups.heard = self.beats.heard
        self.roster = Roster(version=version, protocol=protocol)
        self.neighbourhood = Neighbourhood(device, incarnation, contacts, self.roster, random)
        self.configuration.others = self.neighbourhood
        self.offices = Offices(device, self.groups, contacts, self.neighbourhood, unix_offset)
        self.configuration.office = self.offices.holder
        self.configuration.term_of = self.groups.term
        self.requests = Requests()
        self.moving = Moving(device)
        self.preference = Preference(device, self.moving.flushes)
        self.planned = PlannedMoves(device, incarnation)
        self.pace = OwnPace()
        self.forcing = Forcing()
        self.rescue = Rescue(
            device, self.configuration, self.requests, self.offices, self.neighbourhood
        )
        self.stopping = self._stopped = False
        self._site_since = self._in_force = NO_REVISION
        self._due = self._chores_due = now
        self._out = Outbox()
        self._follow_configuration(now, self._out, [])

    def step(self, now: int, inputs: Iterable[Input]) -> list[Effect]:
        """Handle ``inputs``, then everything due at ``now``; return what is to be done."""
        out = self._out
        touched: list[GroupId] = []
        if now - self._due > STALL_NS:
            # We were deaf, not they silent: what the peers sent meanwhile is yet to be read.
            self.beats.forgive(now - self._due, now)
            self.groups.forgive(now)
            self.neighbourhood.forgive(now - self._due, now)
        chores = now >= self._chores_due
        for item in inputs:
            if isinstance(item, Received) and isinstance(item.message, Heartbeat):
                self.beats.hear(item.sender, item.message, now, out, touched)
            else:
                chores |= self._is_news(item)
                self._take(item, now, out, touched)
        if chores:
            self._follow_configuration(now, out, touched)
        touched.extend(self.groups.timers.take_due(now))
        for gid in touched:
            if gid in self.groups:
                self.groups[gid].on_time(now, out)
        if chores or touched:
            self._coordinate(now, out)
            self._follow_configuration(now, out, touched)
            self._move(now, out, touched)
            self._settle(now, out, touched)
        self.groups.save_losses(out)
        due = min(self.beats.on_time(now, out), self._chores_due)
        self._due = max(self.groups.next_due(now, due), now + 1)
        return self.planned.sift(out.take())

    def _settle(self, now: int, out: Outbox, touched: list[GroupId]) -> None:
        """After all changes of this step: tell the peers, and plan the next one."""
        self.beats.reclaim(touched, now)
        for gid in touched:
            if gid in self.groups:
                self.groups.timers.set(gid, self.groups[gid].wake_at(now))
            self.offices.note(gid, now)
        if self.configuration.in_site:
            holder, leads = self.offices.holder(SITE_GROUP)[0], self.offices.leads.values()
            peers = self.neighbourhood.settle(
                self.configuration, holder, leads, self.groups.unfit(), now, out
            )
            if peers is not None:
                self.beats.meet(peers, now)
        self._chores_due = min(
            self.roster.wake_at(),
            self.neighbourhood.wake_at(now),
            self.requests.wake_at(),
            self.configuration.wake_at(),
            self.moving.wake_at(),
            self.planned.wake_at(),
            self.preference.wake_at(),
            self.forcing.wake_at(),
            self.rescue.wake_at(),
        )

    def wake_at(self) -> int:
        """When ``step`` must be called at the latest."""
        return self._due

    # Inputs

    def _is_news(self, item: Input) -> bool:
        """Whether chores are due for it: not for what was told before, or is only looked up."""
        match item:
            case Received(sender, Info() as info) if sender in self.contacts:
                return info != self.contacts[sender].info
            case ConfigApplied(revision):
                return revision != self.roster.applied
            case Lossy(peers):
                return peers != self.roster.lossy
        return not isinstance(item, Pace | WallClock)

    def _take(  # noqa: C901 - one case per input is the point
        self, item: Input, now: int, out: Outbox, touched: list[GroupId]
    ) -> None:
        match item:
            case Received(sender, message):
                if sender in self.contacts:
                    self._receive(sender, message, now, out, touched)
                elif isinstance(message, Return):
                    # The answer of a coordinator that was removed, perhaps by this request.
                    self.requests.on_return(sender, message, out)
            case Dialled(device):
                self.neighbourhood.overlay.on_dialled(device, now, out)
            case ConfigStored(revision):
                self.configuration.on_stored(revision, self._site_term(), now, out)
            case BallotsStored(number):
                touched.extend(self.groups.on_written(out.stored(number), now, out))
            case PersistFailed() | PersistWorks():
                works = isinstance(item, PersistWorks)
                self.groups.on_disk(works)
                self.configuration.on_disk(works, out)
                touched.extend(self.groups)
            case Fitness(unfit, outdated):
                self.roster.unfit, self.roster.outdated = unfit, outdated
                self._judge_fitness(touched)
            case Behind(untold):
                self.roster.untold = untold
                self._judge_fitness(touched)
            case Flushed():
                self.moving.flushes.on_flushed(item, self.groups, now, out)
                touched.append(item.group)
            case ConfigApplied() | GatewayHealth() | Lossy():
                self.roster.note(item)
            case WallClock(offset):
                self.offices.unix_offset = offset
            case Pace(late):
                self.pace.loop_late = late
            case LeaseLapsed(groups):
                self.groups.lapse(groups)
            case Paused():
                touched.extend(self.groups.interrupt(item, now, out))
            case Probed(gid) if gid in self.groups:
                self.groups[gid].alone.on_probed(item, now, out)
                touched.append(gid)
            case Propose():
                self.rescue.propose(item, now, out)
            case Promote():
                self.moving.promote(item, self.configuration.in_force, self.requests, now, out)
            case Force():
                config = self.configuration.in_force
                touched.extend(self.forcing.begin(item, config, self.groups, now, out))
            case Recover():
                self.rescue.begin(item, now, out)
            case Adopt(config):
                self.configuration.adopt(config, out)
            case Stop() | Resume():
                if self.roster.stopping:
                    self.neighbourhood.membership.renew()
                self.stopping = isinstance(item, Stop)
                self._stopped = self.roster.stopping = False
                self._judge_fitness(touched)

    def _receive(
        self, sender: DeviceId, message: Message, now: int, out: Outbox, touched: list[GroupId]
    ) -> None:
        self.contacts[sender].heard = now
        if isinstance(message, ShellMessage | Heartbeat):
            return
        match message:
            case Info():
                self.neighbourhood.on_info(sender, message, now)
            case Ask() | Answer() | Vote() | Voted() | HandOver() | Resign():
                if self.groups.deliver(sender, message, now, out):
                    touched.append(message.group)
            case Append() | Stored():
                if self.groups.outgrow(SITE_GROUP, message.term, now, out):
                    touched.append(SITE_GROUP)
                    self.configuration.take_office(None, now, out)
                self.configuration.on_word(sender, message, self._site_term(), now, out)
            case ProposeChange():
                self.configuration.on_propose(sender, message, now, out)
            case RequestMove():
                self.moving.request(sender, message, self.groups, self.contacts, now, out)
                touched.append(message.group)
            case Return():
                self.requests.on_return(sender, message, out)
            case _:
                self.neighbourhood.receive(sender, message, self.configuration, now, out)
        # What is said to be in force is so for the votes that are asked for next.
        self._follow_configuration(now, out, touched)

    # Configuration

    def _site_term(self) -> int:
        """Term of the newest coordinator election that this device took part in."""
        group = self.groups.get(SITE_GROUP)
        return group.voter.term if group is not None else 0

    def _follow_configuration(self, now: int, out: Outbox, touched: list[GroupId]) -> None:
        """Groups and contacts are as the stored and the committed configuration say."""
        configuration = self.configuration
        if configuration.durable != self._site_since:
            self._site_since = configuration.durable
            self._meet(now)
            self.groups.follow_site(configuration.newest, configuration.durable, now, out)
            touched.append(SITE_GROUP)
        if configuration.in_force.revision != self._in_force:
            self._in_force = configuration.in_force.revision
            self._meet(now)
            touched.extend(self.groups.follow(configuration.in_force, now, out))
            # Claims of groups that end are withdrawn while their voters are still known.
            self.beats.reclaim(touched, now)
            self.groups.dissolve(configuration.in_force)
            self._judge_fitness(touched)

    def _meet(self, now: int) -> None:
        self.neighbourhood.follow(self.configuration.in_force, self.configuration.newest, now)
        self.beats.meet(self.neighbourhood.overlay.peers(), now)

    def _judge_fitness(self, touched: list[GroupId]) -> None:
        device = self.configuration.in_force.devices.get(self.me)
        drained = device is not None and device.drained
        reason = cannot_speak(self.configuration.in_force, self.roster.protocol)
        unfit = dict.fromkeys(self.groups, reason) if reason else dict(self.roster.unfit)
        touched.extend(self.groups.judge(unfit, drained, self.stopping))
        old, untold = dict(self.roster.outdated), dict(self.roster.untold)
        touched.extend(self.groups.fall_behind(old, untold))

    def _coordinate(self, now: int, out: Outbox) -> None:
        """Carry out what operators asked of this device, as coordinator and as primary."""
        site = self.groups.get(SITE_GROUP)
        term = site.voter.term if site is not None and site.role is Role.PRIMARY else None
        self.configuration.take_office(term, now, out)
        for message in self.requests.on_time(self.offices.to_ask, self.me, now, out):
            if isinstance(message, ProposeChange):
                taken = self.configuration.on_propose(None, message, now, out)
            else:
                taken = self.moving.request(None, message, self.groups, self.contacts, now, out)
            if taken:
                self.requests.taken(message)
        self.configuration.on_time(now, out)
        self.rescue.on_time(now, out)
        wanted = (*self.requests.addressees(), *self.rescue.awaited)
        self.neighbourhood.call(wanted, self.configuration.coordinator, now)

    def _move(self, now: int, out: Outbox, touched: list[GroupId]) -> None:
        """Planned moves: what operators asked for, drain, clean stop."""
        contacts, config = self.contacts, self.configuration.in_force
        unix = now + self.offices.unix_offset
        self.planned.on_time(Scene(config, self.groups, self.requests, now, unix, out))
        touched.extend(self.moving.on_time(self.groups, contacts, now, out))
        self.forcing.on_time(self.groups, now, out)
        down = self.roster.gateways_down
        touched.extend(self.preference.on_time(config, self.groups, contacts, down, now, out))
        late = self.pace.judge(self.groups, contacts, now)
        self.roster.late = self.roster.late if late is None else late
        if self.stopping and not self._stopped and not self.groups.hold_any():
            self._stopped = self.roster.stopping = True
            out.do(Event("stopped", None, "stopped cleanly", device=self.me))
            self._settle(now, out, touched)
            out.do(Stopped())

    def report(self, gid: GroupId, now: int) -> GroupReport | None:
        """This device's part in a group, in its own words; None if it has none."""
        group, config = self.groups.get(gid), self.configuration.in_force
        return report_of(group, config, self.roster, self.contacts, now) if group else None

    def view(self) -> NodeView:
        """What this device knows now."""
        config = self.configuration.in_force
        return NodeView(
            groups=self.offices.views(config, self._due),
            peers=self.neighbourhood.peers(self._due),
            stored=self.configuration.stored,
            committed=config.revision,
            lagging=self.neighbourhood.lagging.devices(self._due),
            coordinator=self.offices.holder(SITE_GROUP)[0],
            local=self.configuration.local,
        )
