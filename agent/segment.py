"""Who is around: routers and neighbours, as the kernel knows them.

Reads routes and the neighbour tables by netlink, tens of microseconds each.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from contextlib import suppress
from ipaddress import ip_address

from agent import netlink

_GET_ROUTE, _GET_NEIGHBOUR = 26, 30
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxHiHBB")
_DESTINATION, _OUT, _GATEWAY = 1, 4, 5
_ADDRESS_OF_NEIGHBOUR = 1
_INCOMPLETE, _FAILED = 0x01, 0x20
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_SOMEWHERE = {
    socket.AF_INET: ip_address("192.0.2.1").packed,
    socket.AF_INET6: ip_address("2001:db8::1").packed,
}
"""Addresses that are never near (RFC 5737, 3849); nothing is sent to them."""


def routers(interface: str) -> tuple[str, ...]:
    """The router that ``interface`` leads to the world by, for each IP version that has one."""
    try:
        index = socket.if_nametoindex(interface)
    except OSError:
        return ()
    found = []
    for family, somewhere in _SOMEWHERE.items():
        with suppress(netlink.NetlinkError):  # no route
            out, hop = _next_hop(family, somewhere, index)
            if out == index and hop != somewhere:
                found.append(str(ip_address(hop)))
    return tuple(found)


def without_a_way() -> frozenset[int]:
    """IP versions in which no route leads to the world, by whatever interface.

    Asked as for a packet of this host: any metric will do, several next hops, a half of the world,
    and another table that a rule leads all packets to. A route that drops packets (``blackhole``)
    may be about that one address.
    """
    return frozenset(
        version for version, family in _FAMILY.items() if not _leads_to(family, _SOMEWHERE[family])
    )


def _leads_to(family: socket.AddressFamily, packed: bytes) -> bool:
    try:
        _next_hop(family, packed)
    except netlink.NetlinkError as error:
        return error.code not in (errno.ENETUNREACH, errno.EHOSTUNREACH)
    return True


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


def _next_hop(family: socket.AddressFamily, packed: bytes, through: int = 0) -> tuple[int, bytes]:
    """Index of the interface, and the neighbour on it that packets are given to."""
    body = _ROUTE.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
    body += netlink.attribute(_DESTINATION, packed)
    if through:
        body += netlink.attribute(_OUT, through.to_bytes(4, sys.byteorder))
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
