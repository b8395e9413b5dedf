"""Edits of Virtual Servers and their gateways.

Each function is pure: it returns the edit, empty where nothing changes, or
raises with reason and remedy. Every edit goes by way of the document of the
Virtual Server, so one set of rules holds for all commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from protocol.addresses import check_gateway_address, check_vip, family
from protocol.admission import device_named, hosts_of
from protocol.assignment import carriers_of, wanted_lone, wanted_voters
from protocol.config import Config, Edit
from protocol.document import (
    SiteDocument,
    VirtualServerDocument,
    check_site,
    check_virtual_server,
    preempt_after,
    vip_is_taken,
)
from protocol.errors import InvalidInput, Refused, RevisionConflict
from protocol.forwarding import refuse_ambiguous
from protocol.gateway_document import GatewayDocument, check_gateway, gateway_is_vip, gateway_of
from protocol.ids import DeviceId, GroupId, Revision
from protocol.listener_document import listener_of
from protocol.nearest import nearest
from protocol.objects import MAX_VIRTUAL_SERVERS, Key, VirtualServer
from protocol.rendering import document_of
from protocol.seats import seated
from protocol.settling import kept, kept_of
from protocol.shown import shown
from protocol.virtual_mac import refuse_shared_mac, wanted_mac

State = Literal["enabled", "draining", "disabled"]
NewUid = Callable[[], str]
"""Gives 16 random hex digits, others each time."""


def put(
    config: Config,
    document: VirtualServerDocument,
    must: Literal["create", "exist", "either"],
    if_revision: str | None,
    new_uid: NewUid,
) -> Edit:
    """Create a Virtual Server or replace the one of its name."""
    check_virtual_server(document)
    present = config.virtual_server_named(document.name)
    if must == "create" and present is not None:
        raise Refused(
            f"a Virtual Server named {document.name!r} exists already",
            "Choose another name, or change it with `halbctl vs edit`.",
        )
    if must == "exist" and present is None:
        raise _unknown(config, document.name)
    if if_revision is not None:
        _compare_revision(config, document.name, present, Revision.parse(if_revision))
    return _put(config, document, present, new_uid)


def delete(config: Config, name: str) -> Edit:
    """Delete a Virtual Server with its gateways and listeners."""
    return Edit(delete=tuple(_keys_of(config, server_named(config, name).uid)))


def _keys_of(config: Config, uid: GroupId) -> Iterable[Key]:
    """What goes away with a Virtual Server."""
    yield ("virtual-server", uid)
    if uid in config.planned_moves:
        yield ("planned-move", uid)


def freeze(config: Config, name: str, *, frozen: bool) -> Edit:
    """Keep a Virtual Server where it is, or let it move again."""
    server = server_named(config, name)
    changed = msgspec.structs.replace(server, frozen=frozen)
    return Edit() if changed == server else Edit(put=(changed,))


def add_gateway(config: Config, name: str, gateway: GatewayDocument) -> Edit:
    """Put one more gateway behind the Virtual Server ``name``."""
    server = server_named(config, name)
    check_gateway(gateway)
    if any(g.name == gateway.name for g in server.gateways):
        raise Refused(
            f"Virtual Server {name!r} has a gateway named {gateway.name!r} already",
            "Choose another name, or change it with `halbctl gateway set`.",
        )
    document = document_of(config, server)
    return _with_gateways(config, server, (*document.gateways, gateway))


def remove_gateway(config: Config, name: str, gateway: str) -> Edit:
    """Take a gateway away; not the last one of a VIP's IP version while others remain."""
    server = server_named(config, name)
    _require_gateway(server, gateway)
    document = document_of(config, server)
    return _with_gateways(config, server, tuple(g for g in document.gateways if g.name != gateway))


def set_gateway(
    config: Config,
    name: str,
    gateway: str,
    state: State | None,
    weight: int | None,
    backup: bool | None = None,
    max_connections: int | None = None,
    drain_until: int | None = None,
) -> Edit:
    """Change what is said of a gateway; None leaves it as it is."""
    server = server_named(config, name)
    _require_gateway(server, gateway)
    wanted = {
        "state": state,
        "weight": weight,
        "backup": backup,
        "max_connections": max_connections,
    }
    said: dict[str, object] = {key: value for key, value in wanted.items() if value is not None}
    if state is not None or drain_until is not None:
        said["drain_until"] = drain_until
    if not said:
        raise InvalidInput(
            f"nothing is said that gateway {name}/{gateway} should be set to",
            "Give a weight or a state, `backup` or `max_connections`.",
        )
    gateways = tuple(
        msgspec.structs.replace(g, **said) if g.name == gateway else g
        for g in document_of(config, server).gateways
    )
    check_gateway(next(g for g in gateways if g.name == gateway))
    return _with_gateways(config, server, gateways)


