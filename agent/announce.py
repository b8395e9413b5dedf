"""Telling the network where a VIP is, and asking whether somebody else has it."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

from agent import neighbour
from agent.addresses import InterfaceMissing, link
from agent.capability import CapabilityMissing
from agent.gate import check_interface
from protocol.errors import HalbError
from protocol.timing import MILLISECOND, SECOND

AFTER_NS: tuple[int, ...] = (
    0,
    50 * MILLISECOND,
    150 * MILLISECOND,
    *(n * SECOND for n in range(1, 6)),
)
"""When a new primary announces, counted from its lease: frames get lost, switches learn late."""

PROBES = 3
"""Questions that :meth:`Announcer.probe` spreads over its time."""

_DROPPED = frozenset({errno.EAGAIN, errno.ENOBUFS})
"""The queue is full, or the gate is closed: the lease ran out meanwhile."""
_ICMP6_FILTER = 1
_SO_BINDTODEVICE = 25


def schedule(opened: int) -> tuple[int, ...]:
    """The times (ns, same clock) at which a lease opened at ``opened`` is announced."""
    return tuple(opened + after for after in AFTER_NS)


class Announcer:
    """Sends on one interface. The kernel drops announcements of a VIP without a lease."""

    def __init__(self, interface: str) -> None:
        """Raises :class:`CapabilityMissing` without CAP_NET_RAW."""
        self._interface = check_interface(interface)
        self._socket = _packet_socket(0)

    def announce(self, vips: Sequence[str]) -> None:
        """Send one gratuitous ARP or unsolicited advertisement per VIP, now.

        Raises :class:`InterfaceMissing`, or HalbError if the interface is down.
        """
        mac = link(self._interface).mac
        for vip in vips:
            ip = ip_address(vip)
            if isinstance(ip, IPv4Address):
                self._send(neighbour.gratuitous_arp(ip, mac))
            else:
                self._send(neighbour.unsolicited_advert(ip, mac))

    def ask(self, address: str) -> None:
        """Send one question who has ``address``, from nobody, which enters no cache.

        Raises as :meth:`announce` does.
        """
        self._send(_question(ip_address(address), link(self._interface).mac))

    def insist(self, vip: str, to: str) -> None:
        """Ask ``to`` something in the name of ``vip``, so that it learns where that is.

        Raises as :meth:`announce` does.
        """
        mac, ip, asked = link(self._interface).mac, ip_address(vip), ip_address(to)
        if isinstance(ip, IPv4Address) and isinstance(asked, IPv4Address):
            self._send(neighbour.arp_request(ip, mac, asked))
        elif isinstance(ip, IPv6Address) and isinstance(asked, IPv6Address):
            self._send(neighbour.solicit_from(ip, mac, asked))

    async def probe(self, vip: str, timeout: float) -> str | None:  # noqa: ASYNC109
        """Who else answers for ``vip``: a MAC such as ``02:00:00:00:00:01``, or None.

        None means that nobody did within ``timeout`` seconds. An answer of this
        device's own kernel does not count.
        """
        ip = ip_address(vip)
        mac = link(self._interface).mac
        question = _question(ip, mac)
        if isinstance(ip, IPv4Address):
            listener = _arp_listener(self._interface)
        else:
            listener = _advert_listener(self._interface)
        with listener:
            questions = asyncio.create_task(self._ask(question, timeout / PROBES))
            try:
                async with asyncio.timeout(timeout):
                    owner = await _first_owner(listener, ip, mac)
            except TimeoutError:
                return None
            finally:
                questions.cancel()
                with suppress(asyncio.CancelledError):
                    await questions
        return owner.hex(":")

    def close(self) -> None:
        self._socket.close()

    async def _ask(self, question: bytes, pause: float) -> None:
        for _ in range(PROBES):
            self._send(question)
            await asyncio.sleep(pause)

    def _send(self, frame: bytes) -> None:
        try:
            self._socket.sendto(frame, (self._interface, 0))
        except OSError as error:
            if error.errno in _DROPPED:
                return
            if error.errno == errno.ENODEV:
                raise InterfaceMissing(self._interface) from error
            raise HalbError(
                f"cannot send on {self._interface}: {error.strerror}",
                f"Bring it up: ip link set {self._interface} up",
            ) from error


def _question(ip: IPv4Address | IPv6Address, mac: bytes) -> bytes:
    if isinstance(ip, IPv4Address):
        return neighbour.arp_probe(ip, mac)
    return neighbour.solicit(ip, mac)


async def _first_owner(
    listener: socket.socket, vip: IPv4Address | IPv6Address, own: bytes
) -> bytes:
    loop = asyncio.get_running_loop()
    while True:
        data = await loop.sock_recv(listener, 2048)
        if isinstance(vip, IPv4Address):
            owner = neighbour.arp_owner(data, vip)
        else:
            owner = neighbour.advert_owner(data, vip)
        if owner is not None and owner != own:
            return owner


def _packet_socket(kind: int) -> socket.socket:
    try:
        return socket.socket(
            socket.AF_PACKET,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            socket.htons(kind),
        )
    except PermissionError as error:
        raise CapabilityMissing(["CAP_NET_RAW"], "announce VIPs by ARP") from error


def _arp_listener(interface: str) -> socket.socket:
    listener = _packet_socket(neighbour.ETH_ARP)
    listener.bind((interface, neighbour.ETH_ARP))
    return listener


def _advert_listener(interface: str) -> socket.socket:
    """A raw ICMPv6 socket that the kernel gives neighbour advertisements only."""
    try:
        listener = socket.socket(
            socket.AF_INET6,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            neighbour.ICMPV6,
        )
    except PermissionError as error:
        raise CapabilityMissing(["CAP_NET_RAW"], "ask for VIPs by neighbour discovery") from error
    blocked = [0xFFFFFFFF] * 8
    blocked[neighbour.ADVERT // 32] &= ~(1 << neighbour.ADVERT % 32)
    listener.setsockopt(neighbour.ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *blocked))
    listener.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, interface.encode() + b"\0")
    return listener
