"""A whole device: routes inputs to the parts of the protocol, and their effects out.

``step(now, inputs)`` handles all inputs first and timers after them, then
returns effects in the order in which the shell must carry them out. It never
raises on what peers send; the same code runs in halb-agent and in the
simulator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random

from protocol.beats import Beats
from protocol.config import Config
from protocol.configuration import Configuration
from protocol.effects import (
    Adopt,
    Ballot,
    ConfigApplied,
    ConfigStored,
    Effect,
    Event,
    Fitness,
    GatewayHealth,
    Input,
    LeaseLapsed,
    PersistFailed,
    PersistWorks,
    Promote,
    Propose,
    Received,
    Resume,
    Stop,
    Stopped,
)
from protocol.electorates import electorate_of, site_electorate
from protocol.group import Group
from protocol.ids import NO_REVISION, SITE_GROUP, DeviceId, GroupId, Revision
from protocol.messages import (
    Ack,
    Answer,
    Append,
    Ask,
    Beat,
    HandOver,
    Info,
    Lead,
    Message,
    Moved,
    ProposeChange,
    RequestMove,
    Resign,
    Return,
    Stored,
    Vote,
    Voted,
)
from protocol.moving import Moving
from protocol.outbox import Outbox
from protocol.requests import Requests
from protocol.roster import Roster, leader_told
from protocol.timers import Timers
from protocol.timing import INTERVAL_NS, MILLISECOND, Profile, Timing
from protocol.view import GroupView, NodeView, Role
from protocol.voter import Electorate, Voter

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
        ballots: Mapping[GroupId, Ballot],
        now: int,
        random: Random,
        incarnation: int,
        version: str,
        ballots_lost: bool = False,
        unix_offset: int = 0,
    ) -> None:
        """``unix_offset``: nanoseconds from this clock to Unix time; for display only.

        ``ballots_lost``: a configuration was found on disk but no ballots that
        can be trusted; the device votes again once it has heard a primary.
        """
        self.unix_offset = unix_offset
        self.me = device
        self.random = random
        self.started = now
        self.ballots = dict(ballots)
        self.ballots_lost = ballots_lost
        self.groups: dict[GroupId, Group] = {}
        self.timers = Timers()
        self.beats = Beats(self.groups)
        self.roster = Roster(version=version, incarnation=incarnation, now=now)
        self.requests = Requests()
        self.configuration = Configuration(device, config, committed, random)
        self.moving = Moving(device)
        self.disk_works = True
        self.stopping = False
        self._stopped = False
        self._site_since = NO_REVISION
        self._in_force = NO_REVISION
        self._leads: dict[GroupId, Lead] = {}
        self._due = now
        self._take_site_voters(now)
        self._take_into_force(now, Outbox())

    # The step

    def step(self, now: int, inputs: Iterable[Input]) -> list[Effect]:
        """Handle ``inputs``, then everything due at ``now``; return what is to be done."""
        out = Outbox()
        touched: list[GroupId] = []
        if now - self._due > STALL_NS:
            self._forgive(now - self._due, now)
        for item in inputs:
            self._take(item, now, out, touched)
        self._follow_configuration(now, out, touched)
        touched.extend(self.timers.take_due(now))
        for gid in touched:
            if gid in self.groups:
                self.groups[gid].on_time(now, out)
        self._coordinate(now, out)
        self._follow_configuration(now, out, touched)
        self._move(now, out, touched)
        self._settle(now, out, touched)
        return out.take()

    def _settle(self, now: int, out: Outbox, touched: list[GroupId]) -> None:
        """After all changes of this step: tell the peers, and plan the next one."""
        self.beats.reclaim(touched, now)
        self.beats.on_time(now, out)
        for gid in touched:
            if gid in self.groups:
                self.timers.set(gid, self.groups[gid].wake_at(now))
            self._note_lead(gid, now)
        if self.configuration.in_site:
            info = self.roster.info(self.configuration.stored, self._leads.values())
            self.roster.watch(self.beats.contacts, now, out)
            self.roster.tell(info, self.beats.contacts, now, out)
        self._due = self._next_due(now)

    def wake_at(self) -> int:
        """When ``step`` must be called at the latest."""
        return self._due

    def _next_due(self, now: int) -> int:
        due = min(
            self.timers.next(),
            self.beats.wake_at(),
            self.roster.wake_at(),
            self.requests.wake_at(),
            self.configuration.wake_at(),
            self.moving.wake_at(),
        )
        return max(due, now + 1)

    def _forgive(self, stall: int, now: int) -> None:
        """We were deaf, not they silent: what the peers sent meanwhile is yet to be read."""
        self.beats.forgive(stall, now)
        for gid, group in self.groups.items():
            group.forgive(stall, now)
            self.timers.set(gid, now)

    # Inputs

    def _take(  # noqa: C901 - one case per input is the point
        self, item: Input, now: int, out: Outbox, touched: list[GroupId]
    ) -> None:
        match item:
            case Received(sender, message):
                if sender in self.beats.contacts:
                    self._receive(sender, message, now, out, touched)
            case ConfigStored(revision):
                self.configuration.on_stored(revision, self._site_term(), now, out)
            case ConfigApplied(revision):
                self.roster.applied = revision
            case PersistFailed() | PersistWorks():
                self._on_disk(isinstance(item, PersistWorks), out, touched)
            case Fitness(unfit):
                self.roster.unfit = unfit
                self._judge_fitness(touched)
            case GatewayHealth(down):
                self.roster.gateways_down = down
            case LeaseLapsed(groups):
                for gid in groups:
                    if gid in self.groups:
                        self.groups[gid].on_lapsed()
            case Propose(request, change, if_revision, unix_s, timeout):
                message = ProposeChange(request, change, if_revision, unix_s)
                self.requests.add(message, now, timeout)
            case Promote():
                self.moving.promote(item, self.configuration.in_force, self.requests, now, out)
            case Adopt(config):
                self.configuration.adopt(config, out)
            case Stop() | Resume():
                self.stopping = isinstance(item, Stop)
                self._stopped = self.roster.stopping = False
                self._judge_fitness(touched)

    def _receive(  # noqa: C901 - one case per message is the point
        self, sender: DeviceId, message: Message, now: int, out: Outbox, touched: list[GroupId]
    ) -> None:
        contact = self.beats.contacts[sender]
        contact.heard = now
        match message:
            case Beat():
                self.beats.on_beat(sender, message, now, out, touched)
            case Ack():
                self.beats.on_ack(sender, message, now, out, touched)
            case Info():
                if contact.info is None or message.incarnation >= contact.info.incarnation:
                    contact.info = message
            case Ask() | Answer() | Vote() | Voted() | HandOver() | Resign():
                group = self.groups.get(message.group)
                if group is not None:
                    _deliver(group, sender, message, now, out)
                    touched.append(message.group)
            case Append():
                self.configuration.on_append(sender, message, self._site_term(), out)
            case Stored():
                self.configuration.on_report(sender, message, now, out)
            case ProposeChange():
                self.configuration.on_propose(sender, message, now, out)
            case RequestMove():
                self.moving.request(sender, message, self.groups, self.beats.contacts, now, out)
                touched.append(message.group)
            case Return():
                self.requests.on_return(sender, message, out)
            case Moved():
                pass

    def _on_disk(self, works: bool, out: Outbox, touched: list[GroupId]) -> None:
        self.disk_works = works
        for gid, group in self.groups.items():
            group.voter.disk_works = works
            touched.append(gid)
        self.configuration.on_disk(works, out)

    # Configuration

    def _site_term(self) -> int:
        """Term of the newest coordinator election that this device took part in."""
        group = self.groups.get(SITE_GROUP)
        return group.voter.term if group is not None else 0

    def _follow_configuration(self, now: int, out: Outbox, touched: list[GroupId]) -> None:
        if self.configuration.durable != self._site_since:
            self._take_site_voters(now)
            touched.append(SITE_GROUP)
        if self.configuration.in_force.revision != self._in_force:
            touched.extend(self._take_into_force(now, out))

    def _take_site_voters(self, now: int) -> None:
        """The coordinator's group follows the stored configuration, committed or not."""
        self._site_since = self.configuration.durable
        self._meet(now)
        electorate = site_electorate(self.configuration.newest, self.configuration.durable)
        if electorate is None:
            return
        group = self.groups.get(SITE_GROUP)
        if group is None:
            self._form(SITE_GROUP, electorate, (), Profile.NORMAL, Profile.NORMAL, now)
        else:
            group.reconfigure(electorate, (), Outbox(), now)

    def _meet(self, now: int) -> None:
        """Talk to the devices of the configuration in force and of the newest one.

        Voters that only an uncommitted tail names must hear each other: their
        votes are what commits it.
        """
        known = {**self.configuration.in_force.devices, **self.configuration.newest.devices}
        self.beats.meet(tuple(d for d in known if d != self.me), now)

    def _take_into_force(self, now: int, out: Outbox) -> list[GroupId]:
        """Make devices and groups as the committed configuration says."""
        config = self.configuration.in_force
        self._in_force = config.revision
        self._meet(now)
        mine = {
            uid: assignment
            for uid, assignment in config.assignments.items()
            if self.me in assignment.voters and self.me in config.devices
        }
        touched: list[GroupId] = [SITE_GROUP]
        for uid in [g for g in self.groups if g not in mine and g != SITE_GROUP]:
            self._dissolve(uid, now, out)
            touched.append(uid)
        for uid, assignment in mine.items():
            electorate = electorate_of(config, assignment)
            group = self.groups.get(uid)
            if group is not None and group.profile != assignment.profile:
                group.retime(Timing.of(assignment.profile), assignment.profile, now, out)
            if group is None:
                profile, slowest = assignment.profile, assignment.slowest
                self._form(uid, electorate, assignment.vips, profile, slowest, now)
            elif group.voter.electorate != electorate or group.vips != assignment.vips:
                group.reconfigure(electorate, assignment.vips, out, now)
            touched.append(uid)
        self._judge_fitness(touched)
        return touched

    def _form(
        self,
        gid: GroupId,
        electorate: Electorate,
        vips: tuple[str, ...],
        profile: Profile,
        slowest: Profile,
        now: int,
    ) -> None:
        timing = Timing.of(profile)
        alone = electorate.voters == (self.me,)
        known = gid in self.ballots or self.configuration.restarted
        wait = Timing.of(max(profile, slowest, key=lambda p: INTERVAL_NS[p])).promise
        voter = Voter(
            gid, self.me, timing, electorate, self.ballots.get(gid, Ballot()), now=now,
            abstain_until=self.started + wait if known else now,
            abstain_until_heard=self.ballots_lost and not alone,
        )  # fmt: skip
        voter.disk_works = self.disk_works
        group = Group(voter, vips=vips, profile=profile, random=self.random, now=now)
        self.groups[gid] = group
        self.timers.set(gid, now)

    def _dissolve(self, gid: GroupId, now: int, out: Outbox) -> None:
        """The group is gone, or this device has no vote in it any more."""
        group = self.groups[gid]
        if group.role in (Role.PRIMARY, Role.ELECT, Role.LAME_DUCK):
            group.resign(now, out)
        self.ballots[gid] = group.voter.ballot
        self.beats.reclaim([gid], now)
        del self.groups[gid]
        self.timers.drop(gid)

    def _judge_fitness(self, touched: list[GroupId]) -> None:
        reasons = dict(self.roster.unfit)
        device = self.configuration.in_force.devices.get(self.me)
        for gid, group in self.groups.items():
            reason = reasons.get(gid, "")
            if gid != SITE_GROUP and device is not None and device.drained:
                reason = "is drained"
            if (group.unfit, group.stopping) != (reason, self.stopping):
                group.unfit, group.stopping = reason, self.stopping
                touched.append(gid)

    def _coordinate(self, now: int, out: Outbox) -> None:
        """Carry out what operators asked of this device, as coordinator and as primary."""
        site = self.groups.get(SITE_GROUP)
        in_office = site is not None and site.role is Role.PRIMARY
        term = site.voter.term if site is not None and in_office else None
        self.configuration.take_office(term, now, out)
        for message in self.requests.on_time(self._office, self.me, now, out):
            if isinstance(message, ProposeChange):
                self.configuration.on_propose(None, message, now, out)
            else:
                self.moving.request(None, message, self.groups, self.beats.contacts, now, out)
        self.configuration.on_time(now, out)

    def _move(self, now: int, out: Outbox, touched: list[GroupId]) -> None:
        """Planned moves: what operators asked for, drain, clean stop."""
        touched.extend(self.moving.on_time(self.groups, self.beats.contacts, now, out))
        held = (Role.PRIMARY, Role.ELECT, Role.LAME_DUCK, Role.CANDIDATE)
        holding = any(group.role in held for group in self.groups.values())
        if self.stopping and not self._stopped and not holding:
            self._stopped = self.roster.stopping = True
            out.do(Event("stopped", None, "stopped cleanly", device=self.me))
            self._settle(now, out, touched)
            out.do(Stopped())

    # Views

    def _note_lead(self, gid: GroupId, now: int) -> None:
        group = self.groups.get(gid)
        if group is None or group.role is not Role.PRIMARY:
            self._leads.pop(gid, None)
        elif gid not in self._leads or self._leads[gid].term != group.voter.term:
            since = (now + self.unix_offset) // MILLISECOND
            self._leads[gid] = Lead(gid, group.voter.term, since)

    def _office(self, gid: GroupId) -> tuple[DeviceId | None, int]:
        """(primary, term) of a group as far as known here, by vote or by hearsay."""
        group = self.groups.get(gid)
        if group is not None:
            own = group.voter.leader
            if own == self.me and group.role is not Role.PRIMARY:
                own = None
            if own is not None or group.voter.votes:
                return own, group.voter.term
        told = leader_told(self.beats.contacts.values(), gid)
        return told if told is not None else (None, 0)

    def _since(self, gid: GroupId, leader: DeviceId | None, term: int) -> int:
        if leader == self.me:
            leads: Iterable[Lead] = self._leads.values()
        else:
            contact = self.beats.contacts.get(leader) if leader else None
            leads = contact.info.leads if contact and contact.info else ()
        return next((ld.since for ld in leads if (ld.group, ld.term) == (gid, term)), 0)

    def view(self) -> NodeView:
        """What this device knows now."""
        now = self._due
        config = self.configuration.in_force
        groups = [self._group_view(gid) for gid in (SITE_GROUP, *config.virtual_servers)]
        return NodeView(
            groups=tuple(groups),
            peers=self.roster.peers(self.beats.contacts, now),
            stored=self.configuration.stored,
            committed=config.revision,
            coordinator=self._office(SITE_GROUP)[0],
        )

    def _group_view(self, gid: GroupId) -> GroupView:
        leader, term = self._office(gid)
        group = self.groups.get(gid)
        if group is None:
            assignment = self.configuration.in_force.assignments.get(gid)
            voters = assignment.voters if assignment else ()
            number = assignment.number if assignment else 0
            unfit = "is not assigned to this Virtual Server"
            since = self._since(gid, leader, term)
            return GroupView(gid, Role.SECONDARY, term, leader, number, voters, unfit, since)
        voter = group.voter
        unfit = group.unfit
        if not unfit and self.me not in voter.electorate.carriers:
            unfit = "is a witness"
        if not unfit and group.role is Role.WAITING:
            unfit = "has just started"
        electorate = voter.electorate
        since = self._since(gid, leader, term)
        return GroupView(
            gid, group.role, term, leader, electorate.number, electorate.voters, unfit, since
        )


def _deliver(
    group: Group,
    sender: DeviceId,
    message: Ask | Answer | Vote | Voted | HandOver | Resign,
    now: int,
    out: Outbox,
) -> None:
    match message:
        case Ask():
            group.on_ask(sender, message, now, out)
        case Answer():
            group.on_answer(sender, message, now)
        case Vote():
            group.on_vote(sender, message, now, out)
        case Voted():
            group.on_voted(sender, message, now, out)
        case HandOver():
            group.on_hand_over(sender, message, now, out)
        case Resign():
            group.on_resign(sender, message, now)
