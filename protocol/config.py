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
    SITE_KEY,
    Assignment,
    Device,
    Key,
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
    def tokens(self) -> dict[str, Token]:
        return {v.id: v for v in self._values() if isinstance(v, Token)}

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
        older = tuple(e for e in self.epochs if e.term != term)[1 - MAX_EPOCHS :]
        return Config(revision, records, (*older, Epoch(term, revision.n)), self.floor)

    def descends_from(self, revision: Revision) -> bool:
        """Whether ``revision`` is this one or one that it was made from."""
        if revision == NO_REVISION:
            return True
        return any(e.term == revision.term and revision.n <= e.last for e in self.epochs)

    def since(self, revision: Revision) -> tuple[Record, ...]:
        """Records that changed after ``revision``, which must be an ancestor."""
        assert self.descends_from(revision)
        return tuple(r for r in self.records.values() if r.revision > revision)
