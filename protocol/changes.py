"""Changes of the configuration, as the operator asks for them.

:func:`edit_for` is pure: it validates a change against the configuration and
returns the edit, or raises with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from protocol import admission, devices, operators, planning, virtual_servers
from protocol.admission import found_site
from protocol.config import Config, Edit
from protocol.describe import describe
from protocol.document import SiteDocument, VirtualServerDocument
from protocol.errors import Refused
from protocol.gateway_document import GatewayDocument
from protocol.ids import DeviceId, GroupId
from protocol.objects import Device, Token
from protocol.recovery import recovery_edit
from protocol.settling import Absence, absent, noted
from protocol.terms import TERM_LEAP

__all__ = [
    "AddGateway",
    "AdmitDevice",
    "ApplyDocument",
    "CancelMove",
    "Change",
    "DeleteVirtualServer",
    "FreezeVirtualServer",
    "NoteAbsences",
    "PlanMove",
    "PutOperator",
    "PutToken",
    "PutVirtualServer",
    "RecoverVoters",
    "RemoveDevice",
    "RemoveGateway",
    "RemoveOperator",
    "RenameDevice",
    "ReplaceDevice",
    "RevokeToken",
    "SetDevice",
    "SetGateway",
    "describe",
    "edit_for",
    "foreseen",
    "found_site",
]


class PutVirtualServer(msgspec.Struct, frozen=True, tag_field="change", tag="vs-put"):
    """Create a Virtual Server, or replace the one of this name."""

    document: VirtualServerDocument
    must: Literal["create", "exist", "either"] = "either"
    if_revision: str | None = None
    """Revision at which it was read: refused if it, not the Site, was changed since."""


class DeleteVirtualServer(msgspec.Struct, frozen=True, tag_field="change", tag="vs-delete"):
    """Delete a Virtual Server with its gateways and listeners."""

    name: str


class FreezeVirtualServer(msgspec.Struct, frozen=True, tag_field="change", tag="vs-freeze"):
    """Keep a Virtual Server where it is, or let it move again."""

    name: str
    keep: bool


class PlanMove(msgspec.Struct, frozen=True, tag_field="change", tag="move-plan"):
    """Hand a Virtual Server over at a given time; replaces an earlier plan."""

    virtual_server: str
    to: str | None
    at: int
    """Unix time, seconds."""
    id: str
    """16 hex digits, at random."""


class CancelMove(msgspec.Struct, frozen=True, tag_field="change", tag="move-cancel"):
    """Take the plan back; also how the primary takes a planned move in hand."""

    virtual_server: str
    id: str | None = None
    """Only the plan with this id; None: whichever there is."""


class AddGateway(msgspec.Struct, frozen=True, tag_field="change", tag="gateway-add"):
    """Put one more gateway behind a Virtual Server."""

    virtual_server: str
    gateway: GatewayDocument


class RemoveGateway(msgspec.Struct, frozen=True, tag_field="change", tag="gateway-remove"):
    """Take a gateway away from a Virtual Server."""

    virtual_server: str
    gateway: str


class SetGateway(msgspec.Struct, frozen=True, tag_field="change", tag="gateway-set"):
    """Change what is said of a gateway; None leaves it as it is."""

    virtual_server: str
    gateway: str
    state: Literal["enabled", "draining", "disabled"] | None = None
    weight: int | None = None
    backup: bool | None = None
    max_connections: int | None = None
    drain_until: int | None = None
    """With a state: the deadline of the drain, Unix seconds; None: it has none."""


class NoteAbsences(msgspec.Struct, frozen=True, tag_field="change", tag="gateway-absent"):
    """Keep connections where they are as gateways go down and come back; asked for by primaries."""

    absences: tuple[Absence, ...]


class SetDevice(msgspec.Struct, frozen=True, tag_field="change", tag="device-set"):
    """Drain a device, or let it take part again."""

    device: str
    drained: bool


class RemoveDevice(msgspec.Struct, frozen=True, tag_field="change", tag="device-remove"):
    """Take a device out of the Site: by itself (leave) or by an operator."""

    device: str


class RenameDevice(msgspec.Struct, frozen=True, tag_field="change", tag="device-rename"):
    """Give a device another name."""

    device: str
    name: str


class ReplaceDevice(msgspec.Struct, frozen=True, tag_field="change", tag="device-replace"):
    """Put a device that has joined in the place of another, which leaves the Site."""

    device: str
    by: str


class RecoverVoters(msgspec.Struct, frozen=True, tag_field="change", tag="recover"):
    """Give up voters that are lost for good, where they are a majority."""

    survivors: tuple[DeviceId, ...]
    terms: tuple[tuple[GroupId, int], ...]
    """The newest known term of each group."""


class AdmitDevice(msgspec.Struct, frozen=True, tag_field="change", tag="device-admit"):
    """A joining device, with the token that it showed."""

    token_id: str
    secret: str
    device: Device


class PutToken(msgspec.Struct, frozen=True, tag_field="change", tag="token-put"):
    """Store a new join token; only the digest of its secret."""

    id: str
    digest: str
    expires_at: int
    uses: int
    by: str = ""
    """Name of the operator who asks over the network."""
    by_key: str = ""
    """His public key."""


class RevokeToken(msgspec.Struct, frozen=True, tag_field="change", tag="token-revoke"):
    """Make a join token useless."""

    id: str


class PutOperator(msgspec.Struct, frozen=True, tag_field="change", tag="operator-put"):
    """Let the owner of a key command the Site over the network."""

    name: str
    public_key: str
    by: str = ""
    """Name of the operator who asks over the network."""
    by_key: str = ""
    """His public key."""


class RemoveOperator(msgspec.Struct, frozen=True, tag_field="change", tag="operator-remove"):
    """Take that back, and delete the join tokens that he made."""

    name: str


class ApplyDocument(msgspec.Struct, frozen=True, tag_field="change", tag="apply"):
    """Make the Virtual Servers exactly as the document says; others are deleted."""

    document: SiteDocument


Change = (
    PutVirtualServer | DeleteVirtualServer | FreezeVirtualServer | PlanMove | CancelMove
    | AddGateway | RemoveGateway | SetGateway | NoteAbsences
    | SetDevice | RemoveDevice | RenameDevice | ReplaceDevice | AdmitDevice | PutToken | RevokeToken
    | PutOperator | RemoveOperator | ApplyDocument | RecoverVoters
)  # fmt: skip


def edit_for(config: Config, change: Change, *, unix_s: int, new_uid: Callable[[], str]) -> Edit:
    """What ``change`` puts and deletes; an empty edit where there is nothing to change.

    ``unix_s`` is the wall clock, for what is to end at a time; ``new_uid`` gives
    16 random hex digits at each call. Raises InvalidInput, Refused or
    RevisionConflict, and then nothing is to be changed.
    """
    if config.site is None:
        raise Refused(
            "this device belongs to no Site", "Run `halbctl init SITE` or `halbctl join TOKEN`."
        )
    match change:
        case AdmitDevice(token_id, secret, device):
            return admission.admit(config, token_id, secret, device, unix_s)
        case PutToken() | RevokeToken() | PutOperator() | RemoveOperator():
            return _access_edit(config, change, unix_s)
        case PlanMove(name, to, at, id):
            return planning.plan(config, name, to, at, id, unix_s)
        case CancelMove(name, plan):
            return planning.cancel(config, name, plan)
        case SetDevice(device, drained):
            return admission.set_device(config, device, drained=drained)
        case RemoveDevice(device):
            return admission.remove_device(config, device)
        case RenameDevice(device, name):
            return devices.rename(config, device, name)
        case RecoverVoters(survivors, terms):
            leap = max((term for _, term in terms), default=0) + TERM_LEAP
            return recovery_edit(config, survivors, leap, alone=False)
        case ReplaceDevice(device, by):
            return devices.replace(config, device, by)
        case NoteAbsences(absences):
            return absent(config, absences, unix_s)
        case _:
            return noted(config, _virtual_server_edit(config, change, new_uid), unix_s)


def foreseen(
    config: Config,
    change: Change,
    unix_s: int,
    new_uid: Callable[[], str],
    *,
    emptied: bool = False,
) -> tuple[str, ...]:
    """What ``change`` would do, as :func:`describe` words it; raises as :func:`edit_for` does."""
    edit = edit_for(config, change, unix_s=unix_s, new_uid=new_uid)
    return describe(config, edit, emptied=emptied)


def _access_edit(
    config: Config, change: PutToken | RevokeToken | PutOperator | RemoveOperator, unix_s: int
) -> Edit:
    match change:
        case PutToken(id, digest, expires_at, uses, by, key):
            operators.require_known(config, by, key)
            token = Token(id=id, digest=digest, expires_at=expires_at, uses_left=uses, by=by)
            return admission.put_token(config, token, unix_s)
        case RevokeToken(id):
            return admission.revoke_token(config, id)
        case PutOperator(name, public_key, by, key):
            operators.require_known(config, by, key)
            return operators.put(config, name, public_key, unix_s, by)
        case RemoveOperator(name):
            return operators.remove(config, name)


def _virtual_server_edit(
    config: Config,
    change: PutVirtualServer
    | DeleteVirtualServer
    | FreezeVirtualServer
    | AddGateway
    | RemoveGateway
    | SetGateway
    | ApplyDocument,
    new_uid: Callable[[], str],
) -> Edit:
    match change:
        case PutVirtualServer(document, must, if_revision):
            return virtual_servers.put(config, document, must, if_revision, new_uid)
        case DeleteVirtualServer(name):
            return virtual_servers.delete(config, name)
        case FreezeVirtualServer(name, keep):
            return virtual_servers.freeze(config, name, frozen=keep)
        case AddGateway(name, gateway):
            return virtual_servers.add_gateway(config, name, gateway)
        case RemoveGateway(name, gateway_name):
            return virtual_servers.remove_gateway(config, name, gateway_name)
        case SetGateway(name, gateway_name):
            wanted = (change.state, change.weight, change.backup, change.max_connections)
            return virtual_servers.set_gateway(
                config, name, gateway_name, *wanted, change.drain_until
            )
        case ApplyDocument(site_document):
            return virtual_servers.apply(config, site_document, new_uid)
