"""The Site's configuration at one revision: an immutable set of records.

A revision's content is fully determined by its history of edits; two devices
that store the same revision hold the same records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from protocol.ids import NO_REVISION, DeviceId, GroupId, Revision
from protocol.objects import (
    MAX_HANDLED,
    SITE_KEY,
    Assignment,
    Device,
    Handled,
    Key,
    Operator,
    PlannedMove,
    Record,
    SiteRecord,
    Token,
    Value,
    VirtualServer,
    key_of,
)

MAX_EPOCHS = 64
"""Terms that a configuration remembers; a device from before them gets a whole copy."""


class Epoch(msgspec.Struct, frozen=True, array_like=True):
    """The last counter that a coordinator's term reached in this history."""

    term: int
    last: int


@dataclass(frozen=True)
class Edit:
    """What one change puts and deletes."""

    put: tuple[Value, ...] = ()
    delete: tuple[Key, ...] = ()


@dataclass(frozen=True)
class Config:
    """A whole configuration. Cheap views are computed once and kept."""

    revision: Revision = NO_REVISION
    records: Mapping[Key, Record] = field(default_factory=dict)
    epochs: tuple[Epoch, ...] = ()
    floor: Revision = NO_REVISION
    """Tombstones up to here were collected: an older device needs a whole copy."""

    @cached_property
    def site(self) -> SiteRecord | None:
        record = self.records.get(SITE_KEY)
        return record.value if record and isinstance(record.value, SiteRecord) else None

    @cached_property
    def devices(self) -> dict[DeviceId, Device]:
        """Devices by id, in order of joining."""
        found = [v for v in self._values() if isinstance(v, Device)]
        return {v.id: v for v in sorted(found, key=lambda v: (v.joined, v.id))}

    @cached_property
    def virtual_servers(self) -> dict[GroupId, VirtualServer]:
        """Virtual Servers by uid, in order of name."""
        found = [v for v in self._values() if isinstance(v, VirtualServer)]
        return {v.uid: v for v in sorted(found, key=lambda v: v.name)}

    @cached_property
    def assignments(self) -> dict[GroupId, Assignment]:
        return {v.uid: v for v in self._values() if isinstance(v, Assignment)}

    @cached_property
    def planned_moves(self) -> dict[GroupId, PlannedMove]:
        return {v.uid: v for v in self._values() if isinstance(v, PlannedMove)}

    @cached_property
    def tokens(self) -> dict[str, Token]:
        return {v.id: v for v in self._values() if isinstance(v, Token)}

    @cached_property
    def operators(self) -> dict[str, Operator]:
        """Operators by name, in its order."""
        found = [v for v in self._values() if isinstance(v, Operator)]
        return {v.name: v for v in sorted(found, key=lambda v: v.name)}

    def handled(self, request: str) -> Record | None:
        """The record of a request that was carried out, while it is remembered."""
        record = self.records.get(("handled", request))
        return record if record is not None and isinstance(record.value, Handled) else None

    def says_as_at(self, revision: Revision) -> bool:
        """Whether nothing was changed after ``revision`` that was asked for and people can see.

        What the coordinator writes of its own accord has no request, and what primaries note of
        gateways that fall and return says nothing. Of older requests than are remembered: False.
        """
        if not self.descends_from(revision):
            return False
        every = ((r.revision, r.value) for r in self.records.values())
        handled = [(at, value.detail) for at, value in every if isinstance(value, Handled)]
        seen = [at for at, detail in handled if detail]
        if len(handled) >= MAX_HANDLED:
            seen.append(min(at for at, _ in handled))
        return revision >= max(seen, default=NO_REVISION)

    def tombstones(self) -> Iterable[Record]:
        """What was deleted and not collected yet."""
        return (r for r in self.records.values() if r.value is None)

    def _values(self) -> Iterable[Value]:
        return (r.value for r in self.records.values() if r.value is not None)

    def device_named(self, name: str) -> Device | None:
        return next((d for d in self.devices.values() if d.name == name), None)

    def virtual_server_named(self, name: str) -> VirtualServer | None:
        return next((v for v in self.virtual_servers.values() if v.name == name), None)

    def revision_of(self, key: Key) -> Revision:
        """Revision at which the object last changed; zero where it never existed."""
        record = self.records.get(key)
        return record.revision if record else NO_REVISION

    def edited(self, edit: Edit, term: int) -> Config:
        """The next revision of this configuration, written in ``term``."""
        assert term >= self.revision.term
        revision = Revision(term, self.revision.n + 1)
        records = dict(self.records)
        for value in edit.put:
            key = key_of(value)
            records[key] = Record(key[0], key[1], revision, value)
        for key in edit.delete:
            records[key] = Record(key[0], key[1], revision, None)
        return self.at(revision, records, self.floor)

    def collected(self, floor: Revision, term: int) -> Config:
        """The next revision, without the tombstones up to ``floor``."""
        assert self.floor < floor <= self.revision
        return self.at(Revision(term, self.revision.n + 1), self.records, floor)

    def at(self, revision: Revision, records: Mapping[Key, Record], floor: Revision) -> Config:
        """A successor of this configuration, with what need not be remembered left out."""
        older = tuple(e for e in self.epochs if e.term != revision.term)[1 - MAX_EPOCHS :]
        epochs = (*older, Epoch(revision.term, revision.n))
        return Config(revision, remembered(records, floor), epochs, floor)

    def descends_from(self, revision: Revision) -> bool:
        """Whether ``revision`` is this one or one that it was made from."""
        if revision == NO_REVISION:
            return True
        return any(e.term == revision.term and revision.n <= e.last for e in self.epochs)

    def since(self, revision: Revision) -> tuple[Record, ...]:
        """Records that changed after ``revision``, which must be an ancestor."""
        assert self.descends_from(revision)
        return tuple(r for r in self.records.values() if r.revision > revision)


def remembered(records: Mapping[Key, Record], floor: Revision) -> dict[Key, Record]:
    """``records`` without tombstones up to ``floor`` and without old handled requests.

    A pure function of the history, so devices that got there by different
    deltas hold the same records.
    """
    handled = sorted((r.revision, r.key) for r in records.values() if r.kind == "handled")[
        :-MAX_HANDLED
    ]
    old = {("handled", key) for _, key in handled}
    return {
        key: record
        for key, record in records.items()
        if key not in old and (record.value is not None or record.revision > floor)
    }
