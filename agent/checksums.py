"""What a checksum owes for bytes that were altered behind its back. Pure.

nftables brings a checksum up to date for fields that it knows by name, and for no others. So
what else is altered is paid for by a field with a name: it is overwritten, as raw bytes, with
what the checksum then owes, and given back by name.
"""

from __future__ import annotations

import struct


def due(word: int, old: bytes, new: bytes) -> int:
    """What stands in place of ``word``, 16 bits of a message, while ``new`` was put for ``old``.

    So that the sum of the message, modulo 2**16 - 1, is what its checksum says (RFC 1071).
    """
    return (word + _sum(old) - _sum(new)) % 0xFFFF


def _sum(data: bytes) -> int:
    """The sum of an even number of bytes."""
    return sum(struct.unpack(f"!{len(data) // 2}H", data))
