"""When a secondary stands for primary: evidence first, then votes.

It asks the others before it stands (PreVote), so that a device which alone
misses the primary disturbs nobody; devices stand in order of rank, so that
they rarely stand against each other.
"""

from __future__ import annotations

from protocol.evidence import Evidence
from protocol.ids import DeviceId
from protocol.messages import Answer, Ask, Reason, Vote, Voted
from protocol.outbox import Outbox
from protocol.quorum import has_majority
from protocol.terms import Origin
from protocol.timing import NEVER
from protocol.voter import Voter

HANDED_OVER = "the primary handed over to it"
ABORTED = "it had handed over, and no successor came"
RESIGNED = "the primary resigned"
SILENT = "a majority missed the primary"
FIRST = "there had been no primary yet"


class Candidacy:
    """Evidence that the primary is gone, and the votes of a candidacy under way.

    Times are nanoseconds of the device's own clock.
    """

    def __init__(self, voter: Voter) -> None:
        self._voter = voter
        self.not_before = 0
        """No candidacy before this."""
        self.vacant_since: int | None = None
        """The primary resigned: no evidence of its silence is needed."""
        self.standing = False
        """A candidate waits for votes, or for its next try."""
        self.asked_at = 0
        """When the votes of this candidacy were asked for."""
        self.votes: set[DeviceId] = set()
        self.alone = False
        """No votes are needed: the evidence of one of two devices stands for them."""
        self.known_term = 0
        """Highest term heard of, which the next candidacy must exceed."""
        self.origin: Origin | None = None
        """In the coordinator's group: what keeps terms of two sides of a split apart."""
        self.late = ""
        """Why this device is ranked last; empty if it is not."""
        self.behind = ""
        """Why this device lacks flows of the primary, and stands after others; or empty."""
        self.frozen = False
        """Nobody but the last primary stands of its own accord."""
        self.evidence = Evidence()
        self._searching = False
        self._ask_next = 0
        self._hearsay = 0
        """When others last said that they hear the primary, too many to be elected against it."""
        self._answers: dict[DeviceId, int] = {}
        """When each voter last said that it would vote for this device."""

    @property
    def won(self) -> bool:
        """Whether the votes are a majority, or none are needed."""
        return self.alone or has_majority(self._voter.electorate.voters, self.votes)

    def next_term(self) -> int:
        """The term to stand in."""
        newest = max(self._voter.term, self.known_term)
        return self.origin.after(newest) if self.origin else newest + 1

    def forget(self) -> None:
        """There is a primary: what was gathered against the last one is void."""
        self.vacant_since = None
        self._searching = False
        self._answers.clear()

    def stand(
        self, now: int, out: Outbox, *, handover_term: int, aborted: bool, alone: bool
    ) -> None:
        """Vote for this device in the next term, and ask for votes once that is on disk.

        ``aborted``: it had handed over, in vain. ``alone``: no other votes are needed.
        """
        voter, electorate = self._voter, self._voter.electorate
        assert not voter.bound_against(voter.me, now)
        self._explain(handover_term > 0, aborted, now)
        if not handover_term and not alone:
            # Before the ballot, which may take the disk longer than the next in rank waits.
            self._ask_all(out, stands=True)
        voter.cast(self.next_term(), voter.me, out)
        voter.leader = None
        voter.freed_for = None
        # A candidate that holds no lease is free to vote for another in a later term.
        voter.promised_to, voter.promise_until = voter.me, now
        voter.heard = voter.voted_at = now
        question = Vote(
            voter.group, voter.term, electorate.number, electorate.revision,
            voter.timing.interval, handover_term,
        )  # fmt: skip
        for other in voter.others:
            out.send(other, question)
        self.standing = True
        self.alone = alone
        self.vacant_since = None
        self.votes = set()

    def ask(self, now: int, jitter: int) -> None:
        """Votes are asked for now; the next try comes ``jitter`` ns later than the soonest.

        Their disks may take as long as this one did: who stood anew meanwhile would make void
        what they are about to answer.
        """
        self.votes = {self._voter.me}
        self.asked_at = now
        self.not_before = now + self._voter.timing.retry + self._voter.took + jitter

    def _barred(self) -> bool:
        """Whether the group is frozen and this device was not its last primary."""
        last = self._voter.ballot.vote == self._voter.me or self._voter.term == 0
        return self.frozen and not last

    def _explain(self, handed_over: bool, aborted: bool, now: int) -> None:
        """Note for people why this device is about to stand."""
        voter = self._voter
        before = voter.leader or voter.promised_to
        if handed_over:
            cause = HANDED_OVER
        elif aborted:
            cause = ABORTED
        elif self.vacant_since is not None:
            cause = RESIGNED
        else:
            cause = SILENT if voter.term else FIRST
        self.evidence.stands(cause, self.next_term(), None if before == voter.me else before, now)

    def voted(self, sender: DeviceId, voted: Voted) -> bool:
        """A voter's answer to a candidacy; whether it is a vote for the present one."""
        self.known_term = max(self.known_term, voted.known_term)
        if voted.term != self._voter.term:
            return False
        self.evidence.voted(sender, voted)
        if voted.granted:
            self.votes.add(sender)
        return voted.granted

    def note(self, sender: DeviceId, answer: Answer, now: int) -> None:
        """A voter's answer to a question of this device."""
        self.known_term = max(self.known_term, answer.known_term)
        self.evidence.answered(sender, answer)
        if answer.would_vote and answer.term == self.next_term():
            self._answers[sender] = now
            return
        self._answers.pop(sender, None)
        if answer.reason is Reason.HEARS_PRIMARY and not self.backed(now):
            self._hearsay = now

    def rank(self) -> int:
        """Place among the possible successors; the silent primary is not one."""
        voter = self._voter
        gone = voter.promised_to
        ranked = [c for c in voter.electorate.carriers if c != gone or c == voter.me]
        return ranked.index(voter.me) + (len(ranked) if self.late or self.behind else 0)

    def timely(self, now: int) -> bool:
        """Whether silence and promises let this device stand now."""
        voter = self._voter
        return (
            not self._barred()
            and now >= self._stand_at()
            and not voter.bound_against(voter.me, now)
        )

    def ripe(self, now: int) -> bool:
        """Whether silence, promises and the others' word let this device stand now."""
        if not self.timely(now):
            return False
        return self.vacant_since is not None or self.backed(now)

    def backed(self, now: int) -> bool:
        """Whether a majority would vote for this device, as it said a moment ago."""
        return has_majority(self._voter.electorate.voters, self.backers(now))

    def backers(self, now: int) -> set[DeviceId]:
        """Who would vote for this device, as it said a moment ago; this device too."""
        ask = self._voter.timing.ask
        return {self._voter.me, *(v for v, at in self._answers.items() if now - at <= ask)}

    def bound(self, now: int) -> set[DeviceId]:
        """Who voted for this device, and may stand for no other primary yet."""
        return self.votes if now - self.asked_at <= self._voter.timing.step_down else set()

    def ask_if_due(self, now: int, out: Outbox) -> bool:
        """Ask all other voters if it is time, and their word is needed anew; whether it was."""
        if self.vacant_since is not None or now < self._ask_at() or self._barred():
            return False
        if not self._searching:
            self._searching = True
            self.evidence.asks()
        interval = self._voter.timing.interval
        self._ask_next = now + interval // 2
        if self.backed(now + interval):
            return False
        self._ask_all(out)
        return True

    def _ask_all(self, out: Outbox, *, stands: bool = False) -> None:
        voter, electorate = self._voter, self._voter.electorate
        question = Ask(
            voter.group, self.next_term(), electorate.number, electorate.revision, stands
        )
        for other in voter.others:
            out.send(other, question)

    def yields(self, now: int) -> None:
        """Another candidate asks for votes in a moment: do not stand against it meanwhile.

        Its disk may take as long as this one did for the last vote.
        """
        timing = self._voter.timing
        pause = timing.interval + self._voter.took + self.rank() * timing.stagger
        self.not_before = max(self.not_before, now + pause)

    def _ask_at(self) -> int:
        return max(self._voter.heard + self._voter.timing.ask, self._ask_next)

    def _stand_at(self) -> int:
        """The earliest moment to stand, as far as silence decides."""
        voter = self._voter
        stagger = self.rank() * voter.timing.stagger
        if self.vacant_since is not None:
            return self.vacant_since + stagger
        if self.standing:
            return self.not_before
        return self._silent_since() + voter.timing.promise + stagger

    def _silent_since(self) -> int:
        """When the primary was last heard, by this device or by those who could elect it.

        Who missed it while they heard it was cut off from it, and lacks what it said last: so
        one of them stands first.
        """
        return max(self._voter.heard, self._hearsay)

    def due(self, now: int) -> int:
        """When to look again."""
        voter = self._voter
        missed = voter.heard + voter.timing.ask
        waits = self.vacant_since is None and not (self.standing or self.frozen)
        if waits and now < missed:
            return max(missed, self._ask_next, self.not_before)
        if self._barred():
            return NEVER
        stand = self._stand_at()
        if voter.bound_against(voter.me, now):
            stand = max(stand, voter.promise_until)
        if self.vacant_since is None:
            stand = min(self._ask_at(), stand) if now < stand else self._ask_at()
        return max(stand, self.not_before)
