"""Sockets that see the frames that an interface receives, through a filter.

Filters are classic BPF: (code, jump if true, jump if false, value). The kernel
runs them, so frames that nobody wants cost no wake-up. They do cost the run of the
filter, each frame of the kind that the socket is for.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

LOAD_WORD, LOAD_HALF, LOAD_BYTE = 0x20, 0x28, 0x30
IF_EQUAL, IF_GREATER, IF_AT_LEAST = 0x15, 0x25, 0x35
RETURN = 0x06
WHOLE, NOTHING = 0xFFFF, 0

Step = tuple[int, int, int, int]

_SO_ATTACH_FILTER = 26
_SOL_PACKET = 263
_PACKET_IGNORE_OUTGOING = 23
EVERY_KIND = 0x0003
"""Frames of all kinds, before anything drops them."""


def tap(interface: str, steps: Sequence[Step], kind: int = EVERY_KIND) -> socket.socket:
    """A non-blocking socket with what ``interface`` receives and the filter lets through.

    Of one ``kind``, an EtherType, it hears what the gate and firewalls at ingress let in.
    """
    flags = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    listener = socket.socket(socket.AF_PACKET, flags, 0)
    try:
        choose(listener, steps)
        # Else each frame that is sent is copied, to be dropped by the filter.
        listener.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        listener.bind((interface, kind))
    except OSError:
        listener.close()
        raise
    return listener


@asynccontextmanager
async def used_once(listener: socket.socket) -> AsyncIterator[socket.socket]:
    """The socket, closed afterwards by another thread.

    While a packet socket is closed the kernel waits for its whole network stack, 15 ms and
    more: a dozen of them, one after the other in the loop, and all leases of this device lapse.
    """
    try:
        yield listener
    finally:
        closing = asyncio.get_running_loop().run_in_executor(None, listener.close)
        await asyncio.shield(closing)  # it is closed also if whoever used it is cancelled


def choose(listener: socket.socket, steps: Sequence[Step]) -> None:
    """Give the socket another filter."""
    program = b"".join(struct.pack("=HBBI", *step) for step in steps)
    held = ctypes.create_string_buffer(program, len(program))
    listener.setsockopt(
        socket.SOL_SOCKET,
        _SO_ATTACH_FILTER,
        struct.pack("@HP", len(steps), ctypes.addressof(held)),
    )
