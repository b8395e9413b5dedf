"""What a device had stored and had to give up, kept for the operator.

A revision that no majority confirmed is dropped when a newer coordinator does
not have it; one that was in force gives way to what `recover` forced elsewhere; a
break-glass edit ends when a coordinator is back. None is merged: whole objects win
or lose, and the loser is listed by ``halbctl conflicts`` until :data:`MAX_CONFLICTS`
newer ones push it out.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from protocol.config import Config
from protocol.ids import Revision
from protocol.objects import Handled, Record, SiteRecord

MAX_CONFLICTS = 10
"""Conflicts that a device keeps."""


class Conflict(msgspec.Struct, frozen=True):
    """Edits of this device's copy that the Site did not take."""

    kind: Literal["dropped", "replaced", "local"]
    """``dropped``: stored, never committed. ``replaced``: in force, until force elsewhere made
    another history. ``local``: made by ``--local``."""
    lost: Revision
    """The revision that this device had, or the one that the local edit began from."""
    won: Revision
    """The revision that replaced it."""
    records: tuple[Record, ...]
    """Objects as they were to become; a record without value is a deletion."""


def dropped(lost: Config, committed: Revision, won: Config) -> Conflict | None:
    """What ``won`` does not have of ``lost``; None if no object is concerned.

    ``committed`` is the newest revision that this device knew to be committed;
    it decides on what is from before the epochs that ``won`` remembers.
    """
    oldest = won.epochs[0].term if won.epochs else 0

    def gone(revision: Revision) -> bool:
        if revision.term < oldest:
            return revision > committed
        return not won.descends_from(revision)

    records = tuple(r for r in lost.records.values() if gone(r.revision) and _concerns_people(r))
    kind: Literal["dropped", "replaced"] = "replaced" if forced(won, committed) else "dropped"
    return Conflict(kind, lost.revision, won.revision, records) if records else None


def forced(won: Config, committed: Revision) -> bool:
    """Whether ``won`` lacks what was in force: only `recover` on another side makes that so."""
    remembered = bool(won.epochs) and committed.term >= won.epochs[0].term
    return remembered and not won.descends_from(committed)


def _concerns_people(record: Record) -> bool:
    """The coordinator writes assignments and voters anew by itself."""
    return record.kind != "assignment" and not isinstance(record.value, SiteRecord)


def requests_of(conflict: Conflict) -> tuple[Handled, ...]:
    """The requests whose work was lost: who asked for it, and when."""
    return tuple(r.value for r in conflict.records if isinstance(r.value, Handled))


# As halbctl shows them


class LostObject(msgspec.Struct, frozen=True):
    """One object that was to change."""

    kind: str
    """virtual-server | device | token | operator"""
    name: str
    action: str
    """put | deleted"""
    document: dict[str, object] | None
    """A Virtual Server as it was to become, in the form of :mod:`protocol.document`."""


class LostRequest(msgspec.Struct, frozen=True):
    """One request whose work was lost."""

    id: str
    by: str
    """Device whose operator asked."""
    at: str
    """ISO 8601, UTC, by that device's clock."""
    detail: str


class ConflictInfo(msgspec.Struct, frozen=True):
    """Edits that this device had stored and had to give up."""

    id: str
    kind: str
    """dropped | replaced | local"""
    at: str
    """ISO 8601, UTC: when they were given up."""
    lost: str
    """Revision that had them, or that a local edit began from."""
    won: str
    """Revision that took their place."""
    requests: tuple[LostRequest, ...]
    objects: tuple[LostObject, ...]


class Conflicts(msgspec.Struct, frozen=True, tag_field="re", tag="conflicts"):
    """The last ten, oldest first."""

    conflicts: tuple[ConflictInfo, ...]
