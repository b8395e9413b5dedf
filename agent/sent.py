"""What `dsr` counted, as the kernel has it: by listener and seat, with the gateway of the seat."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from typing import NamedTuple

from agent import ways
from agent.elements import Tally, dump_counters
from agent.ipversion import SUFFIX
from agent.netlink import NetlinkError

_SERVICE, _SEAT = 8, 4
"""Bytes of protocol and port, and of a seat, behind the address that a key begins with."""
_ADDRESS = {4: 4, 6: 16}


class Sent(NamedTuple):
    """One element."""

    name: str
    """Of its set."""
    service: bytes
    """VIP, protocol and port."""
    seat: bytes
    gateway: bytes
    """Its address; empty where the seat is nobody's."""
    tally: Tally


def sent() -> Iterator[Sent]:
    """All of them; the table is there only while a Virtual Server needs it."""
    for version, size in _ADDRESS.items():
        suffix, end = SUFFIX[version], size + _SEAT
        given = {key[:end]: key[end:] for key, _ in _dump(ways.GATEWAYS + suffix)}
        for name in ways.COUNTED:
            for key, tally in _dump(name + suffix):
                service, seat = key[: size + _SERVICE], key[size + _SERVICE :][:_SEAT]
                gateway = given.get(key[:size] + seat, b"")
                yield Sent(name + suffix, service, seat, gateway, tally)


def class_of(seat: bytes) -> str:
    """A seat as nftables takes it."""
    number = int.from_bytes(seat, sys.byteorder)
    return f"{number >> 16:x}:{number & 0xFFFF:x}"


def _dump(name: str) -> Iterator[tuple[bytes, Tally]]:
    try:
        yield from dump_counters(ways.TABLE, name, "netdev")
    except NetlinkError as error:
        if error.code != errno.ENOENT:
            raise
