"""Reading the kernel's connection table: how many flows each gateway has."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from agent import netlink

_GET = (1 << 8) | 1
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_GENERIC = struct.Struct("!BBH")
_TUPLE_ORIGINAL, _TUPLE_REPLY, _PROTOINFO = 1, 2, 4
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_SOURCE = {4: 1, 6: 3}
_DESTINATION = {4: 2, 6: 4}
_PROTOINFO_TCP, _TCP_STATE = 1, 1
_PROTO_NUMBER, _PROTO_DESTINATION_PORT = 1, 3
_FINISHED = frozenset({7, 8})
"""TCP states TIME_WAIT and CLOSE: kept by the kernel, but no longer live."""
_PROTOCOL = {6: "tcp", 17: "udp"}

Flow = tuple[str, str, int, str]
"""(VIP, protocol, port, gateway address) of a flow."""


def count_flows(vips: Iterable[str]) -> Mapping[Flow, int]:
    """Live flows to the ``vips``, by listener and gateway.

    A flow of TCP is live until both ends closed it, one of UDP until it was
    silent for the kernel's timeout. Costs about 5 µs per flow of the host.
    """
    wanted = {ip_address(vip).packed: vip for vip in vips}
    counts: Counter[tuple[bytes, bytes]] = Counter()
    for version in sorted({4 if len(packed) == 4 else 6 for packed in wanted}):
        header = _GENERIC.pack(_FAMILY[version], 0, 0)
        found = netlink.request(
            netlink.NETFILTER, _GET, header, flags=netlink.DUMP, purpose="list connections"
        )
        for each in found:
            if any(packed in each for packed in wanted):
                _count(each[_GENERIC.size :], version, wanted, counts)
    return _named(counts, wanted)


def _count(
    data: bytes, version: int, wanted: Mapping[bytes, str], counts: Counter[tuple[bytes, bytes]]
) -> None:
    values = dict(netlink.attributes(data))
    original = dict(netlink.attributes(values[_TUPLE_ORIGINAL]))
    vip = dict(netlink.attributes(original[_TUPLE_IP]))[_DESTINATION[version]]
    if vip not in wanted or _finished(values.get(_PROTOINFO, b"")):
        return
    ports = dict(netlink.attributes(original[_TUPLE_PROTO]))
    if _PROTO_DESTINATION_PORT not in ports:
        return
    reply = dict(netlink.attributes(values[_TUPLE_REPLY]))
    gateway = dict(netlink.attributes(reply[_TUPLE_IP]))[_SOURCE[version]]
    service = vip + ports[_PROTO_NUMBER] + ports[_PROTO_DESTINATION_PORT]
    counts[service, gateway] += 1


def _finished(info: bytes) -> bool:
    tcp = dict(netlink.attributes(info)).get(_PROTOINFO_TCP, b"")
    state = dict(netlink.attributes(tcp)).get(_TCP_STATE, b"\0")
    return state[0] in _FINISHED


def _named(
    counts: Mapping[tuple[bytes, bytes], int], wanted: Mapping[bytes, str]
) -> Mapping[Flow, int]:
    named: dict[Flow, int] = {}
    for (service, gateway), number in counts.items():
        vip, (protocol, port) = service[:-3], struct.unpack("!BH", service[-3:])
        if protocol in _PROTOCOL:
            named[wanted[vip], _PROTOCOL[protocol], port, str(ip_address(gateway))] = number
    return named
