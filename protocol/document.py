"""A Site as a person writes it: the form of ``apply`` and ``export``.

References are names. :func:`parse_site` turns plain data (from YAML or JSON)
into typed, checked documents, with errors that name the path, the value and
the nearest known key; :func:`protocol.rendering.render_site` is its inverse.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from protocol.addresses import check_gateway_address, check_vip
from protocol.durations import parse_seconds
from protocol.errors import InvalidInput
from protocol.forwarding import check_forwarding
from protocol.gateway_document import GatewayDocument, check_gateways, gateway_is_vip
from protocol.listener_document import ListenerDocument, check_listeners
from protocol.objects import (
    MAX_DEVICES,
    MAX_GATEWAYS,
    MAX_LISTENERS,
    MAX_SLOW_START_S,
    MAX_VIPS,
    MAX_VIRTUAL_SERVERS,
    MAX_VOTERS,
    Forwarding,
    VirtualServer,
)
from protocol.plain import Format, read
from protocol.timing import Profile
from protocol.validate import (
    check_count,
    check_named,
    check_once,
    check_range,
)
from protocol.virtual_mac import check_mac

MAX_PREEMPT_S = 86_400
MAX_DOCUMENT = 1024 * 1024
"""Largest document, bytes."""


class Preempt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hand over to a better-ranked device."""

    after: int
    """Seconds for which it must have been fit."""


