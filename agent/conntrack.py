"""Reading the kernel's connection table: how many flows each gateway has."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from agent import netlink

_GET = (1 << 8) | 1
_HEADER = struct.Struct("!BBH")
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_SIZE = {4: 4, 6: 16}
_PROTOINFO = 4
_PROTOCOL = {6: "tcp", 17: "udp"}
_FINISHED = frozenset({7, 8})
"""TCP states TIME_WAIT and CLOSE: kept by the kernel, but no longer live."""
_TCP_STATE_AT = 8
"""Where the state stands in the nested attributes about TCP: after two headers."""

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
        if any(len(packed) == _SIZE[version] for packed in wanted):
            _count(version, wanted, counts)
    return counts


def _count(version: int, wanted: Mapping[bytes, str], counts: Counter[Flow]) -> None:
    """Add the flows of one IP version.

    The kernel puts the two tuples first, always in one layout; entries with
    another one belong to a conntrack zone, which ours never do.
    """
    size = _SIZE[version]
    layout = struct.Struct(f"=4xH2x4x4x{size}x4x{size}s4x4xB3x4x4x4x2s2xH2x4x4x{size}s")
    tuple_size = 44 + 2 * size
    raw: Counter[tuple[bytes, int, bytes, bytes]] = Counter()
    for each in netlink.request(
        netlink.NETFILTER,
        _GET,
        _HEADER.pack(_FAMILY[version], 0, 0),
        flags=netlink.DUMP,
        purpose="list connections",
    ):
        if len(each) < layout.size:
            continue
        original, vip, protocol, port, reply, gateway = layout.unpack_from(each)
        if vip in wanted and original == reply == tuple_size and protocol in _PROTOCOL:
            rest = each[_HEADER.size + 2 * tuple_size :]
            if not _finished(rest):
                raw[vip, protocol, port, gateway] += 1
    for (vip, protocol, port, gateway), number in raw.items():
        address = str(ip_address(gateway))
        counts[wanted[vip], _PROTOCOL[protocol], int.from_bytes(port, "big"), address] += number


def _finished(attributes: bytes) -> bool:
    """Whether the attributes after the tuples show a TCP connection that both ends closed."""
    for kind, value in netlink.attributes(attributes):
        if kind == _PROTOINFO:
            return len(value) > _TCP_STATE_AT and value[_TCP_STATE_AT] in _FINISHED
    return False
