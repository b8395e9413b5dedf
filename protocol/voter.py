"""The voter's side of one group: its ballot, and the promise behind a lease.

A voter that accepts a primary's beat promises to elect nobody else for 3 T on
its own clock. It forgets neither its term nor its vote (both are on disk
before anyone hears of them: :mod:`protocol.outbox`), and after a restart, which makes it
forget promises, it grants nothing until the longest of them has run out.

The rules are Raft's election rules (Ongaro, "Consensus: Bridging Theory and
Practice", 2014, chapters 3 and 9.6 PreVote) with a leader lease counted from
the send time of the request (Gray and Cheriton, "Leases", 1989).
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import structs

from protocol.arbiter import Pair
from protocol.effects import Ballot
from protocol.ids import SITE_GROUP, DeviceId, GroupId, Revision
from protocol.messages import Answer, Ask, Claim, Reason, Vote, Voted
from protocol.outbox import Outbox
from protocol.timing import HANGS_NS, PROMISE_INTERVALS, Timing

LOST = "lost its votes and waits to hear a primary"


@dataclass(frozen=True, slots=True)
class Electorate:
    """Who takes part in a group, as the configuration in force says."""

    number: int
    """Number of the assignment."""
    voters: tuple[DeviceId, ...]
    carriers: tuple[DeviceId, ...]
    """Voters that may be primary, best rank first."""
    revision: Revision
    """A candidate must have this revision of the configuration, or a newer one."""
    pair: Pair | None = None
    """Somebody may serve alone now, or might still: ask for the VIPs before taking them."""
    lone: bool = False
    """This device and the other one are the voters, and either may serve alone."""


class Voter:
    """One device's vote in one group. Times are nanoseconds of its own clock."""

    def __init__(
        self,
        group: GroupId,
        me: DeviceId,
        timing: Timing,
        electorate: Electorate,
        ballot: Ballot,
        *,
        now: int,
        abstain_until: int,
    ) -> None:
        self.group = group
        self.me = me
        self.timing = timing
        self.electorate = electorate
        self.ballot = ballot
        self.leader: DeviceId | None = None
        """Whose claims are accepted in the present term."""
        self.heard = now
        """When the leader, or the reason to wait for one, was last heard of."""
        self.deaf_until = 0
        """This device stood still: until then it may have beats to read, and is no witness."""
        self.promise_until = 0
        self.promised_to: DeviceId | None = None
        self.freed_for: DeviceId | None = None
        """Successor that the leader named; the promise does not bind against it."""
        self.abstain_until = abstain_until
        self.disk_works = True
        self.unwritten = False
        """The ballot is on its way to the disk, and nobody may hear of it yet."""
        self.voted_at = 0
        """When this device last gave its vote, to whomever."""
        self.refused = False
        """The disk refused that vote, or hung: it may be as quick as ever once it has it."""
        self.took = 0
        """How long the disk took for that vote, at most until it counts as one that refuses."""
        self.held: dict[DeviceId, Vote] = {}
        """Questions that wait for the promise's end."""

    @property
    def term(self) -> int:
        return self.ballot.term

    @property
    def others(self) -> list[DeviceId]:
        """The group's other voters."""
        return [voter for voter in self.electorate.voters if voter != self.me]

    @property
    def lacks(self) -> str:
        """Why this device neither votes nor stands: Reason.DISK, LOST, or empty."""
        return Reason.DISK if not self.disk_works else LOST if self.ballot.lost else ""

    @property
    def votes(self) -> bool:
        """Whether this device is a voter of the group at all."""
        return self.me in self.electorate.voters

    def cast(self, term: int, vote: DeviceId | None, out: Outbox) -> None:
        """Take up ``term`` and, in it, the vote for ``vote``."""
        assert term > self.ballot.term or (
            term == self.ballot.term and self.ballot.vote in (None, vote)
        )
        self._keep(Ballot(term, vote, self.ballot.lost), out)

    def _keep(self, ballot: Ballot, out: Outbox) -> None:
        if self.ballot != ballot:
            self.ballot = ballot
            self.unwritten = True
            out.persist(self.group, ballot)

    def promise(self, to: DeviceId, until: int) -> None:
        """Grant nothing to others before ``until``; a promise is never shortened by this."""
        if self.promised_to == to:
            self.promise_until = max(self.promise_until, until)
        else:
            self.promised_to, self.promise_until = to, until

    def bound_against(self, candidate: DeviceId, now: int) -> bool:
        """Whether a promise to another device forbids a vote for ``candidate``."""
        return (
            now < self.promise_until
            and self.promised_to != candidate
            and self.freed_for != candidate
        )

    def refuses_claim(self, claim: Claim) -> Reason:
        """Why a primary's claim is not accepted; ``Reason.NONE`` if it is."""
        if claim.term < self.term:
            return Reason.STALE_TERM
        if claim.number < self.electorate.number:
            return Reason.STALE_VOTERS
        return Reason.NONE

    def promise_for(self, interval: int) -> int:
        """Length of a promise to a device whose T is ``interval``: the slower of both decides."""
        return max(self.timing.promise, PROMISE_INTERVALS * interval)

    def on_disk(self, works: bool) -> None:
        """The disk takes writes, or refuses them: whoever cannot write votes for nobody."""
        self.disk_works = works
        self.refused = self.refused or not works

    def follow(self, sender: DeviceId, claim: Claim, now: int, out: Outbox) -> None:
        """Accept ``sender`` as primary of the claim's term and promise to it for 3 T."""
        term = claim.term
        if term > self.term:
            self.cast(term, sender, out)
            self.freed_for = None
        if self.ballot.lost and now >= self.abstain_until:
            self._keep(structs.replace(self.ballot, lost=False), out)
        if self.unwritten:
            # It is late for a vote that was given before.
            out.void(self.group)
        self.leader = sender
        self.heard = now
        if self.freed_for is None:
            self.promise(sender, now + self.promise_for(claim.interval))

    def follow_on(self, sender: DeviceId, claim: Claim, now: int, out: Outbox) -> bool:
        """Follow ``sender`` if, as nearly always, it repeats a claim accepted before."""
        same = sender == self.leader and claim.term == self.ballot.term
        if not same or claim.number < self.electorate.number or self.unwritten:
            return False
        self.follow(sender, claim, now, out)
        return True

    def free(self, leader: DeviceId, term: int, successor: DeviceId) -> bool:
        """The leader hands over: its promise no longer binds against ``successor``."""
        if leader != self.leader or term != self.term:
            return False
        self.freed_for = successor
        return True

    def forget_promise(self, leader: DeviceId, term: int, now: int, out: Outbox) -> bool:
        """The leader of ``term`` resigned: its promise is over at once."""
        if leader != self.leader or term != self.term:
            return False
        out.void(self.group)
        if self.promised_to == leader:
            self.promised_to, self.promise_until = None, now
        self.leader = None
        return True

    def outgrow(self, term: int, out: Outbox) -> None:
        """A vote or an office of an older term counts no more."""
        if term > self.term:
            self.cast(term, None, out)
            self.leader = self.freed_for = None

    def _unable(self, number: int, revision: Revision, sender: DeviceId, now: int) -> Reason:
        """Why this voter cannot support ``sender`` whatever it hears."""
        if number < self.electorate.number:
            return Reason.STALE_VOTERS
        # What the candidate has of the configuration, and this device lacks, may be that either
        # of them votes on the coordinator: without this vote nobody could tell this device.
        newer = self.group == SITE_GROUP and revision > self.electorate.revision
        known = number > self.electorate.number or sender in self.electorate.carriers
        if not (newer or (self.votes and known)):
            return Reason.NOT_VOTER
        if revision < self.electorate.revision:
            return Reason.STALE_CONFIG
        if now < self.abstain_until or self.ballot.lost:
            return Reason.STARTING
        return Reason.NONE if self.disk_works else Reason.DISK

    def answer(self, sender: DeviceId, ask: Ask, now: int) -> Answer:
        """PreVote: would a vote be granted, as things stand?"""
        reason = self._unable(ask.number, ask.revision, sender, now)
        if reason is Reason.NONE:
            if ask.term <= self.term:
                reason = Reason.STALE_TERM
            elif self.promised_to not in (None, sender) and self.freed_for != sender:
                if now < max(self.heard + self.timing.would_vote, self.deaf_until):
                    reason = Reason.HEARS_PRIMARY
                elif self.leader is None and self.promise_until - now > self.timing.hold:
                    # Bound by a vote for another candidate: a vote asked for now would
                    # be refused, and only make the terms grow.
                    reason = Reason.PROMISED
        return Answer(self.group, ask.term, self.term, reason is Reason.NONE, reason)

    def refuses_vote(self, sender: DeviceId, vote: Vote, now: int) -> Reason:
        """Why ``sender`` gets no vote now; ``Reason.NONE`` if it may have it."""
        reason = self._unable(vote.number, vote.revision, sender, now)
        if reason is not Reason.NONE:
            return reason
        if vote.term < self.term:
            return Reason.STALE_TERM
        if vote.term == self.term and self.ballot.vote not in (None, sender):
            return Reason.VOTED_OTHER
        handed_over = vote.handover_term == self.term and vote.handover_term > 0
        if self.bound_against(sender, now) and not (handed_over and self.leader != self.me):
            return Reason.PROMISED
        return Reason.NONE

    def grant(self, sender: DeviceId, vote: Vote, now: int, out: Outbox) -> None:
        """Vote for ``sender``; the vote is a promise like that to a primary."""
        self.cast(vote.term, sender, out)
        self.leader = None
        self.freed_for = None
        self.heard = self.voted_at = now
        self.promised_to, self.promise_until = sender, now + self.promise_for(vote.interval)
        out.send(sender, Voted(self.group, vote.term, self.term, True, Reason.NONE))

    def on_written(self, now: int) -> None:
        """The ballot is on disk: a vote for another device is told now, and binds from now on.

        However long that took, this voter waits for the candidate before it stands itself.
        """
        self.unwritten = False
        if self.ballot.vote is None or self.ballot.vote != self.promised_to or self.leader:
            return
        self.took = 0 if self.refused else min(now - self.voted_at, HANGS_NS)
        self.refused = False
        if self.ballot.vote != self.me:
            self.heard = now
            self.promise_until = max(self.promise_until, now + self.timing.promise)

    def refuse(self, sender: DeviceId, vote: Vote, reason: Reason, out: Outbox) -> None:
        out.send(sender, Voted(self.group, vote.term, self.term, False, reason))

    def hold(self, sender: DeviceId, vote: Vote, now: int) -> bool:
        """Keep a question that comes shortly before the promise's end, to answer it then."""
        near = self.promise_until - now <= self.timing.hold
        if near and (sender in self.held or len(self.held) < len(self.electorate.voters)):
            self.held[sender] = vote
            return True
        return False
