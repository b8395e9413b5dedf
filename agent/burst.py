"""Many frames by one system call (sendmmsg), which Python's sockets do not offer.

``socket.send`` lets other threads of the process run each time, and has to wait for its turn
again. While one computes, a thousand frames take 0.2 s by that, nearly as long as a lease lasts.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache

MOST = 1024
"""Frames that the kernel takes by one call (UIO_MAXIOV)."""
_KEPT = 64
"""Bursts that are not prepared anew: the same leases are renewed again and again."""

_libc = ctypes.PyDLL(None, use_errno=True)  # unlike CDLL it keeps this thread's turn


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """``struct msghdr``: to whom the socket is bound to, without control data."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vector", ctypes.POINTER(_Vector)),
        ("vectors", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """``struct mmsghdr``."""

    _fields_ = (("header", _Header), ("sent", ctypes.c_uint))


def send(descriptor: int, frames: tuple[bytes, ...]) -> int:
    """Send at most :data:`MOST` frames by a connected or bound socket; how many were sent.

    Raises OSError if the first one could not be sent.
    """
    sent: int = _libc.sendmmsg(descriptor, _prepared(frames), len(frames), 0)
    if sent < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return sent


@lru_cache(maxsize=_KEPT)
def _prepared(frames: tuple[bytes, ...]) -> ctypes.Array[_Message]:
    """The kernel reads the frames where they are: the cache's key keeps them there."""
    messages = (_Message * len(frames))()
    for message, frame in zip(messages, frames, strict=True):
        message.header.vector = ctypes.pointer(_Vector(frame, len(frame)))
        message.header.vectors = 1
    return messages
