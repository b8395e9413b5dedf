"""The configuration on one device: its copy, and its part in replicating it."""

from __future__ import annotations

from collections.abc import Callable, Container
from random import Random
from typing import Protocol

from protocol.config import Config
from protocol.coordinator import NOTHING_TO_CHANGE, Coordinator
from protocol.effects import Apply, Event, KeepConflict, Outcome, PersistLocal
from protocol.errors import HalbError
from protocol.ids import NO_REVISION, DeviceId, GroupId, Revision
from protocol.local import Local, edited, ended, overlay
from protocol.messages import Append, Info, ProposeChange, Stored
from protocol.objects import Handled
from protocol.outbox import Outbox
from protocol.replica import Replica
from protocol.requests import return_of
from protocol.timing import NEVER
from protocol.tombstones import Retention, Tombstones
from protocol.versions import Gate


class Others(Protocol):
    """What devices tell of themselves, directly or by hearsay."""

    def committed(self, device: DeviceId) -> Revision:
        """The newest revision that a device, alive or not, is known to have had committed."""

    def heard_from(self, device: DeviceId, now: int) -> Info | None:
        """What a device that lives tells; None if none does."""


class Configuration:
    """Keeps the copy, follows the coordinator, and is it while in office."""

    def __init__(
        self,
        me: DeviceId,
        config: Config,
        committed: Revision,
        random: Random,
        retention: Retention,
        local: Local | None,
        gate: Gate,
        audience: Container[DeviceId],
        in_force: Config | None = None,
    ) -> None:
        """``audience``: the devices that this one is connected to.
        ``in_force``: as of :class:`Replica`."""
        self.me = me
        self.random = random
        self.audience = audience
        self.replica = Replica(config, committed, in_force)
        self.coordinator: Coordinator | None = None
        self.gate = gate
        self.restarted = config.revision != NO_REVISION
        """The device was in the Site before this start: it may have forgotten promises."""
        self._leader: DeviceId | None = None
        self._leader_term = 0
        self._origins: dict[str, DeviceId | None] = {}
        """Who asked for each change under way; None: this device's operator."""
        self.tombstones = Tombstones(retention)
        self.others: Others | None = None
        """Whom the coordinator asks about devices that it is not connected to."""
        self.office: Callable[[GroupId], tuple[DeviceId | None, int]] = lambda _: (None, 0)
        """Whom the coordinator takes for the primary of a Virtual Server, and the term."""
        self.term_of: Callable[[GroupId], int] = lambda _: 0
        """The term of this device's ballot in a group, also in one that it votes in no more."""
        self.local = local
        """Break-glass edits of this device."""
        self._next = NEVER

    @property
    def in_site(self) -> bool:
        return self.replica.stored.site is not None

    @property
    def newest(self) -> Config:
        return self.replica.stored

    @property
    def stored(self) -> Revision:
        return self.replica.stored.revision

    @property
    def durable(self) -> Revision:
        return self.replica.durable

    @property
    def in_force(self) -> Config:
        return self.replica.committed

    @property
    def in_use(self) -> Config:
        """What the kernel of this device follows."""
        return overlay(self.in_force, self.local)

    def adopt(self, config: Config, out: Outbox) -> None:
        """The first configuration of this device, committed by its Site."""
        assert not self.in_site
        self.replica.append(config, out)
        self.replica.commit(config.revision, out)

    def force(self, config: Config, out: Outbox) -> None:
        """Store what no coordinator wrote: voters that an operator put in place of lost ones."""
        if self.coordinator is not None:
            self._tell(self.coordinator.abandon(), out)
            self.coordinator = None
        self._leader, self._leader_term = None, config.revision.term
        self.replica.append(config, out)

    def on_word(
        self, sender: DeviceId, message: Append | Stored, site_term: int, now: int, out: Outbox
    ) -> None:
        """What a coordinator and its followers say to each other."""
        if isinstance(message, Append):
            self.on_append(sender, message, site_term, out)
        elif self.coordinator is not None:
            self.coordinator.on_stored(sender, message, now, out)

    # As a follower

    def on_append(self, sender: DeviceId, message: Append, site_term: int, out: Outbox) -> None:
        """Records from the coordinator; those of an older term are not heeded."""
        if self.coordinator is not None:
            return
        if message.term < max(self._leader_term, site_term):
            # A voter's word would end that term. Who is none there must say so as well: by the
            # list of another term it may have been one, and would be left behind for good.
            if message.term < site_term:
                out.send(sender, self.replica.report(site_term, ()))
            return
        self._leader, self._leader_term = sender, message.term
        self.replica.on_append(message, out)
        if self.in_force.revision >= message.committed:
            self.end_local(out)
        self._report(site_term, out)

    def on_stored(self, revision: Revision, site_term: int, now: int, out: Outbox) -> None:
        """The disk has ``revision``: say so to whoever coordinates."""
        self.replica.on_stored(revision, out)
        if self.coordinator is not None:
            self.coordinator.on_written(now, out)
        else:
            self._report(site_term, out)

    def _report(self, site_term: int, out: Outbox) -> None:
        # Having voted in a newer term, this device no longer confirms for the older one.
        leader = self._leader if self._leader_term >= site_term else None
        if leader is not None and leader in self.audience:
            out.send(leader, self.replica.report(self._leader_term, self._terms()))

    def _terms(self) -> tuple[tuple[GroupId, int], ...]:
        """What the coordinator has to know before voters change once more."""
        return tuple(
            (uid, self.term_of(uid))
            for uid, each in self.in_force.assignments.items()
            if not each.settled and self.me in (*each.former, *each.voters)
        )

    def _office_of(self, group: GroupId) -> tuple[DeviceId | None, int]:
        holder, term = self.office(group)
        return holder, max(term, self.term_of(group))

    def on_disk(self, works: bool, out: Outbox) -> None:
        if works:
            self.replica.retry(out)
        else:
            self.replica.on_disk_failed()

    # Break glass

    def edit_locally(self, asked: ProposeChange, out: Outbox) -> Outcome:
        """Change what this device does, and nothing that other devices rest on."""
        mark = Handled(id=asked.id, detail="", by=asked.by, unix_s=asked.unix_s)
        if self.local is not None:
            for edit in self.local.edits:
                if edit.id == asked.id:
                    return Outcome(asked.id, self.in_force.revision, edit.detail)
        try:
            changed = edited(self.in_force, self.local, asked.change, mark)
        except HalbError as error:
            return Outcome(asked.id, error=error)
        if changed is None:
            return Outcome(asked.id, self.in_force.revision, NOTHING_TO_CHANGE)
        self.local = changed
        out.do(PersistLocal(self.local))
        out.do(Event("local", None, "changed locally, not committed", device=self.me))
        out.do(Apply(self.in_use))
        return Outcome(asked.id, self.in_force.revision, self.local.edits[-1].detail)

    def end_local(self, out: Outbox) -> None:
        """A coordinator is back: what it has committed wins."""
        if self.local is None:
            return
        out.do(KeepConflict(ended(self.local, self.in_force.revision)))
        self.local = None
        out.do(PersistLocal(None))
        out.do(Event("local", None, "ended local changes: a coordinator is back", device=self.me))
        out.do(Apply(self.in_force))

    # As coordinator

    def take_office(self, term: int | None, now: int, out: Outbox) -> None:
        """Be coordinator in ``term``, or not at all where None."""
        if term is not None and term < self.stored.term:
            # Won while a newer one was being stored, perhaps by force: over when that is on disk.
            term = None
        if self.coordinator is not None and self.coordinator.term != term:
            self._tell(self.coordinator.abandon(), out)
            self.coordinator = None
        if self.coordinator is None and term is not None:
            self._leader = None
            self.coordinator = Coordinator(
                self.replica, self.me, term, self.random, self.audience, self._office_of, now, out
            )

    def on_propose(
        self, sender: DeviceId | None, message: ProposeChange, now: int, out: Outbox
    ) -> bool:
        """Write a change; False if this device is not coordinator, and did nothing."""
        if self.coordinator is None:
            return False
        self._origins[message.id] = sender
        outcome = self.coordinator.propose(message, now, out)
        if outcome is not None:
            self._tell([outcome], out)
        return True

    def on_time(self, now: int, out: Outbox) -> None:
        self._next = NEVER
        self.tombstones.note(self.in_force, now)
        if self.coordinator is not None:
            self._collect(self.coordinator, now, out)
            self.coordinator.on_time(now, out)
            self.coordinator.advance(out)
            if self.in_force.revision.term == self.coordinator.term:
                self.end_local(out)
            self._tell(self.coordinator.outcomes(now), out)
            self._raise_gate(self.coordinator, now, out)
            self._next = self.coordinator.wake_at(now)

    def _raise_gate(self, coordinator: Coordinator, now: int, out: Outbox) -> None:
        if self.others is not None and coordinator.quiet:
            heard_from = self.others.heard_from
            coordinator.write(
                self.gate.raised(self.in_force, coordinator.term, heard_from, now), out
            )

    def _collect(self, coordinator: Coordinator, now: int, out: Outbox) -> None:
        if self.others is None or not coordinator.quiet or not self.tombstones.due(now):
            return
        floor = self.tombstones.floor(coordinator.passed(self.others.committed), now)
        if floor is not None and floor > self.newest.floor:
            coordinator.collect(floor, out)

    def wake_at(self) -> int:
        return self._next

    def _tell(self, outcomes: list[Outcome], out: Outbox) -> None:
        for outcome in outcomes:
            origin = self._origins.pop(outcome.request, None)
            if origin is None:
                out.do(outcome)
            else:
                out.send(origin, return_of(outcome))
