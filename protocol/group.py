"""One group on one device: who is primary, decided by leased election.

    WAITING ──> SECONDARY <──> CANDIDATE ──> ELECT ──> PRIMARY ──> LAME_DUCK
                    ^──────────────┴───────────┴──────────┴────────────┘

A secondary that misses the primary asks the others first (PreVote), becomes a
candidate only when a majority misses it too, and starts a lease only from a
fresh majority round. A primary refreshes its lease only on fresh acks, and
gives up by its own clock before any promise that the lease rests on ends.
Within one step messages come before timers: late is not silent.
"""

from __future__ import annotations

from random import Random

from protocol.alone import Alone
from protocol.candidacy import Candidacy
from protocol.damping import Damping
from protocol.effects import Acquire, Event, Lame, Refresh, Release
from protocol.ids import DeviceId
from protocol.lease import Lease
from protocol.messages import Answer, Ask, Claim, HandOver, Reason, Refusal, Resign, Vote, Voted
from protocol.outbox import Outbox
from protocol.timing import DRAIN_NS, NEVER, Profile, Timing
from protocol.view import Role
from protocol.voter import Electorate, Voter

UNANSWERED = "the successor did not take over in time"


class Group:
    """Role and lease of one device in one group. Times are its own clock, nanoseconds."""

    def __init__(self, voter: Voter, *, random: Random, now: int) -> None:
        self.voter = voter
        self.group = voter.group
        self.me = voter.me
        self.timing = voter.timing
        self.vips: tuple[str, ...] = ()
        """None in the coordinator's group."""
        self.profile = Profile.NORMAL
        """That of the lease of ``vips``."""
        self.random = random
        self.role = Role.WAITING if now < voter.abstain_until else Role.SECONDARY
        self.unfit = ""
        """Why this device may not become primary; empty if it may."""
        self.outdated = ""
        """Why a device in order carries the group better than this one does; or empty."""
        self.damping = Damping()
        self.stopping = False
        self.lease = Lease()
        self.candidacy = Candidacy(voter)
        self.alone = Alone(self)
        self.claimed_from = 0
        """Epoch of this device's list of claims from which on the group is in it."""
        self.abort_at = NEVER
        self.successor: DeviceId | None = None
        self.predecessor: DeviceId | None = None
        """Who handed over to this candidate; None in an election."""
        self.timeline: dict[str, int] = {}

    # Views

    @property
    def claims(self) -> bool:
        """Whether this device's beats claim the group."""
        return self.role in (Role.PRIMARY, Role.ELECT)

    def claim(self) -> Claim:
        number = self.voter.electorate.number
        return Claim(self.group, self.voter.term, number, self.timing.interval)

    def may_campaign(self) -> bool:
        """Whether this device may stand for primary at all."""
        voter = self.voter
        hindered = voter.lacks or self.unfit or self.stopping
        return self.me in voter.electorate.carriers and not hindered

    # Configuration and fitness

    def reconfigure(
        self, electorate: Electorate, vips: tuple[str, ...], out: Outbox, now: int
    ) -> None:
        """Take a newer assignment into force; addresses follow it at once."""
        self.voter.electorate = electorate
        gone = tuple(v for v in self.vips if v not in vips)
        new = tuple(v for v in vips if v not in self.vips)
        self.vips = vips
        if gone:
            out.do(Release(self.group, gone))
        if new and self.role is Role.PRIMARY:
            self._acquire(new, now, out)
        self.lease.keep(electorate.voters)

    def retime(self, timing: Timing, profile: Profile, now: int, out: Outbox) -> None:
        """Change the profile. A lease under way is not stretched: the next beat renews it."""
        if self.role is Role.ELECT or (self.role is Role.PRIMARY and self.alone.since is not None):
            self.resign(now, out)
        self.lease.retime()
        self.timing = self.voter.timing = timing
        self.profile = profile

    # Messages as a voter

    def on_claim(self, sender: DeviceId, claim: Claim, now: int, out: Outbox) -> Refusal | None:
        """A primary's claim within a beat: follow it, or say why not."""
        voter, calm = self.voter, self.role is Role.SECONDARY and not self.timeline
        if calm and voter.follow_on(sender, claim, now, out):
            return None
        reason = voter.refuses_claim(claim)
        if reason is Reason.NONE and claim.term == voter.term and self.claims:
            reason = self.alone.refuses_equal(sender, claim.number)
        self.alone.on_claim(sender, claim, reason is Reason.NONE, now, out)
        if reason is not Reason.NONE:
            return Refusal(self.group, 0 if voter.unwritten else voter.term, reason)
        if self.role not in (Role.WAITING, Role.SECONDARY):
            self._become_secondary(out, now, release=self.role is not Role.LAME_DUCK)
        changed = voter.leader != sender or claim.term != voter.term
        voter.follow(sender, claim, now, out)
        if self.timeline or self.candidacy.vacant_since is not None:
            self.timeline = {}
            self.candidacy.forget()
        if changed:
            out.do(Event("leader", self.group, "follows a primary", claim.term, sender))
        return Refusal(self.group, 0, Reason.DISK) if voter.unwritten else None

    def on_ask(self, sender: DeviceId, ask: Ask, now: int, out: Outbox) -> None:
        self._step_down_if_late(out, now)
        answer = self.voter.answer(sender, ask, now)
        if answer.would_vote and (self.claims or self.alone.opposed(now)):
            answer = Answer(self.group, ask.term, self.voter.term, False, Reason.HEARS_PRIMARY)
        if not ask.stands:
            out.send(sender, answer)
        elif answer.would_vote and self.may_campaign():
            self.candidacy.yields(now)

    def on_vote(self, sender: DeviceId, vote: Vote, now: int, out: Outbox) -> None:
        """A candidate asks for a vote: grant it, refuse it with a reason, or hold the question."""
        self._step_down_if_late(out, now)
        voter = self.voter
        reason = voter.refuses_vote(sender, vote, now)
        if reason is Reason.PROMISED and not self.claims and voter.hold(sender, vote, now):
            return
        if reason is Reason.NONE and (self.claims or self.alone.opposed(now)):
            reason = Reason.PROMISED
        if reason is not Reason.NONE:
            voter.refuse(sender, vote, reason, out)
            return
        if self.role is not Role.WAITING:
            self._become_secondary(out, now, release=False)
        voter.grant(sender, vote, now, out)
        self.candidacy.forget()

    def on_hand_over(self, sender: DeviceId, message: HandOver, now: int, out: Outbox) -> None:
        freed = self.voter.free(sender, message.term, message.to)
        if freed:
            self.damping.note(now)
        if freed and message.to == self.me and self.may_campaign() and self.role is Role.SECONDARY:
            self.timeline = {"silent": now}
            self.campaign(now, out, message.term, sender)

    def on_resign(self, sender: DeviceId, message: Resign, now: int, out: Outbox) -> None:
        if self.voter.forget_promise(sender, message.term, now, out):
            self.candidacy.vacant_since = now
            self.timeline = {"silent": now}

    # Messages as a candidate

    def on_answer(self, sender: DeviceId, answer: Answer, now: int) -> None:
        """A voter says whether it would vote for this device."""
        self.candidacy.note(sender, answer, now)

    def on_voted(self, sender: DeviceId, voted: Voted, now: int, out: Outbox) -> None:
        if self.candidacy.voted(sender, voted) and self.role is Role.CANDIDATE:
            self._count_votes(now, out)

    def campaign(
        self, now: int, out: Outbox, handover_term: int = 0, predecessor: DeviceId | None = None,
        *, alone: bool = False,
    ) -> None:  # fmt: skip
        """Become a candidate of the next term; votes are asked for once that is on disk."""
        aborted = self.role is Role.LAME_DUCK
        self.candidacy.stand(now, out, handover_term=handover_term, aborted=aborted, alone=alone)
        self.predecessor = predecessor
        self.role = Role.CANDIDATE
        self.abort_at = NEVER
        self.timeline = {**self.timeline, "voted": now}

    def on_written(self, now: int, out: Outbox) -> None:
        """The ballot is on disk, and what tells of it goes out now."""
        self.voter.on_written(now)
        if self.role is Role.CANDIDATE and self.candidacy.alone and not self.alone.still_may(now):
            self._become_secondary(out, now)
        elif self.role is Role.CANDIDATE:
            self.candidacy.ask(now, self.random.randrange(self.timing.interval))
            self._count_votes(now, out)

    def _count_votes(self, now: int, out: Outbox) -> None:
        candidacy = self.candidacy
        if not candidacy.won:
            return
        self.timeline["won"] = now
        self.voter.leader = self.me
        # The lease counts from the question: the oldest moment that the votes vouch for.
        self.lease.begin(candidacy.votes, candidacy.asked_at, self.timing)
        self.role = Role.ELECT
        self.abort_at = now + self.timing.step_down
        if not self.may_campaign():
            self.resign(now, out)
        elif now - candidacy.asked_at <= self.timing.fresh and self.alone.may_open(now):
            self._become_primary(now, out)

    def _become_primary(self, now: int, out: Outbox) -> None:
        self.role = Role.PRIMARY
        self.abort_at = NEVER
        self.timeline["acquired"] = now
        self._keep_promise()
        self._acquire(self.vips, now, out, self.predecessor)
        out.do(
            Event("primary", self.group, "became primary", self.voter.term, self.me, self.timeline)
        )
        self.timeline = {}

    # The primary

    def _acquire(
        self, vips: tuple[str, ...], now: int, out: Outbox, predecessor: DeviceId | None = None
    ) -> None:
        self.lease.refreshed(now, self.timing)
        if vips:
            deadline = self.lease.confirmed + self.timing.fresh
            term, lease = self.voter.term, self.timing.lease
            out.do(Acquire(self.group, term, vips, lease, deadline, predecessor))

    def _keep_promise(self) -> None:
        """A primary's own vote is bound as long as its lease can last."""
        self.voter.promise(self.me, self.lease.confirmed + self.timing.promise)
        self.voter.heard = self.lease.confirmed

    def on_acked(self, voter: DeviceId, sent: int, now: int, out: Outbox) -> None:
        """``voter`` acked the beat that was sent at ``sent`` (own clock)."""
        voters = self.voter.electorate.voters
        if self.claims and self.lease.ack(voter, sent, voters, now, self.timing, me=self.me):
            self.alone.reunited(out)
            self.renew(now, out)

    def renew(self, now: int, out: Outbox) -> None:
        """The lease was confirmed anew, by a majority as a rule: open the lease, or renew it."""
        self._keep_promise()
        if self.role is Role.ELECT:
            if not self.may_campaign():
                self.resign(now, out)
            elif self.alone.may_open(now):
                self._become_primary(now, out)
        elif self.lease.lapsed(now):
            # The kernel renews only what still lives; a lapsed lease is opened anew,
            # which a fresh majority permits as it does after an election.
            self._acquire(self.vips, now, out)
        elif self.vips:
            self.lease.refreshed(now, self.timing)
            deadline = self.lease.confirmed + self.timing.fresh
            out.do(Refresh(self.group, self.vips, self.profile, deadline))

    def on_lapsed(self) -> None:
        """The kernel lease is not open although this device is primary."""
        self.lease.lost()

    def on_refused(self, refusal: Refusal, now: int, out: Outbox) -> None:
        """A voter refuses the claim; a higher term ends this one."""
        self.candidacy.known_term = max(self.candidacy.known_term, refusal.term)
        if self.claims and refusal.term > self.voter.term:
            self.alone.on_rival(True, now, out)
            self.step_down(self.timing.interval, now, out)

    def hand_over(self, to: DeviceId, now: int, out: Outbox) -> None:
        """Planned move: announce nothing more, keep forwarding, free the voters for ``to``."""
        assert self.role is Role.PRIMARY
        self.damping.note(now)
        self.role = Role.LAME_DUCK
        self.successor = to
        self.abort_at = now + self.timing.handover_abort
        self.voter.freed_for = to
        if self.vips:
            out.do(Lame(self.group, self.vips, DRAIN_NS))
        for other in self.voter.others:
            out.send(other, HandOver(self.group, self.voter.term, to))
        out.do(Event("lame", self.group, "hands over", self.voter.term, to))

    def resign(self, now: int, out: Outbox) -> None:
        """Give the lease up at once and free all voters."""
        term = self.voter.term
        self._become_secondary(out, now)
        self.voter.promised_to, self.voter.promise_until = None, now
        for other in self.voter.others:
            out.send(other, Resign(self.group, term))

    def _become_secondary(self, out: Outbox, now: int, release: bool = True) -> None:
        if self.role in (Role.PRIMARY, Role.LAME_DUCK) and release and self.vips:
            out.do(Release(self.group, self.vips))
        if self.role is Role.PRIMARY:
            out.do(Event("released", self.group, "gave the lease up", self.voter.term, self.me))
        if self.claims and self.voter.leader == self.me:
            self.voter.leader = None
        if self.role is Role.CANDIDATE:
            out.void(self.group)
        self.role = Role.SECONDARY
        self.abort_at = NEVER
        self.candidacy.standing = False
        self.alone.end()

    def step_down(self, pause: int, now: int, out: Outbox) -> None:
        """Give the lease up, and do not stand for it again for ``pause`` nanoseconds."""
        self._become_secondary(out, now)
        self.candidacy.not_before = now + pause

    def _step_down_if_late(self, out: Outbox, now: int) -> None:
        # The votes may be old, if disks are slow; what renews a lease is fresh.
        ends = self.abort_at if self.role is Role.ELECT else self.lease.ends
        if self.claims and now >= ends:
            self.step_down(2 * self.timing.interval, now, out)

    # Timers

    def on_time(self, now: int, out: Outbox) -> None:
        """Everything that is due at ``now``."""
        voter = self.voter
        if self.role is Role.WAITING and now >= voter.abstain_until:
            self.role = Role.SECONDARY
        if self.role is Role.CANDIDATE and self.stopping:
            # Nobody may be left to vote, and the process would wait for that.
            self._become_secondary(out, now)
        self._step_down_if_late(out, now)
        alone = len(voter.electorate.voters) == 1 and self.claims
        if alone and now - self.lease.confirmed >= self.timing.interval:
            # The only voter is its own majority.
            self.on_acked(self.me, now, now, out)
        if voter.held and now >= voter.promise_until:
            self._answer_held(now, out)
        self.alone.keep(now, out)
        if self.role is Role.LAME_DUCK and now >= self.abort_at:
            self._abort_hand_over(now, out)
        elif self.role in (Role.SECONDARY, Role.CANDIDATE):
            self._seek_office(now, out)
        elif self.role is Role.ELECT:
            self.alone.look(now, out)

    def _answer_held(self, now: int, out: Outbox) -> None:
        held, self.voter.held = self.voter.held, {}
        for sender, vote in held.items():
            self.on_vote(sender, vote, now, out)

    def _abort_hand_over(self, now: int, out: Outbox) -> None:
        out.do(Event("handover-aborted", self.group, UNANSWERED, self.voter.term, self.successor))
        if self.may_campaign():
            self.timeline = {"silent": now}
            self.campaign(now, out)
        else:
            self.resign(now, out)

    def _seek_office(self, now: int, out: Outbox) -> None:
        """As a secondary that misses the primary: gather evidence, then stand."""
        if now < self.candidacy.not_before or not self.may_campaign():
            return
        if self.voter.unwritten:
            self.alone.look(now, out)
            return
        if self.candidacy.ask_if_due(now, out) and "asked" not in self.timeline:
            self.timeline = {"silent": self.voter.heard, "asked": now}
        if self.candidacy.ripe(now) and self.alone.clear(now):
            self.campaign(now, out)
        else:
            self.alone.seek_office(now, out)

    def wake_at(self, now: int) -> int:
        """When :meth:`on_time` is due next."""
        voter, role = self.voter, self.role
        if role is Role.WAITING:
            return voter.abstain_until
        due = NEVER
        if role is Role.SECONDARY or role is Role.CANDIDATE:
            if self.may_campaign():
                seeks = NEVER if voter.unwritten else self.candidacy.due(now)
                due = min(seeks, self.alone.due(now))
        elif role is Role.LAME_DUCK or role is Role.ELECT:
            due = min(self.abort_at, self.alone.due(now) if role is Role.ELECT else NEVER)
        else:
            due = min(self.lease.ends, self.alone.due_as_primary())
            if len(voter.electorate.voters) == 1:
                due = min(due, self.lease.confirmed + self.timing.interval)
        return min(due, voter.promise_until) if voter.held else due

    def forgive(self, now: int) -> None:
        """This process stood still: nothing that it missed meanwhile speaks against others.

        Never shortens or lengthens a promise or a lease.
        """
        if not self.claims:
            self.voter.deaf_until = now + self.timing.fresh
            self.alone.forget()
