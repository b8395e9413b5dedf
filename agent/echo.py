"""Echo requests of ICMP to a host by its hardware address: does it answer, and as whom?

A request that routing would never send there shows whether a gateway has a VIP;
one as large as the interface allows, whether frames of that size come through.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from agent.capability import CapabilityMissing
from agent.neighbour import ETH_IPV4, ETH_IPV6, ICMPV6, checksum, ethernet
from agent.tap import IF_EQUAL, LOAD_BYTE, NOTHING, RETURN, WHOLE, tap, used_once

SMALL = 84
"""Bytes of an IP packet that comes through everywhere."""
WAIT_S = 0.4
_ASKS = 2
_ICMP = 1
_DO_NOT_FRAGMENT = 0x4000
_ASK, _ANSWER = {4: 8, 6: 128}, {4: 0, 6: 129}
_HEADER = {4: 20, 6: 40}
_KIND = {4: ETH_IPV4, 6: ETH_IPV6}

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Echo:
    """One question, and what its answer must look like."""

    source: Address
    target: Address
    size: int = SMALL
    """Of the IP packet, bytes; even, and at least 48."""
    number: int = 0x4841
    """Tells the answer from those to others."""

    def request(self, mac: bytes, to: bytes) -> bytes:
        """The frame from ``mac`` to the hardware address ``to``."""
        version = self.target.version
        length = self.size - _HEADER[version]
        body = struct.pack("!BBHHH", _ASK[version], 0, 0, self.number, 1) + bytes(length - 8)
        ends = self.source.packed + self.target.packed
        if version == 6:
            pseudo = ends + struct.pack("!II", length, ICMPV6)
            head = struct.pack("!IHBB", 6 << 28, length, ICMPV6, 64) + ends
        else:
            pseudo = b""
            flags = (self.number, _DO_NOT_FRAGMENT, 64, _ICMP)
            head = struct.pack("!BBHHHBB", 0x45, 0, self.size, *flags)
            head += struct.pack("!H", checksum(head + bytes(2) + ends)) + ends
        body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
        return ethernet(to, mac, _KIND[version], head + body)

    def is_answer(self, frame: bytes, by: bytes) -> bool:
        """Whether ``frame`` is the answer, and sent by the hardware address ``by``."""
        version = self.target.version
        at = 14 + _HEADER[version]
        if len(frame) < at + 8 or frame[6:12] != by:
            return False
        if int.from_bytes(frame[12:14], "big") != _KIND[version]:
            return False
        source = frame[26:30] if version == 4 else frame[22:38]
        protocol = frame[23] if version == 4 else frame[20]
        number = int.from_bytes(frame[at + 4 : at + 6], "big")
        expected = (_ICMP if version == 4 else ICMPV6, _ANSWER[version], self.number)
        return (protocol, frame[at], number) == expected and source == self.target.packed


async def answers(interface: str, mac: bytes, to: bytes, echo: Echo) -> bool:
    """Whether the host with hardware address ``to`` answers; waits for :data:`WAIT_S` twice.

    Raises :class:`CapabilityMissing` without CAP_NET_RAW.
    """
    async with used_once(_listener(interface, echo.target.version)) as listener:
        for _ in range(_ASKS):
            listener.sendto(echo.request(mac, to), (interface, 0))
            try:
                async with asyncio.timeout(WAIT_S):
                    await _wait(listener, echo, to)
            except TimeoutError:
                continue
            return True
    return False


async def _wait(listener: socket.socket, echo: Echo, by: bytes) -> None:
    loop = asyncio.get_running_loop()
    while not echo.is_answer(await loop.sock_recv(listener, 65536), by):
        pass


def _listener(interface: str, version: int) -> socket.socket:
    """Hears answers and nothing of the traffic, which may be more than anybody can look at."""
    protocol = (LOAD_BYTE, 0, 0, 23 if version == 4 else 20)
    first_byte = (LOAD_BYTE, 0, 0, 14 + _HEADER[version])
    steps = (
        protocol,
        (IF_EQUAL, 0, 3, _ICMP if version == 4 else ICMPV6),
        first_byte,
        (IF_EQUAL, 0, 1, _ANSWER[version]),
        (RETURN, 0, 0, WHOLE),
        (RETURN, 0, 0, NOTHING),
    )
    try:
        return tap(interface, steps, _KIND[version])
    except PermissionError as error:
        raise CapabilityMissing(["CAP_NET_RAW"], "ask gateways by ICMP") from error