def apply(config: Config, document: SiteDocument, new_uid: NewUid) -> Edit:
    """Make the Virtual Servers exactly those of the document.

    One that keeps its name keeps its uid and seed, so its flows stay where they are.
    """
    check_site(document)
    site = config.site.name if config.site else ""
    if document.site is not None and document.site != site:
        raise Refused(
            f"the document is for Site {document.site!r}, this is Site {site!r}",
            "Correct `site`, or leave it out.",
        )
    hosts = _hosts(config)
    by_name = {s.name: s for s in config.virtual_servers.values()}
    servers: list[VirtualServer] = []
    for wanted in document.virtual_servers:
        present = by_name.get(wanted.name)
        server = _built(config, wanted, present, new_uid)
        _refuse_undecided_pair(config, server, present)
        _refuse_lacking_family(server, present)
        _refuse_device_as_vip(server, hosts)
        servers.append(server)
    refuse_ambiguous(servers)
    refuse_shared_mac(servers)
    changed = tuple(s for s in servers if s != by_name.get(s.name))
    kept = {d.name for d in document.virtual_servers}
    gone = (s.uid for name, s in by_name.items() if name not in kept)
    return Edit(put=changed, delete=tuple(k for uid in gone for k in _keys_of(config, uid)))


def server_named(config: Config, name: str) -> VirtualServer:
    """The Virtual Server of this name; InvalidInput with the nearest name otherwise."""
    found = config.virtual_server_named(name)
    if found is None:
        raise _unknown(config, name)
    return found


def _unknown(config: Config, name: str) -> InvalidInput:
    names = [s.name for s in config.virtual_servers.values()]
    return InvalidInput(f"no Virtual Server is named {shown(name)}", nearest(name, names))


def _require_gateway(server: VirtualServer, gateway: str) -> None:
    names = [g.name for g in server.gateways]
    if gateway not in names:
        raise InvalidInput(
            f"Virtual Server {server.name!r} has no gateway named {shown(gateway)}",
            nearest(gateway, names),
        )


def _compare_revision(
    config: Config, name: str, present: VirtualServer | None, expected: Revision
) -> None:
    key = ("virtual-server", present.uid if present else "")
    actual = config.revision_of(key)
    if present is None or (actual > expected and not config.says_as_at(expected)):
        now = f"was changed at revision {actual}" if present else "does not exist"
        raise RevisionConflict(
            f"Virtual Server {name!r} {now}, after {expected}",
            f"Read it again with `halbctl vs show {name}`, and repeat the change on what you find.",
        )


def _with_gateways(
    config: Config, server: VirtualServer, gateways: tuple[GatewayDocument, ...]
) -> Edit:
    document = msgspec.structs.replace(document_of(config, server), gateways=gateways)
    check_virtual_server(document)
    return _put(config, document, server, lambda: server.uid)


def _put(
    config: Config,
    document: VirtualServerDocument,
    present: VirtualServer | None,
    new_uid: NewUid,
) -> Edit:
    server = _built(config, document, present, new_uid)
    if server == present:
        return Edit()
    if present is None and len(config.virtual_servers) >= MAX_VIRTUAL_SERVERS:
        raise Refused(
            f"the Site has {MAX_VIRTUAL_SERVERS} Virtual Servers already", "Delete one first."
        )
    _refuse_undecided_pair(config, server, present)
    _refuse_lacking_family(server, present)
    _refuse_device_as_vip(server, _hosts(config))
    _refuse_carrier_as_gateway(config, server, present)
    others = [s for s in config.virtual_servers.values() if s.uid != server.uid]
    _refuse_overlap(server, others)
    refuse_ambiguous((*others, server))
    refuse_shared_mac((*others, server))
    return Edit(put=(server,))


def _built(
    config: Config,
    document: VirtualServerDocument,
    present: VirtualServer | None,
    new_uid: NewUid,
) -> VirtualServer:
    """The object that a checked document describes, with ids instead of names."""
    uid = present.uid if present else GroupId(new_uid())
    seed = present.seed if present else int(new_uid()[:8], 16)
    devices, witnesses = _voters(config, document)
    known = present.gateways if present else ()
    return VirtualServer(
        uid=uid,
        name=document.name,
        vips=tuple(check_vip("vips", vip) for vip in document.vips),
        devices=devices,
        witnesses=witnesses,
        arbiter=None
        if document.arbiter is None
        else check_gateway_address("arbiter", document.arbiter),
        on_peer_loss=document.on_peer_loss,
        wait_for_peer=document.wait_for_peer,
        profile=document.profile,
        forwarding=document.forwarding,
        inner_vips=tuple(check_vip("inner_vips", vip) for vip in document.inner_vips),
        virtual_mac=wanted_mac(document.virtual_mac, uid, present),
        preempt=preempt_after(document),
        frozen=present is not None and present.frozen,
        slow_start=document.slow_start,
        gateways=kept(seated([gateway_of(g) for g in document.gateways], known), known),
        listeners=kept_of(
            [listener_of(item) for item in document.listeners], present.listeners if present else ()
        ),
        seed=seed,
    )


