"""The netlink codec, against itself and against garbage."""

from __future__ import annotations

import resource
import struct

import pytest
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
    assert sum(len(body) for _, _, body in netlink.messages(data)) <= len(data)


@given(st.binary(max_size=200), st.integers(1, 9))
def test_one_attribute_is_found_as_among_all(data: bytes, kind: int) -> None:
    first = next((value for each, value in netlink.attributes(data) if each == kind), b"")
    assert netlink.find(data, 0, kind) == first


def test_nested_attributes_are_known_without_their_flag() -> None:
    data = struct.pack("=HH", 8, 0x8000 | 3) + b"abcd"
    assert list(netlink.attributes(data)) == [(3, b"abcd")]


def test_a_process_without_descriptors_left_is_refused_as_by_the_kernel() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
    try:
        with pytest.raises(netlink.NetlinkError, match="list addresses: Too many open files"):
            list(netlink.request(netlink.ROUTE, 22, bytes(8), purpose="list addresses"))
        with pytest.raises(netlink.NetlinkError, match="connection entries: Too many open files"):
            netlink.Pipeline(netlink.NETFILTER)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_requests_that_cannot_be_sent_are_refused_as_by_the_kernel() -> None:
    """So that who told of flows is asked for all of them anew, as for any that are refused."""
    pipeline = netlink.Pipeline(netlink.NETFILTER)
    pipeline.close()
    with pytest.raises(netlink.NetlinkError, match="refused to change connection entries"):
        pipeline.send([netlink.message(0, b"")])
