"""Conflicts that this device keeps: what it had stored and the Site did not take.

The newest :data:`protocol.conflicts.MAX_CONFLICTS` stay on disk, through
restarts and also when the device leaves and joins again.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from protocol.api import ConflictInfo, LostObject, LostRequest
from protocol.config import Config
from protocol.conflicts import MAX_CONFLICTS, Conflict, requests_of
from protocol.ids import DeviceId
from protocol.local import Local
from protocol.objects import Device, Handled, Record, Token, VirtualServer
from protocol.rendering import document_of, render_virtual_server


class Kept(msgspec.Struct, frozen=True):
    """One conflict, and when it came about."""

    at: int
    """Unix time, milliseconds."""
    conflict: Conflict


def keep(kept: tuple[Kept, ...], conflict: Conflict, at: int) -> tuple[Kept, ...]:
    """``kept`` with one more, the oldest pushed out."""
    return (*kept, Kept(at, conflict))[-MAX_CONFLICTS:]


def shown(kept: tuple[Kept, ...], config: Config) -> tuple[ConflictInfo, ...]:
    """For people: newest last, with names as the Site knows them now."""
    return tuple(_info(each, config) for each in kept)


def local_note(local: Local | None) -> str:
    """The warning in status while this device differs from the Site; empty if it does not."""
    if local is None or not local.edits:
        return ""
    count = len(local.edits)
    return (
        f"{count} local change{'s' if count > 1 else ''} since {_iso(local.edits[0].unix_s * 1000)}"
        " on this device, not committed: ended when a coordinator is back"
    )


def _info(kept: Kept, config: Config) -> ConflictInfo:
    conflict = kept.conflict
    return ConflictInfo(
        id=f"{conflict.lost}-{kept.at // 1000}",
        kind=conflict.kind,
        at=_iso(kept.at),
        lost=str(conflict.lost),
        won=str(conflict.won),
        requests=tuple(
            LostRequest(r.id, _name(r, config), _iso(r.unix_s * 1000), r.detail)
            for r in requests_of(conflict)
        ),
        objects=tuple(
            _object(record, config)
            for record in conflict.records
            if not isinstance(record.value, Handled) and record.kind != "handled"
        ),
    )


def _iso(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _name(request: Handled, config: Config) -> str:
    known = config.devices.get(DeviceId(request.by))
    return known.name if known else request.by


def _object(record: Record, config: Config) -> LostObject:
    value = record.value
    match value:
        case None:
            present = config.records.get((record.kind, record.key))
            named = getattr(present.value, "name", record.key) if present else record.key
            return LostObject(record.kind, named, "deleted", None)
        case VirtualServer():
            document = render_virtual_server(document_of(config, value))
            return LostObject(record.kind, value.name, "put", document)
        case Device():
            return LostObject(record.kind, value.name, "put", None)
        case Token():
            return LostObject(record.kind, value.id, "put", None)
        case _:
            return LostObject(record.kind, record.key, "put", None)
