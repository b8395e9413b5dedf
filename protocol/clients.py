"""Clients that keep their gateway, as devices tell each other about them.

A record has the client's address, the number of its gateway (which follows
from the Virtual Server and the gateway's address), and the milliseconds for
which that holds. Of connections of `dsr` whose slots move it has the connection's number
of 32 bits as the address, and what the kernel knows the gateway's seat by as its number.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Literal

import msgspec

from protocol.errors import MalformedMessage
from protocol.ids import GroupId
from protocol.objects import MAX_STICKY_S

MAX_CLIENTS_TOLD = 1000
"""Records in one message."""

_RECORD = {4: struct.Struct("!4sII"), 6: struct.Struct("!16sII")}
MAX_LEFT_MS = MAX_STICKY_S * 1000


@dataclass(frozen=True, slots=True)
class Client:
    """A sticky client of one listener."""

    address: str
    number: int
    """Of its gateway."""
    left_ms: int


class ClientsKept(msgspec.Struct, frozen=True, tag_field="t", tag="clients-kept"):
    """Primary to secondaries: which gateway clients or connections keep.

    What is told is told again later, so a lost message does little harm. Only before a planned
    move an answer is asked for.
    """

    group: GroupId
    listener: Annotated[str, msgspec.Meta(max_length=32)]
    """Key of the listener, such as ``tcp/443``."""
    version: Literal[4, 6]
    records: Annotated[bytes, msgspec.Meta(max_length=MAX_CLIENTS_TOLD * 24)]
    ask: int = 0
    """Not 0: answered by :class:`ClientsEntered`."""

    @property
    def clients(self) -> Iterator[Client]:
        """The records; raises MalformedMessage for a torn or senseless one."""
        layout = _RECORD[self.version]
        if len(self.records) % layout.size:
            raise MalformedMessage(f"{len(self.records)} bytes are not records of {layout.size}")
        for address, number, left_ms in layout.iter_unpack(self.records):
            if not number or left_ms > MAX_LEFT_MS:
                raise MalformedMessage(f"gateway {number} for {left_ms} ms")
            yield Client(str(ip_address(address)), number, left_ms)


class ClientsEntered(msgspec.Struct, frozen=True, tag_field="t", tag="clients-entered"):
    """Secondary to primary: what came with that question, and before it, is in its kernel."""

    ask: int


ClientsMessage = ClientsKept | ClientsEntered


def pack(version: int, clients: Iterable[Client]) -> bytes:
    """Records of clients that have addresses of this IP version."""
    layout = _RECORD[version]
    return b"".join(
        layout.pack(ip_address(each.address).packed, each.number, each.left_ms) for each in clients
    )
