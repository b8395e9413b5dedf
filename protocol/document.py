"""A Site as a person writes it: the form of ``apply`` and ``export``.

References are names. :func:`parse_site` turns plain data (from YAML or JSON)
into typed documents, with errors that name the path, the value and the
nearest known key; :func:`render_site` is its inverse.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from protocol.objects import Check
from protocol.timing import Profile


class ListenerDocument(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One protocol and port of a Virtual Server."""

    protocol: Literal["tcp", "udp"] = "tcp"
    port: int
    gateway_port: int | None = None
    balance: Literal["hash", "source-hash"] = "hash"
    check: Check | None = None


class GatewayDocument(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One gateway of a Virtual Server."""

    name: str
    address: str
    weight: int = 1
    state: Literal["enabled", "draining", "disabled"] = "enabled"


class VirtualServerDocument(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One Virtual Server."""

    name: str
    vips: tuple[str, ...]
    devices: tuple[str, ...] = ()
    """Names in order of rank; empty: all."""
    witnesses: tuple[str, ...] = ()
    profile: Profile = Profile.NORMAL
    forwarding: Literal["snat"] = "snat"
    gateways: tuple[GatewayDocument, ...] = ()
    listeners: tuple[ListenerDocument, ...] = ()


class SiteDocument(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """All Virtual Servers of a Site."""

    site: str | None = None
    """Name of the Site, checked if given."""
    virtual_servers: tuple[VirtualServerDocument, ...] = ()
