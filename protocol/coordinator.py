"""The coordinator: orders all writes of the configuration, and replicates them.

It is the primary of the group ``_site``. A term begins with an empty revision
of its own; a revision is committed when a majority of the Site's voters has it
on disk and it is of the coordinator's term (Raft, section 5.4.2), and so is
everything before it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from random import Random

from protocol.assignment import carriers_of, next_edit
from protocol.changes import RemoveGateway, edit_for
from protocol.config import Config, Edit
from protocol.describe import describe
from protocol.effects import Outcome
from protocol.errors import HalbError, NotCommitted, RevisionConflict
from protocol.ids import NO_REVISION, DeviceId, GroupId, Revision
from protocol.messages import Append, ProposeChange, Stored
from protocol.objects import MAX_DETAIL, Assignment, Handled
from protocol.outbox import Outbox
from protocol.quorum import confirmed_by_majority, has_majority
from protocol.replica import Replica
from protocol.timing import MILLISECOND, NEVER, SECOND, Timing, next_round

RESEND_NS = 200 * MILLISECOND
"""A device that did not confirm a revision for this long is sent it again."""
HAND_OVER_NS = 5 * SECOND
"""For so long a primary that is to go is left a voter, for the sake of its hand-over."""
COMMIT_TIMEOUT_NS = 4 * SECOND
"""After this a change that no majority confirmed is reported as not committed."""
NOTHING_TO_CHANGE = "nothing to change"
"""Detail of a change that finds everything as it wishes."""
MAX_REMEMBERED = 1000
"""Recent requests whose outcome is kept, so that a repeated one is not done twice."""


@dataclass(slots=True)
class _Follower:
    """What the coordinator knows of one device's copy; nothing before it reported."""

    stored: Revision | None = None
    committed: Revision | None = None
    terms: Mapping[GroupId, int] = field(default_factory=dict)
    """Its own, of Virtual Servers whose voters change."""
    sent: tuple[Revision, Revision] | None = None
    sent_at: int = 0


@dataclass(frozen=True, slots=True)
class _Pending:
    request: str
    detail: str
    revision: Revision
    """Answered once this is committed."""
    deadline: int
    error: HalbError | None = None
    """Refused; told only when what the refusal rests on is committed."""


class _Since:
    """When assignments were first seen in a state that every look since has found again."""

    def __init__(self) -> None:
        self._before: dict[tuple[GroupId, int], int] = {}
        self._seen: dict[tuple[GroupId, int], int] = {}

    def look(self) -> None:
        """A new look begins: what it does not see is forgotten with the next one."""
        self._before, self._seen = self._seen, {}

    def see(self, assignment: Assignment, now: int) -> int:
        """Since when, own clock, nanoseconds; a change of the assignment begins anew."""
        key = assignment.uid, assignment.number
        return self._seen.setdefault(key, self._before.get(key, now))


