"""Ports and ranges of ports as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import InvalidInput
from protocol.objects import Listener
from protocol.ports import HIGHEST, check_ports, overlap, ports_text

port = st.integers(1, HIGHEST)


@pytest.mark.parametrize(
    ("written", "meant"),
    [(443, (443, 443)), ("443", (443, 443)), ("3000-3010", (3000, 3010)), ("all", (1, HIGHEST))],
)
def test_what_is_written_is_what_is_meant(written: int | str, meant: tuple[int, int]) -> None:
    assert check_ports("port", written) == meant


@pytest.mark.parametrize("written", [0, 65536, -1, "0-9", "9-70000", "9-", "-9", "1-2-3", "http"])
def test_what_is_no_port_is_named(written: int | str) -> None:
    with pytest.raises(InvalidInput, match="which is no port") as caught:
        check_ports("listeners[0].port", written)
    assert "listeners[0].port" in caught.value.message


def test_a_range_the_wrong_way_round_is_turned_for_the_operator() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_ports("port", "3010-3000")
    assert '"3000-3010"' in caught.value.remedy


@given(port, port)
def test_the_text_of_ports_means_them(one: int, other: int) -> None:
    ports = (min(one, other), max(one, other))
    assert check_ports("port", ports_text(ports)) == ports


@given(port, port, port, port)
def test_ranges_overlap_where_they_share_a_port(a: int, b: int, c: int, d: int) -> None:
    one, other = (min(a, b), max(a, b)), (min(c, d), max(c, d))
    shared = max(one[0], other[0]) <= min(one[1], other[1])
    assert overlap(one, other) is overlap(other, one) is shared


def test_a_listener_is_named_by_its_ports() -> None:
    web = Listener(protocol="tcp", port=443, gateway_port=8443)
    media = Listener(protocol="udp", port=3000, last_port=3010, gateway_port=3000)
    every = Listener(protocol="tcp", port=1, last_port=HIGHEST, gateway_port=1)
    assert [each.key for each in (web, media, every)] == ["tcp/443", "udp/3000-3010", "tcp/all"]
    assert web.gateway_ports == (8443, 8443)
    assert media.gateway_ports == media.ports
