"""The kernel's connection table: how many flows each gateway has, and ending them."""

from __future__ import annotations

import errno
import struct
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from itertools import product
from typing import Any, NamedTuple

from agent import netlink
from agent.ctnetlink import (
    ADDRESS,
    DELETE,
    GET,
    HEADER_SIZE,
    ORIGINAL,
    OVER,
    PROTOINFO,
    REPLY,
    SEEN_REPLY,
    STATUS,
    SYN_SENT,
    TCP_STATE_AT,
    ZONE,
    header,
    nest,
    only,
    versions_of,
)
from agent.ruleset import Desired, unremembered
from protocol.flows import TCP, UDP
from protocol.ids import GroupId
from protocol.ports import Ports

_PROTOCOL = {TCP: "tcp", UDP: "udp"}
_NUMBER = {name: number for number, name in _PROTOCOL.items()}

Flow = tuple[str, str, int, str]
"""(VIP, protocol, port, gateway address) of a flow."""

Service = tuple[str, str, Ports]
"""(VIP, protocol, ports) of a listener."""


class Route(NamedTuple):
    """From a listener to a gateway."""

    service: Service
    gateway: str
    gateway_ports: Ports


class Unanswered(NamedTuple):
    """A flow of TCP or UDP that no answer has come to, as the kernel has it."""

    vip: bytes
    protocol: int
    port: bytes
    gateway: bytes
    name: bytes
    """By which the kernel knows the entry."""


def count_flows(vips: Iterable[str]) -> Mapping[Flow, int]:
    """Live flows to the ``vips``, by listener and gateway.

    A flow of TCP is live until both ends closed it, one of UDP until it was
    silent for the kernel's timeout. Costs about 10 µs per flow of the host.
    """
    wanted = {ip_address(vip).packed: vip for vip in vips}
    counts: Counter[Flow] = Counter()
    for version in versions_of(wanted):
        _count(version, wanted, counts)
    return counts


def flows_by_gateway(desired: Desired) -> Mapping[tuple[GroupId, str], int]:
    """Live flows per (Virtual Server uid, gateway name); -1 where none is remembered."""
    listeners: dict[tuple[str, str], list[Ports]] = {}
    names: dict[tuple[str, str], tuple[GroupId, str]] = {}
    for vs in desired.virtual_servers:
        vips = [str(ip_address(vip)) for vip in desired.vips.get(vs.uid, ())]
        for vip, gateway in product(vips, vs.gateways):
            names[vip, str(ip_address(gateway.address))] = (vs.uid, gateway.name)
        for vip, each in product(vips, vs.listeners):
            listeners.setdefault((vip, each.protocol), []).append(each.ports)
    counts: Counter[tuple[GroupId, str]] = Counter(dict.fromkeys(names.values(), 0))
    for flow, number in count_flows(desired.addresses).items():
        vip, protocol, port, address = flow
        name = names.get((vip, address))
        ports = listeners.get((vip, protocol), ())
        if name is not None and any(first <= port <= last for first, last in ports):
            counts[name] += number
    forgotten = unremembered(desired)
    return {name: -1 if name[0] in forgotten else n for name, n in counts.items()}


def end_flows(vips: Iterable[str], gateways: Iterable[str]) -> int:
    """Take the flows between these out of the table; how many of them were live.

    The next packet of such a client opens the flow anew towards another gateway, which does
    not know it and resets it, so that the client connects again. Costs as :func:`count_flows`.
    """
    wanted = {ip_address(vip).packed for vip in vips}
    leaving = {ip_address(gateway).packed for gateway in gateways}
    return sum(_end(version, wanted, leaving) for version in versions_of(leaving))


def _end(version: int, vips: set[bytes], gateways: set[bytes]) -> int:
    live: list[bytes] = []
    over: list[bytes] = []
    for place, body in _flows(version, vips):
        if place[3] in gateways:
            # Nobody loses what was closed already, and the kernel remembers it for minutes.
            (over if _state(version, body) in OVER else live).append(_name(version, body))
    _take_out(version, over)
    return _take_out(version, live)


def end_flows_to(vips: Iterable[str]) -> int:
    """Take all flows to ``vips`` out of the table; how many there were.

    Also those that a gateway's packet was met of first. Costs as :func:`count_flows`.
    """
    wanted = {ip_address(vip).packed for vip in vips}

    def theirs(*ends: Any) -> bool:
        _, vip, protocol, _, answered_to, _ = ends
        return protocol in _PROTOCOL and not wanted.isdisjoint((vip, answered_to))

    return _end_those(wanted, theirs)


