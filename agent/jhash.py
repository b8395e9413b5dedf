"""The kernel's hash of a flow, so that a person can be told where a flow goes. Pure.

``jhash`` of nftables is Bob Jenkins' hash as in the kernel's ``linux/jhash.h``;
its ``mod`` is no remainder but ``reciprocal_scale``: the hash as a fraction of
2**32, times the modulus.
"""

from __future__ import annotations

import sys
from ipaddress import ip_address

_INITIAL = 0xDEADBEEF
_MASK = 0xFFFFFFFF


def slot_of(data: bytes, seed: int, slots: int) -> int:
    """What ``jhash ... mod SLOTS seed SEED`` is for a key of these bytes."""
    return jhash(data, seed) * slots >> 32


def source_key(address: str, port: int | None) -> bytes:
    """The bytes of ``saddr . sport``, or of ``saddr`` without a port, as nftables keeps them.

    Each part fills whole registers of 4 bytes.
    """
    packed = ip_address(address).packed
    return packed if port is None else packed + port.to_bytes(2, "big") + bytes(2)


def jhash(data: bytes, seed: int) -> int:
    """Jenkins' hash of ``data``, 32 bits. Keys of whole registers only are tried on kernels."""
    a = b = c = (_INITIAL + len(data) + seed) & _MASK
    at = 0
    while len(data) - at > 12:
        words = (int.from_bytes(data[at + n : at + n + 4], sys.byteorder) for n in (0, 4, 8))
        a, b, c = ((old + word) & _MASK for old, word in zip((a, b, c), words, strict=True))
        a, b, c = _mix(a, b, c)
        at += 12
    rest = data[at:].ljust(12, b"\0")
    if at == len(data):
        return c
    words = (int.from_bytes(rest[n : n + 4], "little") for n in (0, 4, 8))
    return _final(*((old + word) & _MASK for old, word in zip((a, b, c), words, strict=True)))


def _turned(word: int, bits: int) -> int:
    return (word << bits | word >> (32 - bits)) & _MASK


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    a = (a - c & _MASK) ^ _turned(c, 4)
    c = c + b & _MASK
    b = (b - a & _MASK) ^ _turned(a, 6)
    a = a + c & _MASK
    c = (c - b & _MASK) ^ _turned(b, 8)
    b = b + a & _MASK
    a = (a - c & _MASK) ^ _turned(c, 16)
    c = c + b & _MASK
    b = (b - a & _MASK) ^ _turned(a, 19)
    a = a + c & _MASK
    c = (c - b & _MASK) ^ _turned(b, 4)
    b = b + a & _MASK
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    c = (c ^ b) - _turned(b, 14) & _MASK
    a = (a ^ c) - _turned(c, 11) & _MASK
    b = (b ^ a) - _turned(a, 25) & _MASK
    c = (c ^ b) - _turned(b, 16) & _MASK
    a = (a ^ c) - _turned(c, 4) & _MASK
    b = (b ^ a) - _turned(a, 14) & _MASK
    return (c ^ b) - _turned(b, 24) & _MASK
