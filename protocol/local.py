"""Break glass: what an operator changes on one device while no coordinator can be reached.

A local edit changes only what this device's kernel does with connections that it
has anyway: gateways, listeners and checks of Virtual Servers that exist. Who
votes, who carries what, and which addresses a lease covers stay as committed,
so a local edit can never make two owners. It ends when a committed
configuration comes from a coordinator, and is then kept as a conflict.
"""

from __future__ import annotations

from dataclasses import replace as replaced

import msgspec

from protocol.changes import Change, edit_for
from protocol.config import Config, Edit
from protocol.conflicts import Conflict
from protocol.describe import describe
from protocol.errors import Refused
from protocol.ids import Revision
from protocol.objects import MAX_DETAIL, Handled, Record, VirtualServer

FREE = ("gateways", "listeners")
"""Fields of a Virtual Server that a local edit may change."""
MAX_EDITS = 50


class Local(msgspec.Struct, frozen=True):
    """All local edits of this device that no coordinator has ended yet."""

    base: Revision
    """The committed revision that the first of them was made on."""
    servers: tuple[VirtualServer, ...]
    """As the edits left them."""
    edits: tuple[Handled, ...]


def overlay(config: Config, local: Local | None) -> Config:
    """``config`` as the kernel of this device is to follow it."""
    if local is None:
        return config
    records = dict(config.records)
    for server in local.servers:
        present = config.records.get(("virtual-server", server.uid))
        if present is not None and isinstance(present.value, VirtualServer):
            free = {field: getattr(server, field) for field in FREE}
            value = msgspec.structs.replace(present.value, **free)
            records["virtual-server", server.uid] = msgspec.structs.replace(present, value=value)
    return replaced(config, records=records)


def edited(config: Config, local: Local | None, change: Change, mark: Handled) -> Local | None:
    """``local`` with one more change; None where it is so already. ``config`` is the committed one.

    Raises what the change itself is refused with, or Refused where it is more than
    a local edit may be.
    """
    shown = overlay(config, local)
    edit = edit_for(shown, change, unix_s=mark.unix_s, new_uid=_no_uid)
    if edit == Edit():
        return None
    servers = {server.uid: server for server in (local.servers if local else ())}
    for server in _allowed(shown, edit):
        servers[server.uid] = server
    edits = local.edits if local else ()
    if len(edits) >= MAX_EDITS:
        raise Refused(f"{MAX_EDITS} local changes are made already", "Bring a coordinator back.")
    detail = "\n".join(describe(shown, edit))[:MAX_DETAIL]
    done = msgspec.structs.replace(mark, detail=detail)
    base = local.base if local else config.revision
    return Local(base, tuple(servers.values()), (*edits, done))


def _no_uid() -> str:
    raise Refused("a local change cannot create a Virtual Server", _WHY)


_WHY = (
    "Only gateways, listeners and checks of what exists may be changed with --local: the rest "
    "needs a coordinator, or two devices could hold one address."
)


def _allowed(config: Config, edit: Edit) -> list[VirtualServer]:
    if edit.delete:
        kind, key = edit.delete[0]
        raise Refused(f"a local change cannot delete {kind} {key}", _WHY)
    found = []
    for value in edit.put:
        if not isinstance(value, VirtualServer):
            raise Refused(f"a local change cannot touch a {type(value).__name__.lower()}", _WHY)
        present = config.virtual_servers[value.uid]
        for field in VirtualServer.__struct_fields__:
            if field not in FREE and getattr(value, field) != getattr(present, field):
                raise Refused(f"a local change cannot touch `{field}` of {value.name!r}", _WHY)
        _refuse_deadlines(present, value)
        found.append(value)
    return found


def _refuse_deadlines(present: VirtualServer, value: VirtualServer) -> None:
    """Deadlines are met by a committed change, which nobody could make when they come."""
    before = {gateway.name: gateway.drain_until for gateway in present.gateways}
    for gateway in value.gateways:
        if gateway.drain_until is not None and gateway.drain_until != before.get(gateway.name):
            raise Refused(
                f"--local ends no connections: the drain of gateway {value.name}/{gateway.name} "
                "cannot have a deadline",
                "Drain it without, and disable it locally when its time has come: `halbctl "
                f"--local gateway set {value.name} {gateway.name} --state disabled`.",
            )


def ended(local: Local, by: Revision) -> Conflict:
    """What is kept of local edits that the committed revision ``by`` ended."""
    servers = tuple(Record("virtual-server", s.uid, local.base, s) for s in local.servers)
    edits = tuple(Record("handled", e.id, local.base, e) for e in local.edits)
    return Conflict("local", local.base, by, (*servers, *edits))