class Coordinator:
    """The writing side of the configuration, for as long as this device is coordinator."""

    def __init__(
        self,
        replica: Replica,
        me: DeviceId,
        term: int,
        random: Random,
        audience: Container[DeviceId],
        office: Callable[[GroupId], tuple[DeviceId | None, int]],
        now: int,
        out: Outbox,
    ) -> None:
        """``audience``: the devices that this one is connected to.
        ``office``: who is primary of a Virtual Server, and in which term, as far as this
        device knows.
        """
        self.replica = replica
        self.me = me
        self.term = term
        self.random = random
        self.audience = audience
        self._office = office
        self.awaited: dict[DeviceId, None] = {}
        """Devices whose word is needed for the next change of an assignment."""
        self.followers: dict[DeviceId, _Follower] = {}
        self._pending: list[_Pending] = []
        self._remembered: OrderedDict[str, Outcome] = OrderedDict()
        self._settling = _Since()
        """When majorities were first seen to have an assignment's change in force."""
        self._leaving = _Since()
        """Since when an assignment waits for its primary to hand over."""
        self._idle_until = 0
        """No assignment can be due before this, unless something comes in."""
        self._waits = False
        """Some assignment's change waits for leases from before it to end, or for a hand-over."""
        self._write(Edit(), out)
        self.replicate(now, out)

    # Writes

    def propose(self, asked: ProposeChange, now: int, out: Outbox) -> Outcome | None:
        """Write a change; the outcome if it is known already, else it comes with the commit.

        A request that any coordinator carried out before is answered with the
        revision that it got, once that is committed.
        """
        request, config = asked.id, self.replica.stored
        if request in self._remembered:
            return self._remembered[request]
        if any(p.request == request for p in self._pending):
            return None
        handled = config.handled(request)
        if handled is not None and isinstance(handled.value, Handled):
            self._wait_for(request, handled.value.detail, handled.revision, now)
            return None
        try:
            if asked.if_revision is not None and not config.says_as_at(asked.if_revision):
                raise RevisionConflict(
                    f"the Site is at revision {config.revision}, not {asked.if_revision}",
                    "Read it again, and repeat the change on what you find.",
                )
            edit = edit_for(config, asked.change, unix_s=asked.unix_s, new_uid=self._new_uid)
        except HalbError as error:
            # By then no former coordinator's copy of this request can be kept either.
            self._wait_for(request, "", config.revision, now, error)
            return None
        if edit.put or edit.delete:
            emptied = isinstance(asked.change, RemoveGateway)
            detail = "\n".join(describe(config, edit, emptied=emptied))
            mark = Handled(id=request, detail=detail[:MAX_DETAIL], by=asked.by, unix_s=asked.unix_s)
            revision = self._write(Edit((*edit.put, mark), edit.delete), out)
        else:
            # What makes the change needless may itself not be committed yet.
            detail, revision = NOTHING_TO_CHANGE, config.revision
        self._wait_for(request, detail, revision, now)
        self.replicate(now, out)
        return None

    def _wait_for(
        self,
        request: str,
        detail: str,
        revision: Revision,
        now: int,
        error: HalbError | None = None,
    ) -> None:
        deadline = now + COMMIT_TIMEOUT_NS
        self._pending.append(_Pending(request, detail, revision, deadline, error))

    def _new_uid(self) -> str:
        return f"{self.random.getrandbits(64):016x}"

    def _remember(self, outcome: Outcome) -> Outcome:
        self._remembered[outcome.request] = outcome
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return outcome

    def write(self, edit: Edit, out: Outbox) -> None:
        """A change of the coordinator's own, that no operator asked for."""
        if edit.put or edit.delete:
            self._write(edit, out)

    def collect(self, floor: Revision, out: Outbox) -> None:
        """Let the tombstones up to ``floor`` go, in a revision of its own."""
        self.replica.append(self.replica.stored.collected(floor, self.term), out)

    def _write(self, edit: Edit, out: Outbox) -> Revision:
        self.replica.append(self.replica.stored.edited(edit, self.term), out)
        return self.replica.stored.revision

    # Replication

    def replicate(self, now: int, out: Outbox) -> None:
        """Send each device what it lacks, as far as that is due."""
        config = self.replica.stored
        target = (config.revision, self.replica.committed.revision)
        for device in config.devices:
            if device == self.me or device not in self.audience:
                continue
            follower = self.followers.setdefault(device, _Follower())
            if (follower.stored, follower.committed) == target:
                continue
            if follower.sent == target and now < follower.sent_at + RESEND_NS:
                continue
            follower.sent, follower.sent_at = target, now
            # A device that has not reported yet is asked by an empty message.
            has = config.revision if follower.stored is None else follower.stored
            out.send(device, self._append_for(config, has))

    def _append_for(self, config: Config, has: Revision) -> Append:
        known = config.descends_from(has) and (has >= config.floor)
        epochs = tuple((e.term, e.last) for e in config.epochs)
        records = config.since(has) if known else tuple(config.records.values())
        return Append(
            self.term, has if known else None, config.revision, records, epochs, config.floor,
            self.replica.committed.revision,
        )  # fmt: skip

    def on_stored(self, sender: DeviceId, message: Stored, now: int, out: Outbox) -> None:
        """A device reports what it has."""
        if message.term != self.term:
            return
        follower = self.followers.setdefault(sender, _Follower())
        if follower.stored != message.revision:
            follower.sent = None
        follower.stored, follower.committed = message.revision, message.committed
        follower.terms = dict(message.terms)
        self._idle_until = 0
        self.advance(out)
        self.replicate(now, out)

    def on_written(self, now: int, out: Outbox) -> None:
        """The disk of this device has something new."""
        self._idle_until = 0
        self.advance(out)
        self.replicate(now, out)

    def advance(self, out: Outbox) -> None:
        """Commit what a majority of the Site's voters has on disk in this term."""
        site = self.replica.stored.site
        assert site is not None
        reached = {
            d: f.stored.n
            for d, f in self.followers.items()
            if f.stored is not None and f.stored.term == self.term
        }
        if self.replica.durable.term == self.term:
            reached[self.me] = self.replica.durable.n
        n = confirmed_by_majority(site.voters, reached)
        if n is not None and self.replica.commit(Revision(self.term, n), out):
            self._idle_until = 0

    def outcomes(self, now: int) -> list[Outcome]:
        """Requests that ended: committed, or given up waiting."""
        ended: list[Outcome] = []
        waiting: list[_Pending] = []
        for pending in self._pending:
            if self.replica.committed.revision >= pending.revision:
                revision = None if pending.error else pending.revision
                ended.append(Outcome(pending.request, revision, pending.detail, pending.error))
            elif now >= pending.deadline:
                ended.append(self._given_up(pending))
            else:
                waiting.append(pending)
        self._pending = waiting
        return [self._remember(o) for o in ended]

    def abandon(self) -> list[Outcome]:
        """This device is coordinator no more: nobody here will learn how these end."""
        ended = [self._given_up(p) for p in self._pending]
        self._pending = []
        return ended

    def _given_up(self, pending: _Pending) -> Outcome:
        if pending.error is not None:
            return Outcome(pending.request, error=pending.error)
        error = NotCommitted(
            f"revision {pending.revision} is stored but no majority has confirmed it",
            "Look at `halbctl status`: the change is kept if a majority comes to have it.",
        )
        return Outcome(pending.request, pending.revision, error=error)

    # Housekeeping

    def on_time(self, now: int, out: Outbox) -> None:
        """Move assignments towards the wish, and repeat what was not confirmed."""
        replica = self.replica
        if self._idle_until <= now and self.quiet:
            self.awaited = {}
            self._waits = False
            self._settling.look()
            self._leaving.look()
            edit = next_edit(
                replica.committed,
                lambda uid: self._settled(uid, now),
                self._ready,
                lambda uid, device: self._stays(uid, device, now),
                self._newest_term,
            )
            if edit.put or edit.delete:
                self._write(edit, out)
            under_way = self._waits or self.awaited
            self._idle_until = now + RESEND_NS if under_way else NEVER
        self.replicate(now, out)

    def wake_at(self, now: int) -> int:
        """When to look again; nothing is due while nothing is under way.

        At the moment of a beat: a wake-up of its own would cost more than the look.
        """
        busy = self.awaited or self._waits or self._pending or not self.quiet
        return next_round(now, RESEND_NS) if busy or self._behind() else NEVER

    def _behind(self) -> bool:
        """Whether some device within reach lacks what is stored or committed here."""
        target = (self.replica.stored.revision, self.replica.committed.revision)
        reached = (d for d in self.replica.stored.devices if d != self.me and d in self.audience)
        followers = (self.followers.get(d) for d in reached)
        return any(f is None or (f.stored, f.committed) != target for f in followers)

    @property
    def quiet(self) -> bool:
        """Whether all that was written is committed, an entry of the own term among it.

        Only then may voters change: a voter list that rests on entries of a
        former term can be undone by two coordinators at once (Ongaro's
        correction of single-server changes, raft-dev, July 2015).
        """
        return self.replica.committed.revision == self.replica.stored.revision

    def passed(self, hearsay: Callable[[DeviceId], Revision]) -> list[Revision]:
        """What each device of the Site has, as it reported in this term, or by hearsay."""
        others = (d for d in self.replica.committed.devices if d != self.me)
        reached = [max(self._on_disk(d), hearsay(d)) for d in others]
        return [*reached, self.replica.durable]

    def _on_disk(self, device: DeviceId) -> Revision:
        follower = self.followers.get(device)
        return follower.stored or NO_REVISION if follower else NO_REVISION

    def _in_force(self, device: DeviceId) -> Revision:
        if device == self.me:
            return self.replica.kept
        follower = self.followers.get(device)
        return follower.committed or NO_REVISION if follower else NO_REVISION

    def _ready(self, device: DeviceId) -> bool:
        ready = self._in_force(device) == self.replica.committed.revision
        if not ready:
            self.awaited[device] = None
        return ready

    def _stays(self, uid: GroupId, device: DeviceId, now: int) -> bool:
        """Whether a voter that is to go is primary still: it hands over first, if it can in time.

        What is frozen it keeps for as long, and what no other voter may carry yet: once it had
        resigned, nobody would take it.
        """
        config = self.replica.committed
        if device not in config.devices or self._office(uid)[0] != device:
            return False
        self._waits = True
        server, assignment = config.virtual_servers[uid], config.assignments[uid]
        if server.frozen or set(assignment.voters).isdisjoint(carriers_of(config, server)):
            return True
        return now < self._leaving.see(assignment, now) + HAND_OVER_NS

    def _newest_term(self, uid: GroupId) -> int:
        told = (follower.terms.get(uid, 0) for follower in self.followers.values())
        return max(self._office(uid)[1], *told)

    def _settled(self, uid: GroupId, now: int) -> bool:
        config = self.replica.committed
        assignment = config.assignments[uid]
        if assignment.settled:
            return True
        since = config.revision_of(("assignment", uid))
        have = {d for d in config.devices if self._in_force(d) >= since}
        former = assignment.former or assignment.voters
        self.awaited.update(
            dict.fromkeys(d for d in (*former, *assignment.voters) if d not in have)
        )
        self._waits = True
        if not (has_majority(former, have) and has_majority(assignment.voters, have)):
            return False
        # A lease from before the change may live for one promise of its profile.
        seen = self._settling.see(assignment, now)
        return now >= seen + Timing.of(assignment.slowest).promise
