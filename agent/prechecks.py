"""Checks of a change against this host, before it is proposed to the Site.

The rules that need only the configuration are checked by the coordinator
(:mod:`protocol.changes`); these need the host: its interface, its addresses,
and who answers on its network. They concern VIPs and gateways that the change
adds, of Virtual Servers that this device carries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface

from protocol.addresses import check_gateway_address, check_vip, family, names_network
from protocol.assignment import carriers_of
from protocol.changes import AddGateway, ApplyDocument, Change, PutVirtualServer
from protocol.config import Config
from protocol.document import VirtualServerDocument
from protocol.errors import InvalidInput, Refused
from protocol.ids import DeviceId
from protocol.objects import VirtualServer
from protocol.virtual_mac import AUTO, check_mac

PROBE_S = 0.45
"""Seconds that somebody else has to answer for a new VIP."""

Probe = Callable[[Sequence[str], float], Awaitable[Mapping[str, str]]]
"""(VIPs, seconds) -> MAC of whoever else answers for one of them, by VIP."""


@dataclass(frozen=True)
class Host:
    """What this host has, at the moment of the check."""

    device: DeviceId
    interface: str
    networks: tuple[IPv4Interface | IPv6Interface, ...]
    """The operator's addresses of the service interface, with prefixes."""
    addresses: frozenset[str]
    """All addresses of the host, VIPs of ours included."""
    vips: frozenset[str]
    """Those of them that are VIPs of ours."""
    mac: str
    """Hardware address of the interface."""


async def check_change(change: Change, config: Config, host: Host, probe: Probe) -> None:
    """Raise InvalidInput or Refused if this host shows that the change cannot work.

    Asks the network about new VIPs, all at the same time, for :data:`PROBE_S`.
    """
    if isinstance(change, AddGateway):
        _check_added_gateway(change, config, host)
        return
    # Beside the loop: a document of 1000 Virtual Servers takes longer than a lease lasts.
    new = await asyncio.to_thread(_check_documents, _documents(change), config, host)
    await _check_unanswered(new, probe)


def _check_documents(
    documents: Iterable[VirtualServerDocument], config: Config, host: Host
) -> list[str]:
    """Check Virtual Servers; returns the addresses of their new VIPs."""
    held, foreign = _held(config), host.addresses - host.vips
    servers = {server.name: server for server in config.virtual_servers.values()}
    new: list[str] = []
    for document in documents:
        if not _carries(document, config, host.device):
            continue
        vips = _check_document(document, servers.get(document.name), host)
        for vip in vips:
            if _bare(vip) not in held:
                _check_network(vip, host)
                _check_not_configured(_bare(vip), foreign)
                new.append(_bare(vip))
    return new


def _documents(change: Change) -> Iterable[VirtualServerDocument]:
    match change:
        case PutVirtualServer():
            return (change.document,)
        case ApplyDocument():
            return change.document.virtual_servers
        case _:
            return ()


def _carries(document: VirtualServerDocument, config: Config, device: DeviceId) -> bool:
    known = config.devices.get(device)
    if known is None or known.witness:
        return False
    return not document.devices or known.name in document.devices


def _check_document(
    document: VirtualServerDocument, before: VirtualServer | None, host: Host
) -> list[str]:
    """Check one Virtual Server, but its VIPs; returns these."""
    where = f"virtual server {document.name}"
    wanted = (*document.vips, *document.inner_vips)
    vips = [check_vip(f"{where}: vips", vip) for vip in wanted]
    known = {g.address for g in before.gateways} if before else set()
    for gateway in document.gateways:
        address = check_gateway_address(f"{where}: gateway {gateway.name}", gateway.address)
        if address not in known:
            _check_gateway(gateway.name, address, [_bare(vip) for vip in vips], host)
        if document.forwarding == "dsr":
            _check_direct(gateway.name, address, host)
    _check_arbiter(document.arbiter, where, host)
    _check_virtual_mac(document.virtual_mac, where, host)
    return vips


