"""The groups that this device votes in: formed, changed and dissolved as configured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from random import Random

from msgspec.structs import replace

from protocol.alone import Heard
from protocol.bundle import OfGroup
from protocol.config import Config
from protocol.effects import Ballot, Event, Paused
from protocol.electorates import electorate_of, site_electorate
from protocol.group import Group
from protocol.ids import NO_REVISION, OTHER_GROUPS, SITE_GROUP, DeviceId, GroupId, Revision
from protocol.messages import Answer, Ask, HandOver, Resign, Vote, Voted
from protocol.objects import Assignment
from protocol.outbox import Outbox
from protocol.terms import Origin, turn_of
from protocol.timers import Timers
from protocol.timing import SECOND, SITE_INTERVAL_NS, Timing
from protocol.view import Role
from protocol.voter import Electorate, Voter

TERMS_PER_SECOND = 1024
"""More than any group has elections: so terms from the clock are newer than all before."""

DRAINED = "is drained"
"""A device that could serve, and hands over all the same."""


class Groups(Mapping[GroupId, Group]):
    """Groups by id; :attr:`timers` knows when each is due."""

    def __init__(
        self,
        me: DeviceId,
        random: Random,
        ballots: Mapping[GroupId, Ballot],
        *,
        now: int,
        restarted: bool,
        ballots_lost: bool,
        unix: int,
    ) -> None:
        """``restarted``: promises may have been made before ``now`` and forgotten.

        ``unix``: nanoseconds since 1970, by which a device whose ballots were lost finds a
        term that it cannot have voted in.
        """
        self.me = me
        self.timers = Timers()
        self.disk_works = True
        self.by_id: dict[GroupId, Group] = {}
        self._random = random
        self.heard: Heard = lambda _: None
        self._ballots = dict(ballots)
        self._started = now
        self._restarted = restarted
        self._ballots_lost = ballots_lost
        self._loss_told = not ballots_lost
        self._losers: list[Voter] = []
        """Whose ballots were lost, which is not on disk yet."""
        self._followed = NO_REVISION
        """The configuration in force that the groups are as."""
        self._fresh_term = unix // SECOND * TERMS_PER_SECOND

    def __getitem__(self, gid: GroupId) -> Group:
        return self.by_id[gid]

    def __iter__(self) -> Iterator[GroupId]:
        return iter(self.by_id)

    def __len__(self) -> int:
        return len(self.by_id)

    def term(self, gid: GroupId) -> int:
        """The term of this device's ballot, also in a group that it votes in no more."""
        group = self.by_id.get(gid)
        return group.voter.term if group else self._ballots.get(gid, Ballot()).term

    def outgrow(self, gid: GroupId, term: int, now: int, out: Outbox) -> bool:
        """End what this device does in a term below ``term``; whether there was any."""
        group = self.by_id.get(gid)
        if group is None or term <= group.voter.term:
            return False
        if group.role not in (Role.WAITING, Role.SECONDARY):
            group.resign(now, out)
        group.voter.outgrow(term, out)
        return True

    def lapse(self, groups: Iterable[GroupId]) -> None:
        """The kernel leases of these groups are not open although they should be."""
        for gid in groups:
            if gid in self.by_id:
                self.by_id[gid].on_lapsed()

    def interrupt(self, paused: Paused, now: int, out: Outbox) -> list[GroupId]:
        """The machine was paused: give up what is held or stood for; the groups that changed."""
        held = [
            (gid, group)
            for gid, group in self.by_id.items()
            if group.role not in (Role.WAITING, Role.SECONDARY)
        ]
        for _, group in held:
            group.step_down(group.timing.interval, now, out)
        if held:
            text = f"was paused for {paused.lost / SECOND:.1f} s and gave up what it held"
            out.do(Event("paused", None, text, device=self.me))
        return [gid for gid, _ in held]

    def follow_site(self, config: Config, durable: Revision, now: int, out: Outbox) -> None:
        """The coordinator's group is as the stored configuration says, committed or not.

        Its term is at least that of the configuration: a coordinator never writes
        in a term below that of what it has.
        """
        electorate = site_electorate(config, durable)
        if electorate is None:
            return
        group = self.by_id.get(SITE_GROUP)
        if group is None:
            timing = Timing.from_interval(SITE_INTERVAL_NS)
            group = self._form(SITE_GROUP, electorate, timing, now)
        else:
            group.reconfigure(electorate, (), out, now)
        group.candidacy.origin = Origin(durable.term, turn_of(self.me, config))
        self.outgrow(SITE_GROUP, durable.term, now, out)

    def follow(self, config: Config, now: int, out: Outbox) -> list[GroupId]:
        """The Virtual Servers' groups are as the committed configuration says.

        Returns the groups that may have changed. A group that this device has no
        vote in any more is dissolved, by :meth:`dissolve`, after its resignation.
        """
        if not config.descends_from(self._followed):
            self._give_up(now, out)
        self._followed = config.revision
        mine = {
            uid: assignment
            for uid, assignment in config.assignments.items()
            if self.me in assignment.voters and self.me in config.devices
        }
        for uid in [g for g in self.by_id if g not in mine and g != SITE_GROUP]:
            group = self.by_id[uid]
            if group.role in (Role.PRIMARY, Role.ELECT, Role.LAME_DUCK):
                group.resign(now, out)
        for uid, assignment in mine.items():
            self._follow_one(uid, assignment, electorate_of(config, assignment), now, out)
            server = config.virtual_servers.get(uid)
            self._freeze(uid, server is not None and server.frozen, now, out)
        return [g for g in self.by_id if g != SITE_GROUP]

    def _give_up(self, now: int, out: Outbox) -> None:
        """What was in force here was dropped by force: what others hold may rest on no word of
        those that this device's leases rest on, nor on newer terms."""
        for gid, group in self.by_id.items():
            if gid != SITE_GROUP and group.role not in (Role.WAITING, Role.SECONDARY):
                group.resign(now, out)

    def _freeze(self, uid: GroupId, frozen: bool, now: int, out: Outbox) -> None:
        """From now on only the last primary stands, which it knows by its vote for itself."""
        group = self.by_id[uid]
        began = frozen and not group.candidacy.frozen
        if began and group.role is Role.CANDIDATE and not group.alone.was_primary:
            # Nobody elected it yet.
            self.outgrow(uid, group.voter.term + 1, now, out)
        group.candidacy.frozen = frozen

    def _follow_one(
        self, uid: GroupId, assignment: Assignment, electorate: Electorate, now: int, out: Outbox
    ) -> None:
        group = self.by_id.get(uid)
        if group is None:
            timing = Timing.of(assignment.profile)
            longest = Timing.of(assignment.slowest).promise
            group = self._form(uid, electorate, timing, now, longest)
            group.vips, group.profile = assignment.vips, assignment.profile
            self.outgrow(uid, assignment.term, now, out)
            return
        self.outgrow(uid, assignment.term, now, out)
        if group.voter.electorate != electorate or group.vips != assignment.vips:
            group.reconfigure(electorate, assignment.vips, out, now)
        # Afterwards: leases of new addresses rest on what was confirmed before.
        if group.profile != assignment.profile:
            group.retime(Timing.of(assignment.profile), assignment.profile, now, out)

    def _form(
        self, gid: GroupId, electorate: Electorate, timing: Timing, now: int, longest: int = 0
    ) -> Group:
        """``longest``: of the promises that may have been made before a restart."""
        alone = electorate.voters == (self.me,)
        known = gid in self._ballots or self._restarted
        ballot = self._ballots.get(gid) or self._ballots.get(OTHER_GROUPS, Ballot())
        if ballot.lost or (self._ballots_lost and alone):
            # It started once more before it heard a primary, or there is none to be heard.
            ballot = Ballot(max(ballot.term, self._fresh_term))
        lost = self._ballots_lost and not alone
        voter = Voter(
            gid, self.me, timing, electorate,
            replace(ballot, lost=lost), now=now,
            abstain_until=self._started + max(timing.promise, longest) if known else now,
        )  # fmt: skip
        if lost:
            self._losers.append(voter)
        voter.disk_works = self.disk_works
        group = Group(voter, random=self._random, now=now)
        group.alone.heard = self.heard
        self.by_id[gid] = group
        self.timers.set(gid, now)
        return group

    def save_losses(self, out: Outbox) -> None:
        """Have it written down whose ballots were lost: the next start finds others on disk."""
        if not self._loss_told:
            # Also of groups that this device has not heard of yet, or not again.
            out.persist(OTHER_GROUPS, Ballot(lost=True))
            self._loss_told = True
        for voter in self._losers:
            out.persist(voter.group, voter.ballot)
        self._losers.clear()

    def dissolve(self, config: Config) -> None:
        """Forget the groups that ``config`` gives this device no vote in; ballots are kept."""
        for gid in list(self.by_id):
            assignment = config.assignments.get(gid)
            mine = assignment is not None and self.me in assignment.voters
            if gid != SITE_GROUP and not (mine and self.me in config.devices):
                self._ballots[gid] = self.by_id.pop(gid).voter.ballot
                self.timers.drop(gid)

    def judge(self, unfit: Mapping[GroupId, str], drained: bool, stopping: bool) -> list[GroupId]:
        """Tell each group why this device may not be its primary; the groups that it is news to."""
        changed = []
        for gid, group in self.by_id.items():
            reason = unfit.get(gid, "")
            if drained and gid != SITE_GROUP:
                reason = reason or DRAINED
            if (group.unfit, group.stopping) != (reason, stopping):
                group.unfit, group.stopping = reason, stopping
                changed.append(gid)
        return changed

    def hold_any(self) -> bool:
        """Whether this device holds or seeks an office."""
        held = (Role.PRIMARY, Role.ELECT, Role.LAME_DUCK, Role.CANDIDATE)
        return any(group.role in held for group in self.by_id.values())

    def fall_behind(
        self, outdated: Mapping[GroupId, str], untold: Mapping[GroupId, str]
    ) -> list[GroupId]:
        """Tell each group why others are better than this device; those that it is news to."""
        changed = []
        for gid, group in self.by_id.items():
            old = outdated.get(gid, "")
            behind = old or untold.get(gid, "")
            if (group.outdated, group.candidacy.behind) != (old, behind):
                group.outdated, group.candidacy.behind = old, behind
                changed.append(gid)
        return changed

    def unfit(self) -> list[tuple[GroupId, str]]:
        """Groups that this device may not be primary of now, with the reason."""
        ask = self._ballots_lost or not self.disk_works  # rare, and this is asked at each beat
        found = (
            (gid, (ask and group.voter.lacks) or group.unfit) for gid, group in self.by_id.items()
        )
        return [(gid, why) for gid, why in found if why]

    def deliver(
        self,
        sender: DeviceId,
        message: OfGroup,
        now: int,
        out: Outbox,
    ) -> bool:
        """A message about one group; False where this device has no part in it."""
        group = self.by_id.get(message.group)
        match message:
            case _ if group is None:
                return False
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
                group.on_resign(sender, message, now, out)
                group.alone.on_rival(False, now, out)
        return True

    def on_disk(self, works: bool) -> None:
        """The disk takes writes, or refuses them."""
        self.disk_works = works
        for group in self.by_id.values():
            group.voter.on_disk(works)

    def on_written(self, groups: Iterable[GroupId], now: int, out: Outbox) -> list[GroupId]:
        """The ballots of these are on disk; those of them that still exist."""
        found = [gid for gid in groups if gid in self.by_id]
        for gid in found:
            self.by_id[gid].on_written(now, out)
        return found

    def next_due(self, now: int, before: int) -> int:
        """When the first of them is due, if that is earlier than ``before``."""
        return self.timers.next(now, before, lambda gid: self.by_id[gid].wake_at(now))

    def forgive(self, now: int) -> None:
        """This process stood still until now."""
        for gid, group in self.by_id.items():
            group.forgive(now)
            self.timers.set(gid, now)
