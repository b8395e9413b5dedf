"""The netlink codec, against itself and against garbage."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from agent import netlink

pairs = st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40)), max_size=8)


@given(pairs)
def test_attributes_come_back(some: list[tuple[int, bytes]]) -> None:
    data = b"".join(netlink.attribute(kind, value) for kind, value in some)
    assert len(data) % 4 == 0
    assert list(netlink.attributes(data)) == some


@given(st.binary(max_size=200))
def test_garbage_ends_and_yields_only_what_is_there(data: bytes) -> None:
    assert sum(len(value) for _, value in netlink.attributes(data)) <= len(data)
    assert sum(len(body) for _, body in netlink.messages(data)) <= len(data)


@given(st.binary(max_size=200), st.integers(1, 9))
def test_one_attribute_is_found_as_among_all(data: bytes, kind: int) -> None:
    first = next((value for each, value in netlink.attributes(data) if each == kind), b"")
    assert netlink.find(data, 0, kind) == first


def test_nested_attributes_are_known_without_their_flag() -> None:
    data = struct.pack("=HH", 8, 0x8000 | 3) + b"abcd"
    assert list(netlink.attributes(data)) == [(3, b"abcd")]
