"""Who is around: routers and neighbours, as the kernel knows them.

Reads routes and the neighbour tables by netlink, tens of microseconds each.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterator
from ipaddress import ip_address

from agent import netlink

_GET_ROUTE, _GET_NEIGHBOUR = 26, 30
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxHiHBB")
_DESTINATION, _OUT, _GATEWAY, _TABLE = 1, 4, 5, 15
_ADDRESS_OF_NEIGHBOUR = 1
_INCOMPLETE, _FAILED = 0x01, 0x20
_MAIN = 254
MAX_ROUTERS = 4


def routers(interface: str) -> tuple[str, ...]:
    """Addresses of the default routers through ``interface``, at most :data:`MAX_ROUTERS`."""
    try:
        index = socket.if_nametoindex(interface)
    except OSError:
        return ()
    found: list[str] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        found += (each for each in _defaults(family, index) if each not in found)
    return tuple(found[:MAX_ROUTERS])


def _defaults(family: socket.AddressFamily, index: int) -> Iterator[str]:
    body = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    for each in netlink.request(
        netlink.ROUTE, _GET_ROUTE, body, flags=netlink.DUMP, purpose="list routes"
    ):
        _, length, *_ = _ROUTE.unpack_from(each)
        values = dict(netlink.attributes(each[_ROUTE.size :]))
        via, out = values.get(_GATEWAY), values.get(_OUT)
        if length or via is None or out is None or _int(out) != index:
            continue
        if _int(values.get(_TABLE, b"")) == _MAIN:
            yield str(ip_address(via))


def is_unresolved(address: str) -> bool:
    """Whether the kernel asked for the next hop to ``address``, and nobody has answered."""
    packed = ip_address(address).packed
    family = socket.AF_INET6 if len(packed) == 16 else socket.AF_INET
    try:
        index, hop = _next_hop(family, packed)
        return bool(_state(family, index, hop) & (_INCOMPLETE | _FAILED))
    except netlink.NetlinkError as error:
        # No route, or nobody was asked: a loopback address, or a link without neighbours.
        if error.code in (errno.ENOENT, errno.ENETUNREACH, errno.EHOSTUNREACH):
            return False
        raise


def _next_hop(family: socket.AddressFamily, packed: bytes) -> tuple[int, bytes]:
    """Index of the interface, and the neighbour on it that packets are given to."""
    body = _ROUTE.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
    body += netlink.attribute(_DESTINATION, packed)
    (answer,) = netlink.request(netlink.ROUTE, _GET_ROUTE, body, purpose="look up a route")
    values = dict(netlink.attributes(answer[_ROUTE.size :]))
    return _int(values[_OUT]), values.get(_GATEWAY, packed)


def _state(family: socket.AddressFamily, index: int, hop: bytes) -> int:
    body = _NEIGHBOUR.pack(family, 0, index, 0, 0, 0)
    body += netlink.attribute(_ADDRESS_OF_NEIGHBOUR, hop)
    (answer,) = netlink.request(netlink.ROUTE, _GET_NEIGHBOUR, body, purpose="look up a neighbour")
    state: int = _NEIGHBOUR.unpack_from(answer)[3]
    return state


def _int(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)
