"""The frame that renews a lease: put on ``lo`` below every firewall of this host.

For the gate's chain ``refresh`` it is a marked UDP datagram from a VIP to itself. A packet
socket sends it, so no hook of IP sees it on its way there, no entry of the connection table is
made for it, and it ends in that chain.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, ip_address

from agent import burst
from agent.capability import CapabilityMissing
from agent.gate import MARK, MAX_VIPS
from agent.neighbour import ETH_IPV4, ETH_IPV6, ethernet
from agent.nft import KernelRefused

_SO_MARK = 36
_LO = "lo"
_NOBODY = bytes(6)
"""Hardware address of ``lo``."""
_HOPS = 1
_LOST = frozenset({errno.EAGAIN, errno.ENOBUFS})
"""Where a buffer is full, one renewal of several is lost, like any lost beat."""


@lru_cache(maxsize=MAX_VIPS)
def frame(vip: str, port: int) -> bytes:
    """The frame that renews ``vip`` with the time of ``port``.

    Its checksums are wrong: nobody but the gate shall take it, where that is gone.
    """
    ip = ip_address(vip)
    datagram = struct.pack("!HHHH", port, port, 8, 0)
    if isinstance(ip, IPv4Address):
        kind, form, length = ETH_IPV4, "!BBHHHBBH4s4s", 20 + len(datagram)
        header = struct.pack(
            form, 0x45, 0, length, 0, 0, _HOPS, socket.IPPROTO_UDP, 0, ip.packed, ip.packed
        )
    else:
        kind, form = ETH_IPV6, "!IHBB16s16s"
        header = struct.pack(
            form, 6 << 28, len(datagram), socket.IPPROTO_UDP, _HOPS, ip.packed, ip.packed
        )
    return ethernet(_NOBODY, _NOBODY, kind, header + datagram)


class Renewals:
    """Sends these frames; never blocks."""

    def __init__(self) -> None:
        """Raises :class:`CapabilityMissing` without CAP_NET_RAW or CAP_NET_ADMIN."""
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            # Of no protocol: it receives nothing.
            self._socket = socket.socket(socket.AF_PACKET, kind, 0)
        except PermissionError as error:
            raise CapabilityMissing(["CAP_NET_RAW"], "renew leases") from error
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_MARK, MARK)
        except PermissionError as error:
            self._socket.close()
            raise CapabilityMissing(["CAP_NET_ADMIN"], "mark what renews leases") from error
        self._socket.bind((_LO, 0))

    def send(self, vips: Sequence[str], port: int) -> None:
        """Renew VIPs; raise :class:`KernelRefused` if ``lo`` takes nothing."""
        frames = [frame(vip, port) for vip in vips]
        while frames:
            some = tuple(frames[: burst.MOST])
            try:
                sent = burst.send(self._socket.fileno(), some)
            except OSError as error:
                if error.errno not in _LOST:
                    raise KernelRefused(
                        f"the lease of {vips[-len(frames)]} cannot be renewed: {error.strerror}",
                        "Is `lo` up (see `ip link`)?",
                    ) from error
                sent = 1
            del frames[:sent]

    def close(self) -> None:
        self._socket.close()
