"""Interfaces and their addresses, and the VIPs that we put there.

Our addresses carry the origin mark :data:`OURS`, so that those of a killed
agent are recognised and those of the operator are never touched. A VIP is
configured on every device all the time; whether it can be reached is the
lease's business.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface

from agent import bridge, netlink
from protocol.errors import HalbError

OURS = 0x48
"""Value of IFA_PROTO ("H"), which says who made an address; Linux 5.18 and newer."""

_NEW_ADDRESS, _DELETE_ADDRESS, _GET_ADDRESS, _GET_LINK = 20, 21, 22, 18
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS, _IFA_PROTO = 1, 2, 6, 8, 11
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINKINFO = 1, 3, 18
_NO_DAD, _NO_PREFIX_ROUTE = 0x02, 0x200
_DOUBTFUL = 0x08 | 0x40
"""Flags of an address that another host may have: duplicate detection failed, or goes on."""
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_UNIVERSAL = 0
"""Scope of an address: RT_SCOPE_UNIVERSE."""
_SIOCGIFMTU = 0x8921
_FOREVER = 0xFFFFFFFF
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_ADDRESS_HEADER = struct.Struct("=BBBBI")
_LINK_HEADER = struct.Struct("=BxHiII")


class InterfaceMissing(HalbError):
    """The service interface does not exist (any more)."""

    def __init__(self, interface: str) -> None:
        others = ", ".join(name for _, name in socket.if_nameindex() if name != "lo") or "none"
        super().__init__(
            f"network interface {interface} does not exist",
            f"Bring it back, or start halb-agent with --interface NAME; there are: {others}.",
        )


@dataclass(frozen=True, slots=True)
class Link:
    """An interface at one moment."""

    index: int
    mac: bytes
    up: bool
    """Administratively up."""
    carrier: bool
    """The link layer works: cable plugged, peer up."""
    filters: bool = False
    """It is a bridge that gives its frames to the rules of IP: see :mod:`agent.bridge`."""


@dataclass(frozen=True, slots=True)
class Address:
    """One address of an interface."""

    interface: IPv4Interface | IPv6Interface
    ours: bool
    universal: bool = True
    """Valid beyond its link."""
    doubtful: bool = False
    """Another host may have it."""

    @property
    def ip(self) -> str:
        return str(self.interface.ip)


def link(interface: str) -> Link:
    """The state of ``interface``; raise :class:`InterfaceMissing` if there is none."""
    body = _LINK_HEADER.pack(0, 0, 0, 0, 0)
    body += netlink.attribute(_IFLA_IFNAME, interface.encode() + b"\0")
    purpose = f"look up interface {interface}"
    try:
        found = list(netlink.request(netlink.ROUTE, _GET_LINK, body, purpose=purpose))
    except netlink.NetlinkError as error:
        if error.code == errno.ENODEV:
            raise InterfaceMissing(interface) from error
        raise
    _, _, index, flags, _ = _LINK_HEADER.unpack_from(found[0])
    values = dict(netlink.attributes(found[0][_LINK_HEADER.size :]))
    return Link(
        index,
        mac=values.get(_IFLA_ADDRESS, b""),
        up=bool(flags & _IFF_UP),
        carrier=bool(flags & _IFF_LOWER_UP),
        filters=bridge.filters(values.get(_IFLA_LINKINFO, b"")),
    )


def addresses(interface: str) -> tuple[Address, ...]:
    """All addresses of ``interface``."""
    index = link(interface).index
    return tuple(address for at, address in _dump() if at == index)


def networks(interface: str) -> tuple[IPv4Interface | IPv6Interface, ...]:
    """The operator's addresses of ``interface`` with their prefixes: what a VIP may lie in."""
    return tuple(a.interface for a in addresses(interface) if not a.ours)


def own(interface: str) -> tuple[str, ...]:
    """The operator's addresses of ``interface``, but for those that another host may have."""
    return tuple(a.ip for a in addresses(interface) if not a.ours and not a.doubtful)


