"""S2, S3 and S4: terms, votes and promises, seen from outside of the core.

Promises are followed by what each voter *says*: an ack renews the promise to
the sender of the beat, a granted vote is a promise to the candidate. Whoever
then grants a vote to another device before that promise ran out on its own
clock, and without having been freed, breaks S4, also across restarts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.config import Config
from protocol.effects import Ballot
from protocol.ids import SITE_GROUP, DeviceId, GroupId
from protocol.messages import Ack, Beat, Claim, HandOver, Resign, Stored, Vote, Voted

if TYPE_CHECKING:
    from tests.sim.checkers import Checker
    from tests.sim.shell import Process


@dataclass(slots=True)
class Promise:
    """A voter's promise, as its own messages gave it."""

    holder: DeviceId
    term: int
    until: int
    """Real time at which it ends on the voter's clock."""


class VoteCheck:
    """What every device has said about terms, votes and promises."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self.promises: dict[tuple[DeviceId, GroupId], Promise] = {}
        self._granted: dict[tuple[DeviceId, GroupId, int], DeviceId] = {}
        self._primary: dict[tuple[GroupId, int], tuple[DeviceId, Config | None]] = {}
        self._lists: dict[tuple[DeviceId, DeviceId], tuple[int, tuple[Claim, ...]]] = {}
        self._beats: dict[DeviceId, dict[tuple[DeviceId, int], tuple[Claim, ...]]] = {}
        self._resigned: dict[DeviceId, set[tuple[DeviceId, GroupId, int]]] = {}
        """Resignations heard in a step: what is said in it to those primaries binds no more."""
        self._tokens: dict[tuple[GroupId, int], DeviceId] = {}
        self._freed: dict[tuple[DeviceId, GroupId, DeviceId, int], DeviceId] = {}
        """(voter, group, primary, term) to the successor, of hand-overs that it heard of."""
        self._questions: dict[tuple[DeviceId, DeviceId, GroupId, int], int] = {}
        self._newest: dict[tuple[DeviceId, GroupId], int] = {}
        """Newest term that a device heard a claim of."""

    def restarted(self, device: DeviceId) -> None:
        """A process forgot the lists of claims that it was sent."""
        for pair in [p for p in self._lists if p[0] == device]:
            del self._lists[pair]
        self._beats.pop(device, None)

    def was_named(self, group: GroupId, device: DeviceId) -> bool:
        """Whether a primary ever handed the group over to this device."""
        return any(to == device for (gid, _), to in self._tokens.items() if gid == group)

    def is_primary(self, device: DeviceId, group: GroupId, term: int) -> None:
        """S2: one primary per group and term, where no two sides of a split go on by force."""
        config = self._checker.in_force(device)
        first, there = self._primary.setdefault((group, term), (device, config))
        if first != device and not self._checker.parted(there, config):
            self._checker.fail("S2", f"{group} has primaries {first} and {device} in term {term}")

    # What a device hears

    def begin_step(self, device: DeviceId) -> None:
        if device in self._beats:
            del self._beats[device]
        if device in self._resigned:
            del self._resigned[device]

    def hears_beat(self, device: DeviceId, sender: DeviceId, beat: Beat) -> None:
        if beat.claims is not None:
            self._lists[device, sender] = (beat.epoch, beat.claims)
        epoch, claims = self._lists.get((device, sender), (0, ()))
        if epoch == beat.epoch and claims:
            self._beats.setdefault(device, {})[sender, beat.sent] = claims
            for claim in claims:
                newest = self._newest.get((device, claim.group), 0)
                self._newest[device, claim.group] = max(newest, claim.term)

    def hears_hand_over(self, device: DeviceId, sender: DeviceId, message: HandOver) -> None:
        self._freed[device, message.group, sender, message.term] = message.to

    def hears_resign(self, device: DeviceId, sender: DeviceId, message: Resign) -> None:
        promise = self.promises.get((device, message.group))
        if promise and promise.holder == sender and promise.term <= message.term:
            del self.promises[device, message.group]
        resigned = self._resigned.setdefault(device, set())
        resigned.add((sender, message.group, message.term))

    def hears_vote(self, device: DeviceId, sender: DeviceId, vote: Vote) -> None:
        self._questions[device, sender, vote.group, vote.term] = vote.handover_term

    # What a device says

    def deciding(self, process: Process, ballots: Mapping[GroupId, Ballot]) -> None:
        """Ballots are on their way to the disk; ``process`` still has those before them."""
        for group, ballot in ballots.items():
            if ballot.term > process.ballots.get(group, Ballot()).term + 1:
                # Of votes between the two nobody will hear, nor of what they rested on.
                self.promises.pop((process.machine.id, group), None)

    def persisting(self, process: Process, ballots: Mapping[GroupId, Ballot]) -> None:
        """S3: what is written never goes back, and no vote is changed within a term."""
        durable = process.machine.disk.ballots
        for group, ballot in ballots.items():
            old = durable.get(group, Ballot())
            again = ballot.term == old.term and old.vote not in (None, ballot.vote)
            if ballot.term < old.term or again:
                self._checker.fail("S3", f"{process.name} replaces {old} of {group} by {ballot}")

    def says_stored(self, process: Process, stored: Stored) -> None:
        """S10: no confirmation for a coordinator of an older term than is known."""
        ballot = process.machine.disk.ballots.get(SITE_GROUP, Ballot())
        if stored.term < ballot.term:
            text = f"{process.name} confirms a write of term {stored.term}, knows {ballot}"
            self._checker.fail("S10", text)

    def says_beat(self, process: Process, beat: Beat) -> None:
        for claim in beat.claims or ():
            device = process.machine.id
            self.is_primary(device, claim.group, claim.term)
            self._must_be_durable(process, claim.group, claim.term, device)

    def says_hand_over(self, process: Process, message: HandOver) -> None:
        self._tokens[message.group, message.term] = message.to

    def says_vote(self, process: Process, vote: Vote) -> None:
        """A candidate votes for itself; it has no other primary from then on."""
        device = process.machine.id
        self._keeps_promise(process, device, vote.group, vote.term)
        self.promises.pop((device, vote.group), None)
        self._votes_for(process, vote.group, vote.term, device)

    def says_voted(self, process: Process, to: DeviceId, voted: Voted) -> None:
        if not voted.granted:
            self._checker.seen[f"refused: {voted.reason.name}"] += 1
            return
        group, term, device = voted.group, voted.term, process.machine.id
        self._votes_for(process, group, term, to)
        self._keeps_promise(process, to, group, term)
        if until := self._promise_end(process, group):
            self._promise(device, group, to, term, until)

    def says_ack(self, process: Process, to: DeviceId, ack: Ack) -> None:
        device = process.machine.id
        beats = self._beats.get(device)
        claims = beats.get((to, ack.echo)) if beats else None
        if not claims:
            return
        refused = {r.group for r in ack.refused} if ack.refused else ()
        for claim in claims:
            if claim.group not in refused and (until := self._promise_end(process, claim.group)):
                self._promise(device, claim.group, to, claim.term, until)

    def _promise(
        self, device: DeviceId, group: GroupId, holder: DeviceId, term: int, until: int
    ) -> None:
        """A primary of a newer term replaces an older one; its promise lasts until it resigns."""
        old = self.promises.get((device, group))
        if (holder, group, term) in self._resigned.get(device, ()):
            if old and old.term < term:
                del self.promises[device, group]
        elif old and old.term == term and old.holder == holder:
            if until > old.until and (device, group, holder, term) not in self._freed:
                old.until = until
        else:
            self.promises[device, group] = Promise(holder, term, until)

    def _promise_end(self, process: Process, group: GroupId) -> int:
        """When a promise given in this step ends; 0 where its length is in doubt."""
        bounds = self._checker.bounds(group)
        if bounds is None:
            return 0
        return process.machine.clock.real(process.stepped_at + bounds.promise)

    def _votes_for(self, process: Process, group: GroupId, term: int, to: DeviceId) -> None:
        device = process.machine.id
        first = self._granted.setdefault((device, group, term), to)
        if first != to:
            text = f"{process.name} votes for {first} and {to} in term {term} of {group}"
            self._checker.fail("S3", text)
        self._must_be_durable(process, group, term, to)

    def _must_be_durable(self, process: Process, group: GroupId, term: int, to: DeviceId) -> None:
        ballot = process.machine.disk.ballots.get(group, Ballot())
        # A step may vote in one term and go on to a newer one before it speaks.
        if ballot.term <= term and ballot != Ballot(term, to):
            text = f"{process.name} tells of {Ballot(term, to)} for {group}, on disk is {ballot}"
            self._checker.fail("S3", text)

    def _keeps_promise(self, process: Process, to: DeviceId, group: GroupId, term: int) -> None:
        """S4: a vote for another device than the one promised to needs that one's word."""
        device = process.machine.id
        promise = self.promises.get((device, group))
        now = process.machine.clock.real(process.stepped_at)
        if promise is None or to == promise.holder or promise.until <= now:
            return
        if self._newest.get((device, group), 0) > promise.term:
            return  # A majority elected another primary, so nothing is owed to this one.
        if self._freed.get((device, group, promise.holder, promise.term)) == to:
            return
        token = self._questions.get((device, to, group, term), 0)
        if token == promise.term and self._tokens.get((group, token)) == to:
            self._checker.seen["vote by token alone"] += 1
            return
        left = (promise.until - now) / 1e6
        text = f"{process.name} votes for {to} in {group}, {left:.3f} ms are left of {promise}"
        self._checker.fail("S4", text)