class VirtualServerDocument(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One service of the Site, with names where the object has ids."""

    name: str
    vips: tuple[str, ...]
    """``ADDRESS/PREFIX``, or ``ADDRESS`` where the network is not named."""
    devices: tuple[str, ...] = ()
    """Names in order of rank; empty: all."""
    witnesses: tuple[str, ...] = ()
    arbiter: str | None = None
    on_peer_loss: Literal["serve", "hold"] | None = None
    wait_for_peer: bool = True
    profile: Profile = Profile.NORMAL
    forwarding: Forwarding = "snat"
    inner_vips: tuple[str, ...] = ()
    """Of `routed`: what the gateways route back through, written as VIPs are."""
    virtual_mac: str | None = None
    """``auto``, or the hardware address that the VIPs keep; None: that of the primary."""
    preempt: str | Preempt | None = None
    """``{after: 60}`` or ``after 60s``; None: never."""
    slow_start: int = 0
    """Seconds in which a gateway that came back grows to its full share."""
    gateways: tuple[GatewayDocument, ...] = ()
    listeners: tuple[ListenerDocument, ...] = ()


class SiteDocument(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What a Site serves. Its devices are not part of it: they join by token."""

    site: str | None = None
    """Name of the Site, checked if given."""
    virtual_servers: tuple[VirtualServerDocument, ...] = ()


FORMAT = Format(
    longest={
        "virtual_servers": MAX_VIRTUAL_SERVERS,
        "vips": MAX_VIPS,
        "inner_vips": 2,
        "devices": MAX_DEVICES,
        "witnesses": MAX_VOTERS,
        "gateways": MAX_GATEWAYS,
        "listeners": MAX_LISTENERS,
    },
    later_values={
        "type": ("tls", "http", "https", "udp", "exec"),
    },
)


def check_size(data: bytes, what: str = "document") -> bytes:
    """Return ``data`` if it is small enough to be parsed; raise InvalidInput otherwise."""
    if len(data) > MAX_DOCUMENT:
        raise InvalidInput(
            f"{what} has {len(data)} bytes; at most {MAX_DOCUMENT} (1 MiB) are read",
            "Remove what does not belong to it.",
        )
    return data


def parse_site(data: object) -> SiteDocument:
    """A whole Site from plain data; raise InvalidInput for the first thing that is wrong.

    ``virtual_servers`` must be there, if only as ``[]``: what a document does
    not name is deleted, and a forgotten key shall not delete everything.
    """
    document = read(data, SiteDocument, FORMAT)
    if not isinstance(data, dict) or "virtual_servers" not in data:
        raise InvalidInput(
            "`virtual_servers` is missing", "Add it; `virtual_servers: []` deletes all of them."
        )
    check_site(document)
    return document


def parse_virtual_server(data: object) -> VirtualServerDocument:
    """One Virtual Server from plain data; raise InvalidInput for the first thing wrong."""
    document = read(data, VirtualServerDocument, FORMAT)
    check_virtual_server(document)
    return document


def check_site(document: SiteDocument) -> None:
    """Check a Site's document by itself, without any configuration."""
    if document.site is not None:
        check_named("site", "Site", document.site)
    servers = document.virtual_servers
    if len(servers) > MAX_VIRTUAL_SERVERS:
        raise InvalidInput(
            f"`virtual_servers` has {len(servers)} entries",
            f"At most {MAX_VIRTUAL_SERVERS} are allowed.",
        )
    for index, server in enumerate(servers):
        check_virtual_server(server, f"virtual_servers[{index}].")
    check_once("virtual_servers", (s.name for s in servers), "Virtual Server")
    owners: dict[str, VirtualServerDocument] = {}
    for server in servers:
        for vip in _addresses(server):
            if vip in owners:
                raise InvalidInput(*vip_is_taken(vip, server, owners[vip]))
            owners[vip] = server
    for server in servers:
        for gateway in server.gateways:
            owner = owners.get(check_gateway_address("address", gateway.address))
            if owner is not None:
                raise InvalidInput(*gateway_is_vip(server.name, gateway, owner.name))


def check_virtual_server(document: VirtualServerDocument, where: str = "") -> None:
    """Check one Virtual Server by itself; ``where`` is put before each path."""
    check_named(f"{where}name", "Virtual Server", document.name)
    _check_vips(document, where)
    _check_voters(document, where)
    preempt_after(document, where)
    check_range(f"{where}slow_start", document.slow_start, 0, MAX_SLOW_START_S, "seconds")
    _check_peer_loss(document, where)
    check_gateways(document.name, document.gateways, _addresses(document), where)
    check_listeners(document.listeners, where)
    check_forwarding(document, where)
    if document.virtual_mac is not None:
        check_mac(f"{where}virtual_mac", document.virtual_mac)


def preempt_after(document: VirtualServerDocument, where: str = "") -> int:
    """Seconds of ``preempt``; 0 where it is not wanted."""
    wish = document.preempt
    if wish is None:
        return 0
    if isinstance(wish, str):
        seconds = parse_seconds(f"{where}preempt", wish.strip().removeprefix("after "))
    else:
        seconds = wish.after
    check_range(f"{where}preempt", seconds, 1, MAX_PREEMPT_S, "s")
    return seconds


def vip_is_taken(
    vip: str,
    server: VirtualServerDocument | VirtualServer,
    owner: VirtualServerDocument | VirtualServer,
) -> tuple[str, str]:
    """Message and remedy for a VIP of two Virtual Servers: its lease has one primary."""
    there = {item.key for item in owner.listeners}
    same = [item.key for item in server.listeners if item.key in there]
    ports = f" and both listen on {', '.join(same)}" if same else ""
    return (
        f"Virtual Servers {owner.name!r} and {server.name!r} both have VIP {vip}{ports}",
        f"A VIP belongs to one Virtual Server: use another, or put the listeners on {owner.name}.",
    )


def _addresses(document: VirtualServerDocument) -> tuple[str, ...]:
    """Without prefixes, all that its primary answers for."""
    return (*_bare("vips", document.vips), *_bare("inner_vips", document.inner_vips))


def _bare(path: str, vips: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(check_vip(path, vip).partition("/")[0] for vip in vips)


def _check_vips(document: VirtualServerDocument, where: str) -> None:
    check_count(f"{where}vips", document.vips, MAX_VIPS, least=1)
    for index, vip in enumerate(document.vips):
        check_vip(f"{where}vips[{index}]", vip)
    check_once(f"{where}vips", _bare("vips", document.vips), "VIP")


def _check_voters(document: VirtualServerDocument, where: str) -> None:
    for key, names in (("devices", document.devices), ("witnesses", document.witnesses)):
        for index, name in enumerate(names):
            check_named(f"{where}{key}[{index}]", "device", name)
        check_once(f"{where}{key}", names, "device")
    for index, name in enumerate(document.witnesses):
        if name in document.devices:
            raise InvalidInput(
                f"`{where}witnesses[{index}]` is {name!r}, which is among `devices` too",
                "Name it once: a device votes anyway, a witness only votes.",
            )
    if max(1, len(document.devices)) + len(document.witnesses) > MAX_VOTERS:
        raise InvalidInput(
            f"`{where}devices` and `{where}witnesses` name more than {MAX_VOTERS} voters",
            f"At most {MAX_VOTERS} vote on one Virtual Server, and one must be able to carry it.",
        )


def _check_peer_loss(document: VirtualServerDocument, where: str) -> None:
    if document.arbiter is not None and document.on_peer_loss is not None:
        raise InvalidInput(
            f"`{where}arbiter` and `{where}on_peer_loss` are both given",
            "Keep one: an arbiter decides what `on_peer_loss` would say.",
        )
    if document.arbiter is not None:
        address = check_gateway_address(f"{where}arbiter", document.arbiter)
        if address in _addresses(document):
            raise InvalidInput(
                f"`{where}arbiter` is {address}, a VIP of Virtual Server {document.name!r}",
                "Name a host that always answers there, such as the router.",
            )
    elif document.on_peer_loss is None and not document.wait_for_peer:
        raise InvalidInput(
            f"`{where}wait_for_peer` is false, but nothing lets a device serve alone",
            "Leave it out, or choose `arbiter` or `on_peer_loss`.",
        )
