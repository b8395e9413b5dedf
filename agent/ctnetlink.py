"""Words of the kernel's connection table (linux/netfilter/nfnetlink_conntrack.h). Pure."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

from agent import netlink

NEW, GET, DELETE = 1 << 8, (1 << 8) | 1, (1 << 8) | 2
"""Types of a request."""
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
ADDRESS = {4: 4, 6: 16}
"""Size of an address."""

ORIGINAL, REPLY = 1, 2
STATUS, PROTOINFO, TIMEOUT, MARK, ZONE, STATUS_MASK = 3, 4, 7, 8, 18, 26
"""Attributes of an entry."""
NESTED = 0x8000

SEEN_REPLY, ASSURED, CONFIRMED, TRANSLATED = 0x2, 0x4, 0x8, 0x20
"""Bits of the status; the last one: its destination is."""
OPEN = ASSURED | TRANSLATED
"""Status of a flow that lasts, and whose destination is translated."""

SYN_SENT, ESTABLISHED, TIME_WAIT, CLOSE = 1, 3, 7, 8
"""States of TCP."""
OVER = frozenset({TIME_WAIT, CLOSE})
"""States in which nothing more comes; the kernel keeps the entry for a while."""
TCP_STATE_AT = 8
"""Where the state stands in the nested attributes about TCP: after two headers."""

_HEADER = struct.Struct("!BBH")
HEADER_SIZE = _HEADER.size


def header(version: int) -> bytes:
    """What a request about entries of an IP version begins with."""
    return _HEADER.pack(FAMILY[version], 0, 0)


def nest(kind: int, value: bytes) -> bytes:
    """An attribute that consists of others."""
    return netlink.attribute(kind | NESTED, value)


def only(status: int, of: int) -> bytes:
    """Of a request to list: entries that have ``status`` of these bits. Since Linux 5.16."""
    asked = netlink.attribute(STATUS, status.to_bytes(4, "big"))
    return asked + netlink.attribute(STATUS_MASK, of.to_bytes(4, "big"))


def versions_of(addresses: Iterable[bytes]) -> tuple[int, ...]:
    """The IP versions of packed ``addresses``."""
    sizes = {len(address) for address in addresses}
    return tuple(version for version, size in ADDRESS.items() if size in sizes)
