"""Who sends resets to a host: the hardware address, and whether it came from far.

A reset of a connection that should have lived is found by where it was made: a device's own
stack (its first hop), or a gateway (forwarded once).
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
from dataclasses import dataclass

_SO_ATTACH_FILTER = 26
_LDH, _LDB, _JEQ, _JSET, _RET = 0x28, 0x30, 0x15, 0x45, 0x06
_RST = 4
# Of frames of TCP without options of IP: those whose flags have RST.
_PROGRAM = (
    (_LDH, 0, 0, 12),
    (_JEQ, 0, 4, 0x0800),
    (_LDB, 0, 0, 23),
    (_JEQ, 0, 7, 6),
    (_LDB, 0, 0, 47),
    (_JSET, 6, 5, _RST),
    (_JEQ, 0, 4, 0x86DD),
    (_LDB, 0, 0, 20),
    (_JEQ, 0, 2, 6),
    (_LDB, 0, 0, 67),
    (_JSET, 1, 0, _RST),
    (_RET, 0, 0, 0),
    (_RET, 0, 0, 128),
)
_STEP = struct.Struct("=HBBI")
_ALL = 0x0003


@dataclass(frozen=True)
class Reset:
    """One that came."""

    mac: str
    hops: int
    """64 or less: what is left of its hop limit."""
    vip: str
    port: int
    """Of this host."""


def listen(interface: str) -> socket.socket:
    """A socket that gets the resets that come to an interface, and what it sends itself."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
    code = ctypes.create_string_buffer(b"".join(_STEP.pack(*step) for step in _PROGRAM))
    program = struct.pack("HL", len(_PROGRAM), ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    sock.bind((interface, _ALL))
    sock.setblocking(False)
    return sock


def read(sock: socket.socket) -> Reset | None:
    """The next reset that came from elsewhere; None of one that this host sent."""
    frame, (*_, kind, _, mac) = sock.recvfrom(256)
    if kind == socket.PACKET_OUTGOING:
        return None
    if frame[12:14] == b"\x08\0":
        hops, vip, ports = frame[22], ipaddress.ip_address(frame[26:30]), frame[34:38]
    else:
        hops, vip, ports = frame[21], ipaddress.ip_address(frame[22:38]), frame[54:58]
    return Reset(mac.hex(":"), hops, str(vip), int.from_bytes(ports[2:], "big"))
