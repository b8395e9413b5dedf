"""The kernel's connection table: how many flows each gateway has, and ending them."""

from __future__ import annotations

import errno
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from itertools import product

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
    TCP_STATE_AT,
    header,
    nest,
)
from agent.ruleset import Desired, unremembered
from protocol.ids import GroupId
from protocol.ports import Ports

_PROTOCOL = {6: "tcp", 17: "udp"}
_NUMBER = {name: number for number, name in _PROTOCOL.items()}

Flow = tuple[str, str, int, str]
"""(VIP, protocol, port, gateway address) of a flow."""


def count_flows(vips: Iterable[str]) -> Mapping[Flow, int]:
    """Live flows to the ``vips``, by listener and gateway.

    A flow of TCP is live until both ends closed it, one of UDP until it was
    silent for the kernel's timeout. Costs about 10 µs per flow of the host.
    """
    wanted = {ip_address(vip).packed: vip for vip in vips}
    counts: Counter[Flow] = Counter()
    for version in (4, 6):
        if any(len(packed) == ADDRESS[version] for packed in wanted):
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
    """Take the flows between these out of the table; how many there were.

    The next packet of such a client opens the flow anew towards another gateway, which does
    not know it and resets it, so that the client connects again. Costs as :func:`count_flows`.
    """
    wanted = {ip_address(vip).packed for vip in vips}
    leaving = {ip_address(gateway).packed for gateway in gateways}
    ended = 0
    for version in (4, 6):
        if any(len(packed) == ADDRESS[version] for packed in leaving):
            ended += _end(version, wanted, leaving)
    return ended


def _end(version: int, vips: set[bytes], gateways: set[bytes]) -> int:
    layout, tuple_size = layout_of(version)
    head, ended = header(version), 0
    dumped = netlink.request(
        netlink.NETFILTER, GET, head, flags=netlink.DUMP, purpose="list connections"
    )
    # Listed first: what is taken out of a table while it is listed makes the list incomplete.
    for each in list(dumped):
        if len(each) < layout.size:
            continue
        original, vip, _, _, reply, gateway = layout.unpack_from(each)
        if vip not in vips or gateway not in gateways or not original == reply == tuple_size:
            continue
        entry = each[HEADER_SIZE : HEADER_SIZE + tuple_size]
        try:
            netlink.execute(netlink.NETFILTER, DELETE, head + entry, purpose="end a connection")
        except netlink.NetlinkError as error:
            if error.code != errno.ENOENT:  # it ended meanwhile
                raise
        else:
            ended += 1
    return ended


def layout_of(version: int) -> tuple[struct.Struct, int]:
    """Where the two tuples of an entry have what we read, and the length of each tuple.

    The kernel puts them first, always in one layout; entries with another one belong to a
    conntrack zone, which ours never do.
    """
    size = ADDRESS[version]
    fields = f"=4xH2x4x4x{size}x4x{size}s4x4xB3x4x4x4x2s2xH2x4x4x{size}s"
    return struct.Struct(fields), 44 + 2 * size


def _count(version: int, wanted: Mapping[bytes, str], counts: Counter[Flow]) -> None:
    """Add the flows of one IP version."""
    layout, tuple_size = layout_of(version)
    raw: Counter[tuple[bytes, int, bytes, bytes]] = Counter()
    for each in netlink.request(
        netlink.NETFILTER,
        GET,
        header(version),
        flags=netlink.DUMP,
        purpose="list connections",
    ):
        if len(each) < layout.size:
            continue
        original, vip, protocol, port, reply, gateway = layout.unpack_from(each)
        if vip in wanted and original == reply == tuple_size and protocol in _PROTOCOL:
            rest = each[HEADER_SIZE + 2 * tuple_size :]
            if not _finished(rest):
                raw[vip, protocol, port, gateway] += 1
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


def _finished(attributes: bytes) -> bool:
    """Whether the attributes after the tuples show a TCP connection that both ends closed."""
    state = netlink.find(attributes, 0, PROTOINFO)
    return len(state) > TCP_STATE_AT and state[TCP_STATE_AT] in OVER
