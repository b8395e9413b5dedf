"""The instrument for owners of a VIP: how many devices answer for it, each 10 ms.

``python -m halbctl.lab.owners INTERFACE VIP [VIP6]`` asks for the VIP by ARP
(and by neighbour solicitation) each 10 ms. Each sample asks from an address of
its own, so a reply tells which sample it answers, however late it comes: two
devices own the VIP in a sample if two hardware addresses answer the *same*
request.
"""

from __future__ import annotations

import ipaddress
import selectors
import socket
import struct
import sys
from collections import Counter
from dataclasses import dataclass, field

from halbctl.lab.instrument import MILLI, Instrument, run

SLOTS = 32
"""Samples that may wait for replies at once; a reply over SLOTS x 10 ms late is not counted."""
_ARP, _IPV6 = 0x0806, 0x86DD
SOURCE4 = int(ipaddress.IPv4Address("10.77.0.208"))
SOURCE6 = int(ipaddress.IPv6Address("fd77::5:0"))
_SOLICIT, _ADVERTISE, _ICMPV6 = 135, 136, 58
_MAX_CHANGES = 1000


@dataclass
class Tally:
    """Samples of one VIP."""

    vip: ipaddress.IPv4Address | ipaddress.IPv6Address
    waiting: list[set[bytes] | None] = field(default_factory=lambda: [None] * SLOTS)
    """Per slot: who answered the sample that is in it."""
    samples: int = 0
    two: int = 0
    silent: int = 0
    silence: int = 0
    longest_silence: int = 0
    by_owner: Counter[str] = field(default_factory=Counter)
    changes: list[tuple[float, list[str]]] = field(default_factory=list)

    def close_slot(self, slot: int, now: float) -> None:
        """Count the sample in ``slot`` and free it for the next."""
        answered = self.waiting[slot]
        self.waiting[slot] = None
        if answered is None:
            return
        self.samples += 1
        self.two += len(answered) > 1
        self.silent += not answered
        self.silence = 0 if answered else self.silence + 1
        self.longest_silence = max(self.longest_silence, self.silence)
        names = sorted(mac.hex(":") for mac in answered)
        self.by_owner.update(names)
        last = self.changes[-1][1] if self.changes else None
        if names and names != last and len(self.changes) < _MAX_CHANGES:
            self.changes.append((round(now - SLOTS * Owners.period, 3), names))

    def result(self) -> dict[str, object]:
        period_ms = Owners.period / MILLI
        return {
            "samples": self.samples,
            "two_owners_ms": self.two * period_ms,
            "unanswered": self.silent,
            "longest_silence_ms": self.longest_silence * period_ms,
            "owners": dict(self.by_owner),
            "changes": self.changes,
        }


class Owners(Instrument):
    """Asks who owns the VIPs on ``interface``."""

    period = 0.01

    def __init__(self, interface: str, vips: list[str]) -> None:
        super().__init__()
        self._vips = [ipaddress.ip_address(vip) for vip in vips]
        self._sockets: dict[int, socket.socket] = {}
        for version in {vip.version for vip in self._vips}:
            kind = _ARP if version == 4 else _IPV6
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
            sock.bind((interface, kind))
            sock.setblocking(False)
            self._sockets[version] = sock
            self.selector.register(sock, selectors.EVENT_READ, version)
        self._mac = next(iter(self._sockets.values())).getsockname()[4]
        self._number = 0
        self.begin(0.0)

    def tick(self, now: float) -> None:
        slot = self._number % SLOTS
        self._number += 1
        for tally in self._tallies:
            tally.close_slot(slot, now)
            tally.waiting[slot] = set()
            if isinstance(tally.vip, ipaddress.IPv4Address):
                frame = arp_request(self._mac, SOURCE4 + slot, tally.vip)
            else:
                frame = solicitation(self._mac, SOURCE6 + slot, tally.vip)
            self._sockets[tally.vip.version].send(frame)

    def ready(self, data: object, events: int, now: float) -> None:
        assert isinstance(data, int)
        while True:
            try:
                frame = self._sockets[data].recv(2048)
            except BlockingIOError:
                return
            answer = read_arp_reply(frame) if data == 4 else read_advertisement(frame)
            if answer is not None:
                self._note(*answer)

    def _note(
        self, vip: ipaddress.IPv4Address | ipaddress.IPv6Address, slot: int, mac: bytes
    ) -> None:
        for tally in self._tallies:
            asked = tally.waiting[slot] if tally.vip == vip and 0 <= slot < SLOTS else None
            if asked is not None:
                asked.add(mac)

    def begin(self, now: float) -> None:
        self._tallies = [Tally(vip) for vip in self._vips]

    def begun(self, now: float) -> bool:
        return True

    def end(self, now: float) -> dict[str, object]:
        """Also counts the samples of the last third of a second, whose replies are long in."""
        for offset in range(SLOTS - 1):
            slot = (self._number + offset) % SLOTS
            for tally in self._tallies:
                tally.close_slot(slot, now)
        results = {str(tally.vip): tally.result() for tally in self._tallies}
        return {"vips": results}


def arp_request(mac: bytes, source: int, vip: ipaddress.IPv4Address) -> bytes:
    """An Ethernet frame that asks all for ``vip`` in the name of ``source``."""
    header = b"\xff" * 6 + mac + struct.pack("!H", _ARP)
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    return header + body + mac + struct.pack("!I", source) + b"\0" * 6 + vip.packed


def read_arp_reply(frame: bytes) -> tuple[ipaddress.IPv4Address, int, bytes] | None:
    """(VIP, slot, hardware address) of an ARP reply; None if the frame is something else."""
    if len(frame) < 42 or frame[20:22] != b"\0\2":
        return None
    asked_by = int.from_bytes(frame[38:42], "big")
    return ipaddress.IPv4Address(frame[28:32]), asked_by - SOURCE4, frame[22:28]


def solicitation(mac: bytes, source: int, vip: ipaddress.IPv6Address) -> bytes:
    """An Ethernet frame with a neighbour solicitation (RFC 4861, 4.3) for ``vip``."""
    low = vip.packed[13:]
    group = bytes.fromhex("ff0200000000000000000001ff") + low
    sender = source.to_bytes(16, "big")
    body = struct.pack("!BBHI", _SOLICIT, 0, 0, 0) + vip.packed + b"\1\1" + mac
    pseudo = sender + group + struct.pack("!II", len(body), _ICMPV6)
    checksum = internet_checksum(pseudo + body)
    body = body[:2] + struct.pack("!H", checksum) + body[4:]
    ipv6 = struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, 255) + sender + group
    return b"\x33\x33\xff" + low + mac + struct.pack("!H", _IPV6) + ipv6 + body


def read_advertisement(frame: bytes) -> tuple[ipaddress.IPv6Address, int, bytes] | None:
    """(VIP, slot, hardware address) of a neighbour advertisement; None for other frames."""
    if len(frame) < 78 or frame[20] != _ICMPV6 or frame[54] != _ADVERTISE:
        return None
    asked_by = int.from_bytes(frame[38:54], "big")
    return ipaddress.IPv6Address(frame[62:78]), asked_by - SOURCE6, frame[6:12]


def internet_checksum(data: bytes) -> int:
    """RFC 1071; ``data`` has an even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


if __name__ == "__main__":
    run(Owners(sys.argv[1], sys.argv[2:]))
