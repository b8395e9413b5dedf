"""Frames of ARP (RFC 826, 5227) and neighbour discovery (RFC 4861): pure codecs."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

ETH_IPV4 = 0x0800
ETH_ARP = 0x0806
ETH_IPV6 = 0x86DD
ICMPV6 = 58
SOLICIT, ADVERT = 135, 136

_BROADCAST = b"\xff" * 6
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ARP_HEAD = (1, ETH_IPV4, 6, 4)
_REQUEST = 1
_ALL_NODES = IPv6Address("ff02::1")
_UNSPECIFIED = IPv6Address("::")
_SOLICITED = int(IPv6Address("ff02::1:ff00:0"))
_ROUTER, _OVERRIDE = 0x80000000, 0x20000000
_OPTION_SOURCE, _OPTION_TARGET = 1, 2


def mac_of(text: str) -> bytes:
    """A hardware address that is written as ``02:00:00:00:00:01``."""
    return bytes.fromhex(text.replace(":", ""))


def gratuitous_arp(vip: IPv4Address, mac: bytes) -> bytes:
    """ "The VIP is at this MAC", to all: a request for the own address (RFC 5227, 3)."""
    return _arp(mac, vip, vip)


def arp_probe(vip: IPv4Address, mac: bytes) -> bytes:
    """ "Who has the VIP?" from nobody, which enters no cache (RFC 5227, 1.1)."""
    return _arp(mac, IPv4Address(0), vip)


def _arp(mac: bytes, sender: IPv4Address, target: IPv4Address) -> bytes:
    body = _ARP.pack(*_ARP_HEAD, _REQUEST, mac, sender.packed, bytes(6), target.packed)
    return ethernet(_BROADCAST, mac, ETH_ARP, body)


def arp_request(vip: IPv4Address, mac: bytes, to: IPv4Address) -> bytes:
    """ "Who has ``to``? Tell the VIP, at this MAC": who is asked takes that over (RFC 826)."""
    return _arp(mac, vip, to)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a frame says of an address."""

    address: IPv4Address | IPv6Address
    mac: bytes
    """Of whoever says it."""
    has: bool
    """It has the address; else it asks for it, from nobody, as before taking it."""


def heard(frame: bytes) -> Heard | None:
    """What an ARP or neighbour discovery frame says, where it says anything of this kind."""
    if len(frame) >= 14 + _ARP.size and frame[12:14] == ETH_ARP.to_bytes(2, "big"):
        *head, operation, mac, sender, _, target = _ARP.unpack_from(frame, 14)
        if tuple(head) != _ARP_HEAD:
            return None
        if sender != bytes(4):
            return Heard(IPv4Address(sender), mac, has=True)
        return Heard(IPv4Address(target), mac, has=False) if operation == _REQUEST else None
    message = frame[54:]
    if frame[12:14] != ETH_IPV6.to_bytes(2, "big") or len(message) < 24:
        return None
    address = IPv6Address(message[8:24])
    if message[0] == SOLICIT and frame[22:38] == _UNSPECIFIED.packed:
        return Heard(address, frame[6:12], has=False)
    return advertised(message)


def unsolicited_advert(vip: IPv6Address, mac: bytes) -> bytes:
    """ "The VIP is at this MAC", to all: caches take it over (RFC 4861, 7.2.6).

    The router flag is set as in the kernel's own answers of a forwarding host.
    """
    option = bytes([_OPTION_TARGET, 1]) + mac
    message = struct.pack("!BBHI", ADVERT, 0, 0, _ROUTER | _OVERRIDE) + vip.packed + option
    return _discovery(mac, vip, _ALL_NODES, message)


def solicit(vip: IPv6Address, mac: bytes) -> bytes:
    """ "Who has the VIP?" from nobody, as in duplicate detection (RFC 4862, 5.4.2)."""
    group = IPv6Address(_SOLICITED | int(vip) & 0xFFFFFF)
    message = struct.pack("!BBHI", SOLICIT, 0, 0, 0) + vip.packed
    return _discovery(mac, _UNSPECIFIED, group, message)


def solicit_from(vip: IPv6Address, mac: bytes, to: IPv6Address) -> bytes:
    """ "Who has ``to``? Tell the VIP, at this MAC": taken over as in RFC 4861, 7.2.3."""
    group = IPv6Address(_SOLICITED | int(to) & 0xFFFFFF)
    option = bytes([_OPTION_SOURCE, 1]) + mac
    message = struct.pack("!BBHI", SOLICIT, 0, 0, 0) + to.packed + option
    return _discovery(mac, vip, group, message)


def advertised(message: bytes) -> Heard | None:
    """What an ICMPv6 message (no IP header) advertises, if anything."""
    if len(message) < 24 or message[0] != ADVERT:
        return None
    at = 24
    while at + 8 <= len(message) and message[at + 1]:
        if message[at] == _OPTION_TARGET:
            return Heard(IPv6Address(message[8:24]), message[at + 2 : at + 8], has=True)
        at += 8 * message[at + 1]
    return None


def _discovery(mac: bytes, source: IPv6Address, group: IPv6Address, message: bytes) -> bytes:
    pseudo = source.packed + group.packed + struct.pack("!II", len(message), ICMPV6)
    total = checksum(pseudo + message)
    message = message[:2] + struct.pack("!H", total) + message[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), ICMPV6, 255)
    packet = header + source.packed + group.packed + message
    return ethernet(b"\x33\x33" + group.packed[-4:], mac, ETH_IPV6, packet)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(to: bytes, mac: bytes, kind: int, body: bytes) -> bytes:
    """A frame of this kind from ``mac`` to another one."""
    return to + mac + struct.pack("!H", kind) + body
