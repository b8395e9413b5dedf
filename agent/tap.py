"""Sockets that see the frames of an interface before anything drops them, through a filter.

Filters are classic BPF: (code, jump if true, jump if false, value). The kernel
runs them, so frames that nobody wants cost no wake-up.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence

LOAD_WORD, LOAD_HALF, LOAD_BYTE = 0x20, 0x28, 0x30
IF_EQUAL, IF_GREATER, IF_AT_LEAST = 0x15, 0x25, 0x35
RETURN = 0x06
WHOLE, NOTHING = 0xFFFF, 0

Step = tuple[int, int, int, int]

_SO_ATTACH_FILTER = 26
_ETH_ALL = 0x0003


def tap(interface: str, steps: Sequence[Step]) -> socket.socket:
    """A non-blocking socket with the frames of ``interface`` that the filter lets through."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    listener = socket.socket(socket.AF_PACKET, kind, 0)
    try:
        choose(listener, steps)
        listener.bind((interface, _ETH_ALL))
    except OSError:
        listener.close()
        raise
    return listener


def choose(listener: socket.socket, steps: Sequence[Step]) -> None:
    """Give the socket another filter."""
    program = b"".join(struct.pack("=HBBI", *step) for step in steps)
    held = ctypes.create_string_buffer(program, len(program))
    listener.setsockopt(
        socket.SOL_SOCKET,
        _SO_ATTACH_FILTER,
        struct.pack("@HP", len(steps), ctypes.addressof(held)),
    )
