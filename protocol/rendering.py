"""A Site as it is, written as a person would write it; the inverse of parsing."""

from __future__ import annotations

import msgspec

from protocol.addresses import check_gateway_address, check_vip, names_network
from protocol.config import Config
from protocol.document import Preempt, VirtualServerDocument, preempt_after
from protocol.gateway_document import document_of_gateway, gateway_of
from protocol.listener_document import document_of_listener, listener_of, render_listeners
from protocol.objects import VirtualServer
from protocol.virtual_mac import AUTO, check_mac


def document_of(config: Config, server: VirtualServer) -> VirtualServerDocument:
    """The document that describes ``server``, with the names of ``config``'s devices."""
    return VirtualServerDocument(
        name=server.name,
        vips=_as_written(server.vips),
        devices=tuple(config.devices[d].name for d in server.devices),
        witnesses=tuple(config.devices[d].name for d in server.witnesses),
        arbiter=server.arbiter,
        on_peer_loss=server.on_peer_loss,
        wait_for_peer=server.wait_for_peer,
        profile=server.profile,
        forwarding=server.forwarding,
        inner_vips=_as_written(server.inner_vips),
        virtual_mac=server.virtual_mac or None,
        preempt=Preempt(after=server.preempt) if server.preempt else None,
        slow_start=server.slow_start,
        gateways=tuple(document_of_gateway(g) for g in server.gateways),
        listeners=tuple(document_of_listener(item) for item in server.listeners),
    )


def canonical(
    document: VirtualServerDocument, present: VirtualServerDocument | None
) -> VirtualServerDocument:
    """A checked document in the spelling of :func:`document_of`.

    ``present`` describes the Virtual Server as it is: ``auto`` keeps its hardware address.
    """
    mac = document.virtual_mac and check_mac("virtual_mac", document.virtual_mac)
    if mac == AUTO and present is not None:
        mac = present.virtual_mac or AUTO
    after = preempt_after(document)
    return msgspec.structs.replace(
        document,
        vips=_as_written(tuple(check_vip("vips", vip) for vip in document.vips)),
        arbiter=document.arbiter and check_gateway_address("arbiter", document.arbiter),
        inner_vips=_as_written(tuple(check_vip("inner_vips", vip) for vip in document.inner_vips)),
        virtual_mac=mac,
        preempt=Preempt(after=after) if after else None,
        gateways=tuple(document_of_gateway(gateway_of(g)) for g in document.gateways),
        listeners=tuple(document_of_listener(listener_of(item)) for item in document.listeners),
    )


def _as_written(vips: tuple[str, ...]) -> tuple[str, ...]:
    """VIPs with a prefix only where it names their network."""
    return tuple(v if names_network(v) else v.partition("/")[0] for v in vips)


def render_site(config: Config) -> dict[str, object]:
    """The Site as plain data, ready for YAML or JSON; Virtual Servers in order of name.

    Leaves out what equals its default. ``parse_site`` of it, applied, changes nothing.
    """
    servers = (document_of(config, s) for s in config.virtual_servers.values())
    site = {"site": config.site.name} if config.site else {}
    return {**site, "virtual_servers": [render_virtual_server(s) for s in servers]}


def render_virtual_server(document: VirtualServerDocument) -> dict[str, object]:
    """One Virtual Server as plain data; the inverse of :func:`parse_virtual_server`."""
    # By way of JSON, as ``to_builtins`` would leave tuples where lists belong.
    plain: dict[str, object] = msgspec.json.decode(msgspec.json.encode(document))
    if document.listeners:
        plain["listeners"] = list(render_listeners(document.listeners))
    return plain
