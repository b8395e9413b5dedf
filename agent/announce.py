"""Telling the network where a VIP is, and asking whether somebody else has it."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

from agent import neighbour
from agent.addresses import InterfaceMissing, link
from agent.capability import CapabilityMissing
from agent.gate import check_interface
from agent.tap import used_once
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

BURST, BURST_S = 32, 0.002
"""So many questions go out at once, and so many seconds lie between two bursts."""

_Address = IPv4Address | IPv6Address
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

    async def probe(self, vips: Sequence[str], timeout: float) -> dict[str, str]:  # noqa: ASYNC109
        """Who else answers for which of ``vips``: a MAC such as ``02:00:00:00:00:01`` by VIP.

        For those that are missing nobody did within ``timeout`` seconds. An answer of
        this device's own kernel does not count. All are asked over one socket of each IP
        version: while one is closed the kernel holds a thread up.

        Raises as :meth:`announce` does.
        """
        asked = {ip_address(vip): vip for vip in vips}
        rounds = [
            self._owners({ip for ip in asked if ip.version == version}, version, timeout)
            for version in sorted({ip.version for ip in asked})
        ]
        found = await asyncio.gather(*rounds)
        return {asked[ip]: mac.hex(":") for owners in found for ip, mac in owners.items()}

    async def _owners(
        self, vips: set[_Address], version: int, seconds: float
    ) -> dict[_Address, bytes]:
        mac = link(self._interface).mac
        listen = _arp_listener if version == 4 else _advert_listener
        owners: dict[_Address, bytes] = {}
        async with used_once(listen(self._interface)) as listener:
            questions = asyncio.create_task(self._ask(vips, mac, seconds / PROBES))
            try:
                async with asyncio.timeout(seconds):
                    while owners.keys() != vips:
                        ip, owner = await _next_claim(listener, version)
                        if ip in vips and owner != mac:
                            owners.setdefault(ip, owner)
            except TimeoutError:
                pass  # nobody has the others
            except OSError as error:
                raise self._trouble("listen", error) from error
            finally:
                questions.cancel()
                with suppress(asyncio.CancelledError):
                    await questions
        return owners

    def close(self) -> None:
        self._socket.close()

    async def _ask(self, vips: Iterable[_Address], mac: bytes, pause: float) -> None:
        questions = [_question(ip, mac) for ip in vips]
        for _ in range(PROBES):
            for at in range(0, len(questions), BURST):
                for question in questions[at : at + BURST]:
                    self._send(question)
                await asyncio.sleep(BURST_S)
            await asyncio.sleep(pause)

    def _send(self, frame: bytes) -> None:
        try:
            self._socket.sendto(frame, (self._interface, 0))
        except OSError as error:
            if error.errno in _DROPPED:
                return
            if error.errno == errno.ENODEV:
                raise InterfaceMissing(self._interface) from error
            raise self._trouble("send", error) from error

    def _trouble(self, verb: str, error: OSError) -> HalbError:
        return HalbError(
            f"cannot {verb} on {self._interface}: {error.strerror}",
            f"Bring it up: ip link set {self._interface} up",
        )


def _question(ip: IPv4Address | IPv6Address, mac: bytes) -> bytes:
    if isinstance(ip, IPv4Address):
        return neighbour.arp_probe(ip, mac)
    return neighbour.solicit(ip, mac)


async def _next_claim(listener: socket.socket, version: int) -> tuple[_Address, bytes]:
    """The next address that somebody says to have, and the MAC."""
    loop = asyncio.get_running_loop()
    while True:
        data = await loop.sock_recv(listener, 2048)
        said = neighbour.heard(data) if version == 4 else neighbour.advertised(data)
        if said is not None and said.has:
            return said.address, said.mac


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
    # Of no protocol until it is bound: else binding it waits for the whole network stack.
    listener = _packet_socket(0)
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