def _end_those(vips: Iterable[bytes], theirs: Callable[..., bool]) -> int:
    """Take entries out of the table of whose ends (:data:`_ENDS`) that is true; how many."""
    ended = 0
    for version in versions_of(vips):
        ends = _ENDS[version]
        listed = (body for body in _listed(version) if len(body) >= ends.size)
        found = [_name(version, body) for body in listed if theirs(*ends.unpack_from(body))]
        ended += _take_out(version, found)
    return ended


def _take_out(version: int, entries: Sequence[bytes]) -> int:
    """Remove listed entries, known by their :func:`_name`; how many were still there.

    Listed first: what is taken out of a table while it is listed makes the list incomplete.
    """
    head = header(version)
    pipeline = netlink.Pipeline(netlink.NETFILTER)
    try:
        refused = pipeline.send(
            [netlink.message(DELETE, head + each, number=at) for at, each in enumerate(entries)]
        )
    finally:
        pipeline.close()
    for code in refused.values():
        if code != errno.ENOENT:  # it ended meanwhile
            raise netlink.NetlinkError("end a connection", code)
    return len(entries) - len(refused)


def unanswered(version: int, vips: Container[bytes]) -> Iterator[Unanswered]:
    """Flows to ``vips`` (packed) that no answer has come to; the kernel passes over all others."""
    return _unanswered(version, _flows(version, vips, only(0, of=SEEN_REPLY)))


def end_unanswered(routes: Iterable[Route]) -> int:
    """Take flows on these that were not answered out of the table; how many there were.

    The next packet of such a client, its SYN sent again, goes where a new flow goes. Costs as
    :func:`count_flows`.
    """
    wanted: dict[tuple[bytes, int, bytes], list[tuple[Ports, Ports]]] = {}
    for (vip, protocol, ports), gateway, gateway_ports in routes:
        key = ip_address(vip).packed, _NUMBER[protocol], ip_address(gateway).packed
        wanted.setdefault(key, []).append((ports, gateway_ports))
    vips = {vip for vip, _, _ in wanted}

    def among(place: _Place, gateway_port: bytes) -> bool:
        vip, protocol, port, gateway = place
        at, to = int.from_bytes(port, "big"), int.from_bytes(gateway_port, "big")
        return any(
            first <= at <= last and lowest <= to <= highest
            for (first, last), (lowest, highest) in wanted.get((vip, protocol, gateway), ())
        )

    ended = 0
    for version in versions_of(vips):
        port = _GATEWAY_PORT[version]
        # All are listed: sorting them out, the kernel would hold a processor for the whole
        # table, 60 to 90 ms for 260,000 flows, and the loop with it.
        listed = _flows(version, vips)
        there = ((at, body) for at, body in listed if among(at, body[port]))
        ended += _take_out(version, [flow.name for flow in _unanswered(version, there)])
    return ended


def end_unneeded(
    services: Iterable[Service], own: Iterable[str], passed_by: Iterable[str] = ()
) -> int:
    """Take the flows of listeners out of the table, but those from ``own`` addresses; how many.

    Also those that a gateway's packet was met of first; those whose source is translated to the
    VIP only of the VIPs in ``passed_by``, which gateways answer past this device. For where no
    packet is helped by such an entry. Costs as :func:`count_flows`.
    """
    stay, untranslated = (
        {ip_address(address).packed for address in addresses} for addresses in (own, passed_by)
    )
    ports: dict[tuple[bytes, int], list[Ports]] = {}
    for vip, protocol, some in services:
        ports.setdefault((ip_address(vip).packed, _NUMBER[protocol]), []).append(some)

    def theirs(*ends: Any) -> bool:
        source, vip, protocol, port, answered_to, answered_port = ends
        if answered_to == vip:
            if vip not in untranslated:
                return False
        elif answered_to != source:
            # A gateway's packet was met first: it goes out as the VIP's.
            vip, port = answered_to, answered_port
        at = int.from_bytes(port, "big")
        some = ports.get((vip, protocol), ())
        return source not in stay and any(first <= at <= last for first, last in some)

    return _end_those((vip for vip, _ in ports), theirs)


