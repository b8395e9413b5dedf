"""Entries of the connection table as the kernel writes them, read with little work. Pure.

One notice for each flow that begins, and one for each that ends, leave no time to follow
all their attributes: where the tuples stand is known, and the rest is found by its head.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterable, Iterator
from typing import Any, NamedTuple

from agent import flowfilter, netlink
from agent.ctnetlink import (
    ADDRESS,
    CLOSE,
    FAMILY,
    MARK,
    NESTED,
    OPEN,
    OVER,
    PROTOINFO,
    STATUS,
    TCP_STATE_AT,
    TIMEOUT,
)
from agent.shortflows import Notice, Turn
from protocol.flows import RECORD, TCP, UDP, Flow, Key

_LIVE = (3, 4, 5)
"""TCP states in which data may still come: established, or one end closed."""
_PICKED_UP = 0x08 | 0x02
"""Flags of a direction that the kernel met in the middle; entries of ours have the first alone."""
_TCP_FLAGS_AT = 32
"""Within the nested attributes about TCP."""
_STATE_HEAD = struct.pack("=HHH", NESTED | 1, 5, 1)
"""What stands before the TCP state, and nowhere else between the tuples and it."""
_MARK_HEAD = struct.pack("=HH", 8, MARK)

_TUPLE = {4: 52, 6: 76}
"""Size of one tuple, its header included."""
_BODY_AT = 16
"""Where a notice has its IP version, first of all."""
_LAYOUTS = {
    int(FAMILY[version]): struct.Struct(
        "=4x" + f"H2x4x4x{size}s4x{size}s4x4xB3x4x2s2x4x2s2x" * 2,
    )
    for version, size in ADDRESS.items()
}
"""Behind the header; the kernel puts the two tuples first, always in one layout. Entries
with another one have a zone for one way only, which ours never have, or are no TCP or UDP."""
_TUPLES_END = {family: _BODY_AT + layout.size for family, layout in _LAYOUTS.items()}
"""Where the two tuples of a notice end."""
_HEADS = {int(FAMILY[version]): size for version, size in _TUPLE.items()}


class Read(NamedTuple):
    """An entry of a TCP or UDP flow to one of the VIPs."""

    flow: Flow
    open: bool
    """It was answered, and neither end closes it."""
    state: bytes
    """What the kernel says about TCP; in a notice, only if the state has just changed."""
    left_s: int
    """Until the entry ends if no packet meets it."""


def notice(text: bytes) -> Notice:
    """What a notice is about, by its bytes. Only what :mod:`agent.flowfilter` lets through."""
    tuples = _TUPLES_END[text[_BODY_AT]]
    entry = text[_BODY_AT:tuples]
    if text[flowfilter.KIND_AT] == flowfilter.DELETE:
        return Notice(Turn.ENDED, entry, text)
    state = text.find(_STATE_HEAD, tuples)
    if state < 0:
        return Notice(Turn.CHANGED, entry, text)
    over = text[state + len(_STATE_HEAD)] in OVER
    return Notice(Turn.ENDED if over else Turn.BEGUN, entry, text)


def flows(notices: Iterable[bytes], vips: Container[bytes]) -> Iterator[Flow]:
    """Flows to the VIPs that notices are about; of their attributes only a mark is looked for."""
    for text in notices:
        found = _tuples(text, vips, _BODY_AT)
        if found is not None:
            rest = _TUPLES_END[text[_BODY_AT]]
            # Most have none, and then its head stands nowhere.
            marked = text.find(_MARK_HEAD, rest) >= 0
            yield _flow(found, netlink.find(text, rest, MARK) if marked else b"")


def keys(notices: Iterable[bytes], vips: Container[bytes]) -> Iterator[Key]:
    """Keys of the flows to the VIPs that notices are about; their attributes are not looked at."""
    for text in notices:
        found = _tuples(text, vips, _BODY_AT)
        if found is not None:
            yield b"%c%b%b%b%b" % (found[3], found[1], found[2], found[4], found[5])


def read(body: bytes, vips: Container[bytes]) -> Read | None:
    """An entry; None if it is of a flow to no VIP."""
    found = _tuples(body, vips, 0)
    if found is None:
        return None
    rest = dict(netlink.attributes(body[_LAYOUTS[body[0]].size :]))
    status = int.from_bytes(rest.get(STATUS, b""), "big")
    state = rest.get(PROTOINFO, b"")
    opened = status & OPEN == OPEN and (len(state) <= TCP_STATE_AT or state[TCP_STATE_AT] in _LIVE)
    left = int.from_bytes(rest.get(TIMEOUT, b""), "big")
    return Read(_flow(found, rest.get(MARK, b"")), opened, state, left)


def course(state: bytes) -> tuple[bool, bool]:
    """Of what the kernel says about TCP: whether the flow was reset, and met in the middle."""
    return state[TCP_STATE_AT] == CLOSE, state[_TCP_FLAGS_AT] & _PICKED_UP == _PICKED_UP


def _tuples(body: bytes, vips: Container[bytes], at: int) -> tuple[Any, ...] | None:
    """Both tuples of an entry that stands ``at``; None if it is of a flow to no VIP."""
    layout = _LAYOUTS[body[at]]
    if len(body) < at + layout.size:
        return None
    found = layout.unpack_from(body, at)
    ours = found[2] in vips and found[3] in (TCP, UDP)
    return found if ours and found[0] == found[6] == _HEADS[body[at]] else None


def _flow(tuples: tuple[Any, ...], mark: bytes) -> Flow:
    """The record of an entry with these tuples and this mark, if any."""
    _, client, vip, protocol, client_port, port, _, gateway, peer, _, gateway_port, peer_port = (
        tuples
    )
    return RECORD[4 if len(vip) == 4 else 6].pack(
        protocol, client, vip, client_port, port, gateway, peer, gateway_port, peer_port,
        int.from_bytes(mark, "big"),
    )  # fmt: skip
