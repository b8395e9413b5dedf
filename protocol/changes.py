"""Changes of the configuration, as the operator asks for them.

``edit_for(config, change, unix_s)`` is pure: it validates the change against
the configuration and returns the edit, or raises with the reason.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from protocol.document import GatewayDocument, SiteDocument, VirtualServerDocument
from protocol.objects import Device


class PutVirtualServer(msgspec.Struct, frozen=True, tag_field="change", tag="vs-put"):
    """Create a Virtual Server, or replace the one of this name."""

    document: VirtualServerDocument
    must: Literal["create", "exist", "either"] = "either"
    if_revision: str | None = None
    """Revision of the object itself that the edit rests on."""


class DeleteVirtualServer(msgspec.Struct, frozen=True, tag_field="change", tag="vs-delete"):
    """Delete a Virtual Server with its gateways and listeners."""

    name: str


class AddGateway(msgspec.Struct, frozen=True, tag_field="change", tag="gateway-add"):
    """Put one more gateway behind a Virtual Server."""

    virtual_server: str
    gateway: GatewayDocument


class RemoveGateway(msgspec.Struct, frozen=True, tag_field="change", tag="gateway-remove"):
    """Take a gateway away from a Virtual Server."""

    virtual_server: str
    gateway: str


class SetGateway(msgspec.Struct, frozen=True, tag_field="change", tag="gateway-set"):
    """Change the state or the weight of a gateway; None leaves it as it is."""

    virtual_server: str
    gateway: str
    state: Literal["enabled", "draining", "disabled"] | None = None
    weight: int | None = None


class SetDevice(msgspec.Struct, frozen=True, tag_field="change", tag="device-set"):
    """Drain a device, or let it take part again."""

    device: str
    drained: bool


class RemoveDevice(msgspec.Struct, frozen=True, tag_field="change", tag="device-remove"):
    """Take a device out of the Site: by itself (leave) or by an operator."""

    device: str


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


class RevokeToken(msgspec.Struct, frozen=True, tag_field="change", tag="token-revoke"):
    """Make a join token useless."""

    id: str


class ApplyDocument(msgspec.Struct, frozen=True, tag_field="change", tag="apply"):
    """Make the Virtual Servers exactly as the document says; others are deleted."""

    document: SiteDocument


Change = (
    PutVirtualServer | DeleteVirtualServer | AddGateway | RemoveGateway | SetGateway
    | SetDevice | RemoveDevice | AdmitDevice | PutToken | RevokeToken | ApplyDocument
)  # fmt: skip