def _voters(
    config: Config, document: VirtualServerDocument
) -> tuple[tuple[DeviceId, ...], tuple[DeviceId, ...]]:
    devices = [device_named(config, name) for name in document.devices]
    witnesses = [device_named(config, name) for name in document.witnesses]
    for device in devices:
        if device.witness:
            raise InvalidInput(
                f"device {device.name!r} is a witness and cannot carry {document.name!r}",
                "Name it under `witnesses`.",
            )
    if not devices and all(d.witness for d in config.devices.values()):
        raise Refused(
            f"no device of the Site can carry Virtual Server {document.name!r}: all are witnesses",
            "Join a device that is no witness first.",
        )
    for witness in witnesses:
        if not devices and not witness.witness:
            raise InvalidInput(
                f"device {witness.name!r} cannot be a witness of {document.name!r}: as `devices` "
                "names none, all that are not witnesses may carry it",
                "Name the devices that may carry it under `devices`.",
            )
    return tuple(d.id for d in devices), tuple(w.id for w in witnesses)


def _refuse_undecided_pair(
    config: Config, server: VirtualServer, present: VirtualServer | None
) -> None:
    """Refuse two voters without a word on what one does when it loses the other.

    What a Site grew or shrank into by itself, and the edit leaves as it is, goes
    on with a majority of two.
    """
    voters = wanted_voters(config, server)
    if len(voters) != 2 or wanted_lone(config, server, voters):
        return
    if present is not None and _who_votes(server) == _who_votes(present):
        return
    names = " and ".join(config.devices[v].name for v in voters)
    raise InvalidInput(
        f"Virtual Server {server.name!r} would have two voters, {names}: if one fails, "
        "the other cannot know whether it is dead or only cut off",
        "Choose: a third device or a witness beside two devices (`witnesses`); `arbiter`: an "
        "address of the network, such as the router; `on_peer_loss: serve` or `hold`.",
    )


def _who_votes(server: VirtualServer) -> tuple[object, ...]:
    return (server.devices, server.witnesses, server.arbiter, server.on_peer_loss)


def _lacking(server: VirtualServer) -> set[int]:
    """IP versions of the VIPs that no gateway has."""
    return {family(vip) for vip in server.vips} - {family(g.address) for g in server.gateways}


def _refuse_lacking_family(server: VirtualServer, present: VirtualServer | None) -> None:
    """Refuse to take away the last gateway of a VIP's IP version.

    What lacked before may go on lacking: gateways are added one by one.
    """
    lacking = _lacking(server) - (_lacking(present) if present else set())
    for vip in server.addresses:
        if server.gateways and family(vip) in lacking:
            version = f"IPv{family(vip)}"
            raise InvalidInput(
                f"VIP {vip} of Virtual Server {server.name!r} would have no gateway of {version}",
                f"Give it a gateway with an {version} address, or leave the VIP out.",
            )


def _hosts(config: Config) -> dict[str, str]:
    """Name of the device by each address that a device has."""
    return {host: d.name for d in config.devices.values() for host in hosts_of(d)}


def _refuse_device_as_vip(server: VirtualServer, hosts: dict[str, str]) -> None:
    """A VIP that a device answers for by itself would cut that device off."""
    for vip in server.leased:
        if vip in hosts:
            raise InvalidInput(
                f"VIP {vip} of Virtual Server {server.name!r} is the address of "
                f"device {hosts[vip]!r}",
                "Use an address that belongs to no host.",
            )


def _refuse_carrier_as_gateway(
    config: Config, server: VirtualServer, present: VirtualServer | None
) -> None:
    """Refuse a new gateway that would be its own while that device is primary."""
    devices = [config.devices[device] for device in carriers_of(config, server)]
    carriers = {host: device for device in devices for host in hosts_of(device)}
    known = {gateway.address for gateway in present.gateways} if present else set()
    for gateway in server.gateways:
        if gateway.address in carriers and gateway.address not in known:
            raise InvalidInput(
                f"gateway {gateway.name} has the address {gateway.address}, which is one of "
                f"device {carriers[gateway.address].name!r}, which may carry {server.name!r}",
                "A device cannot be its own gateway: give the address of another host.",
            )


def _refuse_overlap(server: VirtualServer, others: Iterable[VirtualServer]) -> None:
    vips = set(server.leased)
    own = {g.address: g for g in server.gateways}
    for other in others:
        for vip in other.leased:
            if vip in vips:
                raise Refused(*vip_is_taken(vip, server, other))
            if vip in own:
                raise Refused(*gateway_is_vip(server.name, own[vip], other.name))
        for gateway in other.gateways:
            if gateway.address in vips:
                raise Refused(*gateway_is_vip(other.name, gateway, server.name))