def in_front(interface: str) -> tuple[str, ...]:
    """IPv4 VIPs of ``interface`` that come before every address that the operator gave it.

    Where nothing else tells, as with a route without a gateway or with multicast, the kernel
    sends from the first one.
    """
    found: list[str] = []
    for address in addresses(interface):
        if address.interface.version == 4 and address.universal:
            if not address.ours:
                return tuple(found)
            found.append(address.ip)
    return ()


def local_addresses() -> frozenset[str]:
    """Every address of this host, on all interfaces."""
    return frozenset(address.ip for _, address in _dump())


def of_others() -> frozenset[str]:
    """Every address of this host, on all interfaces, that is not one of our VIPs."""
    return frozenset(address.ip for _, address in _dump() if not address.ours)


def ours() -> tuple[tuple[str, str], ...]:
    """(interface, VIP) of every address of this host that carries our mark."""
    return tuple(
        (socket.if_indextoname(index), address.ip) for index, address in _dump() if address.ours
    )


def add(interface: str, vip: str) -> None:
    """Put a VIP on ``interface``: /32, or /128 without duplicate detection.

    An IPv6 VIP is deprecated from the start, so that the device never picks it
    as the source of its own traffic. Raises NetlinkError with ``code`` EEXIST if
    somebody else put the same address there.
    """
    body = _address(interface, vip)
    body += netlink.attribute(_IFA_CACHEINFO, struct.pack("=IIII", 0, _FOREVER, 0, 0))
    body += netlink.attribute(_IFA_FLAGS, struct.pack("=I", _NO_DAD | _NO_PREFIX_ROUTE))
    body += netlink.attribute(_IFA_PROTO, struct.pack("=B", OURS))
    netlink.execute(
        netlink.ROUTE,
        _NEW_ADDRESS,
        body,
        flags=netlink.CREATE_EXCLUSIVE,
        purpose=f"add {vip} to {interface}",
    )


def remove(interface: str, vip: str) -> None:
    """Take a VIP off ``interface``; that it is gone already is fine."""
    purpose = f"remove {vip} from {interface}"
    try:
        netlink.execute(netlink.ROUTE, _DELETE_ADDRESS, _address(interface, vip), purpose=purpose)
    except netlink.NetlinkError as error:
        if error.code != errno.EADDRNOTAVAIL:
            raise


def _address(interface: str, vip: str) -> bytes:
    ip = ip_address(vip)
    index = link(interface).index
    header = _ADDRESS_HEADER.pack(_FAMILY[ip.version], ip.max_prefixlen, 0, 0, index)
    return header + b"".join(
        netlink.attribute(kind, ip.packed) for kind in (_IFA_LOCAL, _IFA_ADDRESS)
    )


def _dump() -> Iterator[tuple[int, Address]]:
    """(interface index, address) of every address of the host."""
    body = _ADDRESS_HEADER.pack(0, 0, 0, 0, 0)
    for each in netlink.listed(netlink.ROUTE, _GET_ADDRESS, body, purpose="list addresses"):
        family, prefix, _, scope, index = _ADDRESS_HEADER.unpack_from(each)
        values = dict(netlink.attributes(each[_ADDRESS_HEADER.size :]))
        packed = values.get(_IFA_LOCAL, values.get(_IFA_ADDRESS))
        if packed is None or family not in _FAMILY.values():
            continue
        ours = values.get(_IFA_PROTO) == bytes([OURS])
        flags = int.from_bytes(values.get(_IFA_FLAGS, b""), sys.byteorder)
        ip, doubtful = ip_interface((packed, prefix)), bool(flags & _DOUBTFUL)
        yield index, Address(ip, ours, scope == _UNIVERSAL, doubtful)


def mtu(interface: str) -> int:
    """Largest IP packet that ``interface`` sends; raise :class:`InterfaceMissing` without it."""
    request = struct.pack("16sI12x", interface.encode(), 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFMTU, request)
        except OSError as error:
            raise InterfaceMissing(interface) from error
    return int(struct.unpack_from("16sI", answer)[1])
