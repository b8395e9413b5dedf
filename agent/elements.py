"""The counters of a set's elements as the kernel lists them, many at a time."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from agent import netlink
from agent.netlink import attribute, attributes

_GET_ELEMENTS = (10 << 8) | 13
FAMILY = {name: struct.pack("!BBH", number, 0, 0) for name, number in (("inet", 1), ("netdev", 5))}
"""Headers of requests about tables of these families."""
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_KEY, _LEADS_TO, _EXPRESSION, _KEY_END, _EXPRESSIONS = 1, 2, 7, 10, 11
_TO_AT = 8
"""Bytes between a key and what it leads to."""
_DATA = 2
_BYTES, _PACKETS = 1, 2
_SIZE = struct.Struct("=H")
_VALUES = struct.Struct("=4xQ4xQ")


class Tally(NamedTuple):
    """Packets, and their bytes from the IP header on."""

    packets: int = 0
    bytes: int = 0


def added(one: Tally, other: Tally) -> Tally:
    """Both together."""
    return Tally(one.packets + other.packets, one.bytes + other.bytes)


def dump_counters(table: str, name: str, family: str = "inet") -> Iterator[tuple[bytes, Tally]]:
    """The key and counter of each element of a set; of a map, what it leads to follows the key."""
    for elements in _lists(family, table, name, f"read counters of set {name}"):
        yield from _counters(elements)


def raw_elements(family: str, table: str, name: str) -> Iterator[bytes]:
    """The elements of a set or map as the kernel tells them, in no order."""
    for elements in _lists(family, table, name, f"read set {name}"):
        yield from (element for _, element in attributes(elements))


def _lists(family: str, table: str, name: str, purpose: str) -> Iterator[bytes]:
    """The elements of a set, many at a time."""
    head = FAMILY[family]
    body = head + b"".join(
        attribute(kind, value.encode() + b"\0")
        for kind, value in ((_LIST_TABLE, table), (_LIST_SET, name))
    )
    for each in netlink.request(
        netlink.NETFILTER, _GET_ELEMENTS, body, flags=netlink.DUMP, purpose=purpose
    ):
        for kind, elements in attributes(each[len(head) :]):
            if kind == _LIST_ELEMENTS and elements:
                yield elements


def _counters(elements: bytes) -> Iterator[tuple[bytes, Tally]]:
    """All elements of one message.

    Those of one set are alike, so the first one's layout is tried on the others: that
    takes a tenth of the time that it takes to follow the attributes of each.
    """
    size = _SIZE.unpack_from(elements)[0]
    first = elements[4:size]
    key, to, tally = _counter(first)
    key_at = first.find(key)
    to_at = key_at + len(key) + (_TO_AT if to else 0)
    values_at = first.find(_values(tally))
    if (
        len(elements) % size == 0
        and key_at > 0
        and first.startswith(to, to_at)
        and values_at >= to_at + len(to)
    ):
        gap = values_at - to_at - len(to)
        rest = len(first) - values_at - _VALUES.size
        layout = struct.Struct(
            f">4s{key_at}s{len(key)}s{to_at - key_at - len(key)}s{len(to)}s{gap}s4sQ4sQ{rest}x"
        )
        alike: set[bytes] = set()
        found = []
        for each in layout.iter_unpack(elements):
            head, before, key, between, to, behind, one, octets, two, packets = each
            alike.add(head + before + between + behind + one + two)
            found.append((key + to, Tally(packets, octets)))
        if len(alike) == 1:
            yield from found
            return
    for _, element in attributes(elements):
        key, to, tally = _counter(element)
        yield key + to, tally


def _values(tally: Tally) -> bytes:
    """The counter's two attributes as the kernel writes them."""
    return attribute(_BYTES, tally.bytes.to_bytes(8, "big")) + attribute(
        _PACKETS, tally.packets.to_bytes(8, "big")
    )


def _counter(element: bytes) -> tuple[bytes, bytes, Tally]:
    """Key of one element, what it leads to, and its counter; zero where it has none. An interval
    has both ends."""
    key, to, tally = b"", b"", Tally()
    for kind, value in attributes(element):
        if kind == _KEY:
            key = value[4:] + key
        elif kind == _KEY_END:
            key += value[4:]
        elif kind == _LEADS_TO:
            to = value[4:]
        elif kind == _EXPRESSION:
            tally = _tally(value)
        elif kind == _EXPRESSIONS:
            for _, inner in attributes(value):
                tally = _tally(inner)
    return key, to, tally


def _tally(expression: bytes) -> Tally:
    """A counter expression: a name, then nested attributes with its values."""
    values = dict(attributes(expression))
    found = dict(attributes(values.get(_DATA, b"")))
    return Tally(
        int.from_bytes(found.get(_PACKETS, b""), "big"),
        int.from_bytes(found.get(_BYTES, b""), "big"),
    )
