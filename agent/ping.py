"""ICMP echo from a chosen address: does the answer come back to this device?

A neighbour sends its answer to whatever hardware address it holds for the
source. So an answer to a question that a VIP asked shows that the neighbour
looks for that VIP here; the kernel's gate lets it in only with the lease.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address

from agent.capability import CapabilityMissing
from agent.neighbour import checksum

_REQUEST, _REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
_HEADER = struct.Struct("!BBHHHQI")
"""ICMP type, code, checksum, identifier, sequence; then our secret, our number."""
_SO_BINDTOIFINDEX = 62
_SOL_RAW, _ICMP_FILTER = 255, 1
_IP_PKTINFO = 8
_BUFFER = 2048
_MAX_READ = 64


class Pinger:
    """Sends numbered questions, and tells which numbers were answered."""

    def __init__(self, interface: str, on_reply: Callable[[int], None]) -> None:
        """Raises :class:`CapabilityMissing` without CAP_NET_RAW. Made while the loop runs."""
        self._interface = interface
        self._on_reply = on_reply
        self._loop = asyncio.get_running_loop()
        self._secret = secrets.randbits(64)
        self._id = secrets.randbits(16)
        self.index = 0
        """Of the interface that is asked on."""
        self._sockets: dict[int, socket.socket] = {}
        self._open()

    def _open(self) -> None:
        """Without an interface there are no sockets: one that is bound to none asks on all."""
        index = _index_of(self._interface)
        self._sockets = {version: _raw(version, index) for version in ((4, 6) if index else ())}
        for version, sock in self._sockets.items():
            self._loop.add_reader(sock, self._read, version)
        # Not before: where no descriptor was left, the next one who follows tries again.
        self.index = index

    def follow(self) -> None:
        """Move to the interface that has the name now: one that comes back is another one."""
        if _index_of(self._interface) not in (0, self.index):
            self.close()
            self._open()

    def ask(self, to: str, number: int, source: str | None = None) -> None:
        """Ask ``to``, from the address ``source``, or the one that the kernel chooses.

        What cannot be sent counts as not answered.
        """
        ip = ip_address(to)
        if ip.version not in self._sockets:
            return
        data = _HEADER.pack(
            _REQUEST[ip.version], 0, 0, self._id, number & 0xFFFF, self._secret, number
        )
        if ip.version == 4:
            data = data[:2] + checksum(data).to_bytes(2, "big") + data[4:]
        extra = [] if source is None else [_from(source)]
        try:
            place = (to, 0) if ip.version == 4 else (to, 0, 0, self._scope(to))
            self._sockets[ip.version].sendmsg([data], extra, 0, place)
        except OSError:
            # No route, a full queue, a lease that just ran out: there will be no answer.
            return

    def _scope(self, to: str) -> int:
        return self.index if ip_address(to).is_link_local else 0

    def _read(self, version: int) -> None:
        for _ in range(_MAX_READ):
            try:
                data = self._sockets[version].recv(_BUFFER)
            except OSError:
                # Nothing more, or the interface is down: whoever asked sees that none answers.
                return
            if version == 4 and data:
                data = data[4 * (data[0] & 0xF) :]
            if len(data) != _HEADER.size:
                continue
            kind, _, _, ident, _, secret, number = _HEADER.unpack(data)
            if (kind, ident, secret) == (_REPLY[version], self._id, self._secret):
                self._on_reply(number)

    def close(self) -> None:
        for sock in self._sockets.values():
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets = {}


def _index_of(interface: str) -> int:
    """The number of an interface; 0 where there is none of this name."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0


def _raw(version: int, index: int) -> socket.socket:
    """Bound to the interface of this number, also if there is none any more: then it hears
    and sends nothing."""
    family, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP)
        if version == 4
        else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    )
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        sock = socket.socket(family, kind, protocol)
    except PermissionError as error:
        raise CapabilityMissing(["CAP_NET_RAW"], "ask neighbours for the VIPs") from error
    sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, index)
    if version == 4:
        blocked = ~(1 << _REPLY[4]) & 0xFFFFFFFF
        sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", blocked))
    else:
        words = [0xFFFFFFFF] * 8
        words[_REPLY[6] // 32] &= ~(1 << _REPLY[6] % 32)
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP_FILTER, struct.pack("=8I", *words))
    return sock


def _from(source: str) -> tuple[int, int, bytes]:
    ip = ip_address(source)
    if isinstance(ip, IPv4Address):
        return (socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=I4s4s", 0, ip.packed, bytes(4)))
    return (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("=16sI", ip.packed, 0))
