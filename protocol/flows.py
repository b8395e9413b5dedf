"""Connections as devices tell each other about them: records and messages.

A record is the flow's two tuples in a fixed layout, so that a thousand of them
cost no more than one slice each. What a client sends goes from (client, port)
to (VIP, port); what its gateway sends goes from (gateway, port) to the address
and port that the primary's kernel chose for the client. The first half, with
the protocol before it, is the flow's key.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import msgspec

from protocol.errors import MalformedMessage
from protocol.ids import DeviceId, GroupId

MAX_FLOWS = 1000
"""Records, and keys, of one IP version in one message."""
MAX_GROUPS = 1000
TCP, UDP = 6, 17

RECORD = {4: struct.Struct("!B4s4s2s2s4s4s2s2sI"), 6: struct.Struct("!B16s16s2s2s16s16s2s2sI")}
"""Protocol; client, VIP, their ports; gateway, its peer, their ports; mark."""
KEY_SIZE = {4: 13, 6: 37}
"""A key is the beginning of a record."""
VERSION = {RECORD[4].size: 4, RECORD[6].size: 6, KEY_SIZE[4]: 4, KEY_SIZE[6]: 6}
"""IP version of a record or key, by its size."""
_VIP_AT = {4: slice(5, 9), 6: slice(17, 33)}

Flow = bytes
"""One record."""
Key = bytes


def key_of(flow: Flow) -> Key:
    """What tells the flow from all others."""
    return flow[: KEY_SIZE[VERSION[len(flow)]]]


def vip_of(flow: Flow | Key) -> bytes:
    """The packed VIP of a record or key."""
    return flow[_VIP_AT[VERSION[len(flow)]]]


@dataclass(frozen=True, slots=True)
class Behind:
    """Virtual Servers whose flows this device is still being told, and why (whole set).

    No planned move goes to it, and others stand for primary before it.
    """

    groups: tuple[tuple[GroupId, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Flush:
    """Effect: tell ``to``, which is to be primary next, all flows of the group; answered by
    :class:`Flushed` once they are in its kernel, or never."""

    group: GroupId
    to: DeviceId


@dataclass(frozen=True, slots=True)
class Flushed:
    """``to`` has all flows of the group in its kernel."""

    group: GroupId
    to: DeviceId


class FlowsWanted(msgspec.Struct, frozen=True, tag_field="t", tag="flows-wanted"):
    """Secondary to primary: tell me your flows of ``groups``, from here on.

    Sent each second, and as an acknowledgement of what came.
    """

    groups: Annotated[tuple[GroupId, ...], msgspec.Meta(max_length=MAX_GROUPS)]
    epoch: int
    """Of the primary's numbering; 0: begin with all there are."""
    number: int
    """Of the newest :class:`FlowsPart` of that epoch that is in the kernel, without a gap."""


Records = Annotated[bytes, msgspec.Meta(max_length=MAX_FLOWS * RECORD[6].size)]


class FlowsPart(msgspec.Struct, frozen=True, tag_field="t", tag="flows-part"):
    """Primary to secondary: flows that began, and keys of those that ended."""

    epoch: int
    """Names one numbering of parts, which begins with all flows there are."""
    number: int
    """Grows by one with each part."""
    complete: bool
    """All flows there were have been told, with this part or before it."""
    groups: Annotated[tuple[GroupId, ...], msgspec.Meta(max_length=MAX_GROUPS)] = ()
    """In the first part of an epoch: what it is about."""
    begun4: Records = b""
    begun6: Records = b""
    ended4: Records = b""
    ended6: Records = b""
    sign: bool = False
    """No part, but a sign of life: ``number`` is that of the newest part sent."""

    @property
    def begun(self) -> Iterator[Flow]:
        """Records of both IP versions; raises MalformedMessage for a torn one."""
        yield from _cut(self.begun4, RECORD[4].size)
        yield from _cut(self.begun6, RECORD[6].size)

    @property
    def ended(self) -> Iterator[Key]:
        """Keys of both IP versions; raises MalformedMessage for a torn one."""
        yield from _cut(self.ended4, KEY_SIZE[4])
        yield from _cut(self.ended6, KEY_SIZE[6])


class FlowsKept(msgspec.Struct, frozen=True, tag_field="t", tag="flows-kept"):
    """Secondary to a new primary: flows of the primary before, which the new one does not tell."""

    flows4: Records = b""
    flows6: Records = b""

    @property
    def flows(self) -> Iterator[Flow]:
        """Records of both IP versions; raises MalformedMessage for a torn one."""
        yield from _cut(self.flows4, RECORD[4].size)
        yield from _cut(self.flows6, RECORD[6].size)


FlowsMessage = FlowsWanted | FlowsPart | FlowsKept
"""All that devices say of flows."""


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    if len(data) % size:
        raise MalformedMessage(f"{len(data)} bytes are not records of {size}")
    for at in range(0, len(data), size):
        protocol = data[at]
        if protocol not in (TCP, UDP):
            raise MalformedMessage(f"a flow of protocol {protocol}")
        yield data[at : at + size]
