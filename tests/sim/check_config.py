"""S10 to S13, S17, S18: one history of the configuration; nothing committed is lost or returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from protocol.changes import PutToken
from protocol.config import Config
from protocol.coordinator import NOTHING_TO_CHANGE
from protocol.effects import Force, Outcome, Promote, Propose, Recover
from protocol.errors import InvalidInput, NoQuorum, Refused, RevisionConflict
from protocol.ids import NO_REVISION, DeviceId, Revision
from protocol.messages import Stored
from protocol.objects import Key, Record, VirtualServer
from protocol.quorum import has_majority, majority

if TYPE_CHECKING:
    from tests.sim.checkers import Checker
    from tests.sim.shell import Process

OUTCOME_NS = 6_000_000_000
"""An operator's command ends within this on its device's clock, done or refused (L7)."""
RECOVER_NS = 21_000_000_000
"""A recovery does: those who are to vote are reached first, and elect a coordinator then."""


@dataclass(slots=True)
class Request:
    """An operator's command, and how it ended."""

    process: Process
    item: Propose | Promote | Force | Recover
    at: int
    """When its process takes it, on its device's clock, which stands still while that does."""
    outcome: Outcome | None = None
    ended: int = 0
    token: str | None = field(default=None)
    """Id of the token that the change puts: the mark that it must leave behind."""