def _check_arbiter(arbiter: str | None, where: str, host: Host) -> None:
    """It must answer on the segment that clients use, and not from this very device."""
    if arbiter is None:
        return
    address = ip_address(check_gateway_address(f"{where}: arbiter", arbiter))
    if str(address) in host.addresses:
        raise InvalidInput(
            f"arbiter {address} is an address of this device",
            "Name a host that neither device is, such as the router.",
        )
    if not any(address in net.network for net in host.networks):
        raise InvalidInput(
            f"arbiter {address} lies outside the networks of {host.interface} on this device",
            "Name a host that answers ARP or neighbour discovery there, such as the router.",
        )


def _check_virtual_mac(written: str | None, where: str, host: Host) -> None:
    """A switch would not know which of two hosts it leads to."""
    if written and check_mac(f"{where}: virtual_mac", written) == host.mac:
        raise InvalidInput(
            f"{where}: virtual_mac {host.mac} is the address of {host.interface} on this device",
            f"Choose one that no host has, or `{AUTO}`.",
        )


def _bare(vip: str) -> str:
    return vip.partition("/")[0]


def _held(config: Config) -> set[str]:
    """VIPs that the Site has, or has not let go of yet."""
    servers = (s.leased for s in config.virtual_servers.values())
    assigned = ((*a.vips, *a.releasing) for a in config.assignments.values())
    return {vip for vips in (*servers, *assigned) for vip in vips}


def _check_added_gateway(change: AddGateway, config: Config, host: Host) -> None:
    server = config.virtual_server_named(change.virtual_server)
    if server is None or host.device not in carriers_of(config, server):
        return
    name = change.gateway.name
    address = check_gateway_address(f"gateway {name}: address", change.gateway.address)
    _check_gateway(name, address, server.leased, host)
    if server.forwarding == "dsr":
        _check_direct(name, address, host)


def _check_gateway(name: str, address: str, vips: Iterable[str], host: Host) -> None:
    if address in vips:
        raise InvalidInput(
            f"gateway {name} has the address {address}, which is the VIP itself",
            "Give the address of the server that the VIP leads to.",
        )
    if address in host.addresses:
        raise InvalidInput(
            f"gateway {name} has the address {address}, which is one of this device",
            "A device cannot be its own gateway: give the address of another host.",
        )


def _check_direct(name: str, address: str, host: Host) -> None:
    """With dsr a packet goes to the gateway as it is, so no router may lie between."""
    if not any(ip_address(address) in net.network for net in host.networks):
        raise InvalidInput(
            f"gateway {name} ({address}) lies outside the networks of {host.interface} on this"
            " device, but with dsr no router may lie between them",
            "Put it into that network, or use another mode of forwarding.",
        )


def _check_network(vip: str, host: Host) -> None:
    """The VIP lies in a network of the interface, and names it rightly if it names one."""
    address = ip_address(_bare(vip))
    here = [net.network for net in host.networks if net.version == address.version]
    if not here:
        raise InvalidInput(
            f"VIP {vip}: interface {host.interface} of this device has no"
            f" IPv{address.version} address",
            f"Give {host.interface} an address in the network of the VIP, or start halb-agent"
            " with the --interface that has one.",
        )
    around = [network for network in here if address in network]
    if not around:
        raise InvalidInput(
            f"VIP {vip} lies outside the networks of {host.interface} on this device"
            f" ({', '.join(sorted(map(str, here)))})",
            "Choose a free address in one of these networks.",
        )
    named = ip_interface(vip).network
    if names_network(vip) and named not in around:
        right = around[0].prefixlen
        raise InvalidInput(
            f"VIP {vip} names the network {named}, but {host.interface} is in {around[0]}",
            f"Write {address}/{right}, or correct the prefix of {host.interface}.",
        )


def _check_not_configured(address: str, foreign: frozenset[str]) -> None:
    if address not in foreign:
        return
    raise Refused(
        f"VIP {address} is configured on this device already, and not by HALB",
        f"Choose another address, or remove it first (see `ip address show to {address}`).",
    )


async def _check_unanswered(vips: list[str], probe: Probe) -> None:
    owners = await probe(vips, PROBE_S) if vips else {}
    for vip in vips:
        if owner := owners.get(vip):
            kind = "ND" if family(vip) == 6 else "ARP"
            raise Refused(
                f"VIP {vip} is in use already: {owner} answers {kind} for it",
                "Choose a free address, or take that host off it.",
            )