_Place = tuple[bytes, int, bytes, bytes]
"""(VIP, protocol, port, gateway) of a flow, as the kernel has them."""
_LAYOUTS = {
    version: struct.Struct(f"=4xH2x4x4x{size}x4x{size}s4x4xB3x4x4x4x2s2xH2x4x4x{size}s")
    for version, size in ADDRESS.items()
}
"""Where the two tuples of an entry have what we read. The kernel puts them first, always in one
layout; entries with another one have a zone for one way only, which ours never have."""
_ENDS = {
    version: struct.Struct(f"=4x12x{size}s4x{size}s8xB3x8x4x2s2x12x{size}x4x{size}s8x4x8x4x2s2x")
    for version, size in ADDRESS.items()
}
"""Who began a flow, whom with (address, protocol, port), and where answers go (address, port)."""
_TUPLE = {version: 44 + 2 * size for version, size in ADDRESS.items()}
"""Length of each tuple."""
_GATEWAY_PORT = {
    version: slice(at, at + 2)
    for version, size in ADDRESS.items()
    for at in (HEADER_SIZE + _TUPLE[version] + 32 + 2 * size,)
}
"""The port that a gateway is to answer from."""
_CLIENT = {version: slice(HEADER_SIZE, HEADER_SIZE + size) for version, size in _TUPLE.items()}
_REST = {version: HEADER_SIZE + 2 * size for version, size in _TUPLE.items()}
"""Where the first of the tuples stands, and what comes behind both."""


def _name(version: int, body: bytes) -> bytes:
    """What the kernel knows a listed entry by: the client's side of it, and the zone of the
    connection table that somebody else's rules may have put it in."""
    zone = netlink.find(body, _REST[version], ZONE)
    return body[_CLIENT[version]] + (netlink.attribute(ZONE, zone) if zone else b"")


def _listed(version: int, condition: bytes = b"") -> Iterator[bytes]:
    """Entries that the kernel lists on a ``condition``."""
    head = header(version) + condition
    purpose = "list connections"
    return netlink.request(netlink.NETFILTER, GET, head, flags=netlink.DUMP, purpose=purpose)


def _flows(
    version: int, vips: Container[bytes], condition: bytes = b""
) -> Iterator[tuple[_Place, bytes]]:
    """Flows to ``vips``, of those that the kernel lists on a ``condition``, with their entries."""
    layout, length = _LAYOUTS[version], _TUPLE[version]
    for each in _listed(version, condition):
        if len(each) < layout.size:
            continue
        original, vip, protocol, port, reply, gateway = layout.unpack_from(each)
        if vip in vips and original == reply == length and protocol in _PROTOCOL:
            yield (vip, protocol, port, gateway), each


def _unanswered(version: int, flows: Iterable[tuple[_Place, bytes]]) -> Iterator[Unanswered]:
    """Those of the ``flows`` that no answer has come to; of TCP, to a SYN.

    A flow of TCP that is met in its middle, as after a takeover, was answered elsewhere,
    unless it leads to the VIP itself: so it does where it was met while no rule led it.
    """
    rest = _REST[version]
    for place, body in flows:
        status = int.from_bytes(netlink.find(body, rest, STATUS), "big")
        vip, protocol, _, gateway = place
        led = protocol == TCP and gateway != vip
        if not status & SEEN_REPLY and not (led and _state(version, body) != SYN_SENT):
            yield Unanswered(*place, _name(version, body))


def _count(version: int, wanted: Mapping[bytes, str], counts: Counter[Flow]) -> None:
    """Add the flows of one IP version."""
    found = _flows(version, wanted)
    raw = Counter(place for place, body in found if _state(version, body) not in OVER)
    for (vip, protocol, port, gateway), number in raw.items():
        address = str(ip_address(gateway))
        counts[wanted[vip], _PROTOCOL[protocol], int.from_bytes(port, "big"), address] += number


def gateway_of(protocol: str, client: str, port: int, vip: str, vip_port: int) -> str | None:
    """Address of the gateway of one flow, by the connection table; None if it has no entry."""
    source, destination = ip_address(client), ip_address(vip)
    first = 1 if source.version == 4 else 3
    addresses = netlink.attribute(first, source.packed) + netlink.attribute(
        first + 1, destination.packed
    )
    ports = (
        netlink.attribute(1, bytes([_NUMBER[protocol]]))
        + netlink.attribute(2, port.to_bytes(2, "big"))
        + netlink.attribute(3, vip_port.to_bytes(2, "big"))
    )
    original = nest(1, addresses) + nest(2, ports)
    body = header(source.version) + nest(ORIGINAL, original)
    try:
        (entry,) = netlink.request(netlink.NETFILTER, GET, body, purpose="look up a connection")
    except netlink.NetlinkError as error:
        if error.code == errno.ENOENT:
            return None
        raise
    reply = dict(netlink.attributes(dict(netlink.attributes(entry[HEADER_SIZE:]))[REPLY]))
    return str(ip_address(dict(netlink.attributes(reply[1]))[first]))


def _state(version: int, body: bytes) -> int | None:
    """The state of TCP of an entry; None if it is of another protocol."""
    about = netlink.find(body, _REST[version], PROTOINFO)
    return about[TCP_STATE_AT] if len(about) > TCP_STATE_AT else None