class ConfigCheck:
    """Follows what is stored, in force and reported committed on every device."""

    def __init__(self, checker: Checker, first: Config) -> None:
        self._checker = checker
        self.newest = first
        """The newest configuration that any device put in force."""
        self.newest_at = 0
        """Real time at which it came."""
        self._contents: dict[Revision, Config] = {first.revision: first}
        self._stored: dict[Revision, Config] = {}
        """Everything that was on a disk at some time."""
        self.requests: dict[str, Request] = {}
        self._based_on: dict[Revision, str] = {}
        self._deleted: dict[Key, Revision] = {}
        """Objects whose ids are never used again in what follows."""
        self._forced: set[int] = set()
        """Terms in which one device alone wrote, by an operator's force."""

    # Stored and in force

    def storing(self, process: Process, config: Config, committed: Revision) -> None:
        """A configuration becomes durable, in place of the one on disk."""
        old = process.machine.disk.config
        if committed < process.machine.disk.committed:
            text = f"{process.name} forgets {process.machine.disk.committed} for {committed}"
            self._checker.fail("S17", text)
        self._stored[config.revision] = config
        kept = self.newest.revision
        lost = old.descends_from(kept) and not config.descends_from(kept)
        if lost and not self.parted(old, config):
            text = f"{process.name} replaces {old.revision} by {config.revision}, loses {kept}"
            self._checker.fail("S11", text)
        self._one_voter_at_a_time(old, config)
        self._nothing_returns(process, config)

    def says_stored(self, process: Process, stored: Stored) -> None:
        """S17: the coordinator goes on to the next voter list on this word."""
        on_disk = process.machine.disk.committed
        if stored.committed > on_disk:
            text = f"{process.name} says that {stored.committed} is in force, on disk is {on_disk}"
            self._checker.fail("S17", text)

    def _nothing_returns(self, process: Process, config: Config) -> None:
        """S12: what the committed history deleted is in no later configuration."""
        for (kind, key), revision in self._deleted.items():
            record = config.records.get((kind, key))
            living = record is not None and record.value is not None
            if living and config.descends_from(revision):
                text = f"{process.name} has {kind} {key} again at {config.revision}"
                self._checker.fail("S12", text)

    def applying(self, process: Process, config: Config) -> None:
        """A configuration is in force, so it must be committed and on the one history."""
        revision, newest = config.revision, self.newest
        if process.local is not None:
            config = self._without_local(process, config)
        if process.in_force is not None and revision < process.in_force.revision:
            text = f"{process.name} goes back from {process.in_force.revision} to {revision}"
            self._checker.fail("S11", text)
        if revision < process.machine.disk.committed:
            kept = process.machine.disk.committed
            self._checker.fail("S17", f"{process.name} puts {revision} in force, had {kept}")
        first = self._contents.setdefault(revision, config)
        if first is not config and first.records != config.records:
            self._checker.fail("S11", f"{revision} has two contents: {_difference(first, config)}")
        if revision > newest.revision:
            if config.descends_from(newest.revision):
                self._note_deleted(newest, config)
            else:
                self._lost(process, newest, config)
            self._on_majority(process, config)
            self._enough_left(config)
            if config.site and newest.site and config.site.protocol > newest.site.protocol:
                self._checker.seen["the Site speaks a newer version"] += 1
            if config.floor > newest.floor:
                self._checker.seen["tombstones collected"] += 1
            self.newest = config
            self.newest_at = self._checker.world.now
        elif not newest.descends_from(revision):
            self._lost(process, config, newest)

    def _without_local(self, process: Process, shown: Config) -> Config:
        """What is committed, where the kernel also follows local edits of ``shown``."""
        committed = self._contents.get(shown.revision) or self._stored.get(shown.revision)
        if committed is None:
            text = f"{process.name} edits {shown.revision} locally, which was on no disk"
            self._checker.fail("S11", text)
            return shown
        for key, record in shown.records.items():
            there = committed.records.get(key)
            same = there is not None and _fenced(there) == _fenced(record)
            if not same:
                text = f"{process.name} changes {key} by itself, which two owners may come of"
                self._checker.fail("S1", text)
        return committed

    def _note_deleted(self, before: Config, after: Config) -> None:
        living = _living(after)
        for key in before.records:
            if key[0] in ("virtual-server", "token") and key not in living:
                self._deleted.setdefault(key, after.revision)

    def _lost(self, process: Process, lost: Config, config: Config) -> None:
        if self.parted(lost, config):
            self._checker.seen["history lost by force"] += 1
            return
        text = f"{lost.revision} was committed, is not in {config.revision} {config.epochs}"
        self._checker.fail("S11", f"{process.name}: {text}")

    # Force

    def forcing(self, term: int) -> None:
        """A device writes alone, in a term that no other one ever writes in."""
        self._forced.add(term)

    def parted(self, one: Config, other: Config) -> bool:
        """Whether an operator has given up voters in only one of two histories."""
        return self._given_up(one) != self._given_up(other)

    def _given_up(self, config: Config) -> set[object]:
        recoveries = {r for r, each in self.requests.items() if isinstance(each.item, Recover)}
        forced = self._forced & {epoch.term for epoch in config.epochs}
        return {*forced, *(r for r in recoveries if config.handled(r))}

    def _on_majority(self, process: Process, config: Config) -> None:
        """What is committed is on the disks of most voters of the coordinator."""
        if config.site is None:
            return
        voters = config.site.voters
        world = self._checker.world
        holders = sum(
            1
            for m in world.machines
            if m.id in voters and m.disk.config.descends_from(config.revision)
        )
        if holders < majority(voters):
            text = f"{process.name} holds {config.revision} for committed, it is on {holders} disks"
            self._checker.fail("S11", text)

    def _enough_left(self, config: Config) -> None:
        """S18: a list whose majority is in the Site no more could never change again."""
        lists = {("the coordinator", config.site.voters)} if config.site else set()
        for uid in config.virtual_servers.keys() & config.assignments.keys():
            assignment = config.assignments[uid]
            lists |= {(uid, assignment.voters), (uid, assignment.former)}
        for what, voters in sorted(lists):
            if voters and not has_majority(voters, config.devices):
                text = f"{config.revision} leaves {list(config.devices)} of {voters} of {what}"
                self._checker.fail("S18", text)

    def _one_voter_at_a_time(self, old: Config, new: Config) -> None:
        """S13: neighbouring voter lists differ in one voter, so majorities meet."""
        if self.parted(old, new):
            return
        for uid, after in new.assignments.items():
            before = old.assignments.get(uid)
            if before is None:
                continue
            # Of what was never committed another step may have been made, from the same list.
            steps = abs(after.number - before.number)
            steps += 0 if new.descends_from(old.revision) else 2
            self._differ("assignment " + uid, before.voters, after.voters, steps)
        if old.site and new.site:
            steps = abs(new.revision.n - old.revision.n) + (
                0 if new.descends_from(old.revision) else len(new.devices)
            )
            self._differ("coordinator", old.site.voters, new.site.voters, steps)

    def _differ(
        self, what: str, old: tuple[DeviceId, ...], new: tuple[DeviceId, ...], steps: int
    ) -> None:
        if len(set(old) ^ set(new)) > steps:
            text = f"{what}: voters go from {old} to {new} in {steps} steps"
            self._checker.fail("S13", text)

    # Operators

    def asked(self, process: Process, item: Propose | Promote | Force | Recover) -> None:
        token = None
        if isinstance(item, Propose) and isinstance(item.change, PutToken):
            token = item.change.id
        taken = max(self._checker.world.now, process.stalled_until)
        at = process.machine.clock.local(taken)
        self.requests[item.request] = Request(process, item, at, token=token)

    def ended(self, process: Process, outcome: Outcome) -> None:
        request = self.requests.get(outcome.request)
        if request is None or request.process is not process:
            text = f"{process.name} ends {outcome.request}, which it was not asked"
            self._checker.fail("L7", text)
            return
        if request.outcome is not None:
            self._checker.fail("L7", f"{outcome.request} ends twice: {request.outcome}, {outcome}")
        request.outcome = outcome
        request.ended = self._checker.world.now
        what = type(request.item).__name__.lower()
        error = type(outcome.error).__name__ if outcome.error else "done"
        self._checker.seen[f"{what}: {error}"] += 1
        if outcome.error is None and isinstance(request.item, Propose):
            changed = outcome.detail != NOTHING_TO_CHANGE
            self._committed(process, request.item, outcome.revision, changed=changed)

    def _committed(
        self, process: Process, item: Propose, revision: Revision | None, *, changed: bool
    ) -> None:
        """S11: a success names a revision that a majority of disks has."""
        if revision is None or revision == NO_REVISION:
            self._checker.fail("S11", f"{item.request} succeeds without a revision")
            return
        world = self._checker.world
        of_it = (c for c in self._contents.values() if c.descends_from(revision))
        there = next(of_it, self.newest)
        config = there if self.parted(there, self.newest) else self.newest
        voters = config.site.voters if config.site else ()
        holders = [m for m in world.machines if m.id in voters]
        count = sum(1 for m in holders if m.disk.config.descends_from(revision))
        if count < majority(voters):
            text = f"{process.name} reports {revision} committed, it is on {count} disks"
            self._checker.fail("S11", text)
        if item.if_revision is not None and changed:
            first = self._based_on.setdefault(item.if_revision, item.request)
            if first != item.request:
                text = f"{first} and {item.request} both commit on {item.if_revision}"
                self._checker.fail("S11", text)

    # The end

    def finish(self) -> None:
        """After healing: acknowledged marks are there, refused ones are not, all have ended."""
        tokens = self.newest.tokens
        world = self._checker.world
        for name, request in self.requests.items():
            outcome = request.outcome
            if outcome is None:
                process = request.process
                age = process.machine.clock.local(world.now) - request.at
                limit = RECOVER_NS if isinstance(request.item, Recover) else OUTCOME_NS
                if process.alive and age > limit:
                    self._checker.fail("L7", f"{name} has not ended: {request.item}")
                continue
            if request.token is None:
                continue
            if outcome.error is None and request.token not in tokens:
                self._checker.fail("S11", f"{name} was committed at {outcome.revision}, is lost")
            refused = isinstance(outcome.error, (InvalidInput, NoQuorum, Refused, RevisionConflict))
            if refused and request.token in tokens:
                self._checker.fail("S11", f"{name} was refused ({outcome.error}) but is stored")


def _fenced(record: Record) -> Record:
    """All of a record but what a device may change by itself."""
    if not isinstance(record.value, VirtualServer):
        return record
    value = msgspec.structs.replace(record.value, gateways=(), listeners=())
    return msgspec.structs.replace(record, value=value)


def _living(config: Config) -> set[Key]:
    return {key for key, record in config.records.items() if record.value is not None}


def _difference(first: Config, second: Config) -> str:
    keys = first.records.keys() | second.records.keys()
    return str([k for k in sorted(keys) if first.records.get(k) != second.records.get(k)])
