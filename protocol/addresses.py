"""Addresses as people write them, checked and brought into canonical form.

Every function takes the path of the value in the operator's input, for the
error, and raises InvalidInput with the value and the remedy.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from protocol.errors import InvalidInput
from protocol.shown import shown

Address = IPv4Address | IPv6Address

PORTS_PER_ADDRESS = 4
"""A device listens on the port of its address and on the three that follow."""

_REMEMBERED = 65536
_BROADCAST = IPv4Address("255.255.255.255")
_VIP_FORM = "Write ADDRESS/PREFIX, such as 10.77.0.100/24 or fd77::100/64."
_GATEWAY_FORM = "Write one IPv4 or IPv6 address, such as 10.77.0.31."
_ENDPOINT_FORM = "Write IP:PORT, such as 10.77.0.11:7480 or [fd77::11]:7480."


class _Problem(Exception):
    """What is wrong with an address, said after its path and value; and the remedy."""


def check_vip(path: str, text: str) -> str:
    """Canonical ``ADDRESS/PREFIX`` of a VIP.

    Without a prefix it names no network: the result ends in ``/32`` or ``/128``.
    """
    try:
        return _vip(text)
    except _Problem as problem:
        raise _invalid(path, text, problem) from None


def check_gateway_address(path: str, text: str) -> str:
    """Canonical form of a gateway's address."""
    try:
        return _gateway(text)
    except _Problem as problem:
        raise _invalid(path, text, problem) from None


def check_endpoint(path: str, text: str) -> str:
    """Canonical ``IP:PORT`` or ``[IPv6]:PORT`` that peers can connect to."""
    try:
        return _endpoint(text)
    except _Problem as problem:
        raise _invalid(path, text, problem) from None


def join_endpoint(address: Address, port: int) -> str:
    """``IP:PORT`` or ``[IPv6]:PORT``; the inverse of :func:`split_endpoint`."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def split_endpoint(endpoint: str) -> tuple[Address, int]:
    """Address and port of a canonical endpoint."""
    host, _, port = endpoint.rpartition(":")
    return ip_address(host.strip("[]")), int(port)


def endpoints_clash(one: str, other: str) -> bool:
    """Whether two canonical endpoints share an address and any of their ports."""
    (address, port), (address2, port2) = split_endpoint(one), split_endpoint(other)
    return address == address2 and abs(port - port2) < PORTS_PER_ADDRESS


def family(address: str) -> int:
    """4 or 6; takes ``ADDRESS`` or ``ADDRESS/PREFIX``."""
    return 6 if ":" in address else 4


def names_network(vip: str) -> bool:
    """Whether a canonical VIP names the network that it lies in."""
    return not vip.endswith("/128" if family(vip) == 6 else "/32")


def _invalid(path: str, text: str, problem: _Problem) -> InvalidInput:
    what, remedy = problem.args
    return InvalidInput(f"`{path}` is {shown(text)}{what}", remedy)


# A document's addresses are looked at several times: as values, and against each other.
@lru_cache(maxsize=_REMEMBERED)
def _vip(text: str) -> str:
    host, slash, prefix = text.partition("/")
    address = _usable(host, _VIP_FORM)
    widest = address.max_prefixlen
    if slash and not (prefix.isascii() and prefix.isdigit() and len(prefix) <= 3):
        raise _Problem(": its prefix is not a number", _VIP_FORM)
    length = int(prefix) if slash else widest
    if not 1 <= length <= widest:
        raise _Problem(": its prefix is out of range", f"Use a prefix from 1 to {widest}.")
    _refuse_ends_of_network(address, length)
    return f"{address}/{length}"


@lru_cache(maxsize=_REMEMBERED)
def _gateway(text: str) -> str:
    return str(_usable(text, _GATEWAY_FORM))


def _endpoint(text: str) -> str:
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    digits = port.isascii() and port.isdigit() and len(port) <= 5
    if not colon or not digits or (":" in host and not bracketed):
        raise _Problem(", which is not IP:PORT", _ENDPOINT_FORM)
    address = _parsed(host[1:-1] if bracketed else host, _ENDPOINT_FORM)
    if address.is_unspecified or address.is_multicast:
        raise _Problem(
            ": peers cannot connect to that address",
            "Name an address of this host that the other devices reach.",
        )
    highest = 65535 - (PORTS_PER_ADDRESS - 1)
    if not 1 <= int(port) <= highest:
        raise _Problem(
            ": its port is out of range",
            f"Use a port from 1 to {highest}; the three ports after it are used too.",
        )
    return join_endpoint(address, int(port))


def _parsed(host: str, form: str) -> Address:
    try:
        address = ip_address(host)
    except ValueError:
        raise _Problem(", which is not an IP address", form) from None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise _Problem(", which names an interface", form)
        if address.ipv4_mapped is not None:
            raise _Problem(", an IPv4 address written as IPv6", f"Write {address.ipv4_mapped}.")
    return address


def _usable(host: str, form: str) -> Address:
    """An address that a host can have towards others."""
    address = _parsed(host, form)
    special = {
        "the unspecified address": address.is_unspecified,
        "a loopback address": address.is_loopback,
        "a multicast address": address.is_multicast,
        "a link-local address": address.is_link_local,
        "the broadcast address": address == _BROADCAST,
    }
    for what, true in special.items():
        if true:
            raise _Problem(f", which is {what}", form)
    return address


def _refuse_ends_of_network(address: Address, length: int) -> None:
    """The first address of an IPv4 network and its broadcast address serve no host."""
    if address.version == 6 or length >= 31:
        return
    network = ip_network((address, length), strict=False)
    for what, end in (("network", network[0]), ("broadcast", network[-1])):
        if address == end:
            raise _Problem(
                f", which is the {what} address of {network}",
                "Use an address of a host in that network.",
            )
