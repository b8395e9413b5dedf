"""Echo requests by hardware address, as frames."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from agent.echo import SMALL, Echo
from agent.neighbour import checksum

MAC, OTHER = bytes.fromhex("024841000001"), bytes.fromhex("024841000002")
QUESTIONS = [
    Echo(ip_address("10.77.0.11"), ip_address("10.77.0.100")),
    Echo(ip_address("fd77::11"), ip_address("fd77::100")),
]


def answered(echo: Echo, by: bytes = OTHER) -> bytes:
    """The frame that a host sends back: ends exchanged, type changed."""
    frame = bytearray(echo.request(MAC, OTHER))
    size = len(echo.source.packed)
    at = 26 if size == 4 else 22
    source, target = frame[at : at + size], frame[at + size : at + 2 * size]
    frame[at : at + 2 * size] = target + source
    frame[0:6], frame[6:12] = MAC, by
    frame[at + 2 * size] = 0 if size == 4 else 129
    return bytes(frame)


@pytest.mark.parametrize("echo", QUESTIONS)
@pytest.mark.parametrize("size", [SMALL, 1500])
def test_a_request_has_the_size_that_is_asked_for(echo: Echo, size: int) -> None:
    wanted = Echo(echo.source, echo.target, size)
    assert len(wanted.request(MAC, OTHER)) == 14 + size


def test_checksums_are_right() -> None:
    four, six = (each.request(MAC, OTHER)[14:] for each in QUESTIONS)
    assert checksum(four[:20]) == checksum(four[20:]) == 0
    pseudo = six[8:40] + struct.pack("!II", len(six) - 40, 58)
    assert checksum(pseudo + six[40:]) == 0


@pytest.mark.parametrize("echo", QUESTIONS)
def test_an_answer_is_known_by_address_hardware_and_number(echo: Echo) -> None:
    assert echo.is_answer(answered(echo), OTHER)
    assert not echo.is_answer(answered(echo, by=MAC), OTHER)
    assert not echo.is_answer(answered(Echo(echo.source, echo.target, number=7)), OTHER)
    assert not echo.is_answer(answered(Echo(echo.source, echo.source)), OTHER)
    assert not echo.is_answer(echo.request(OTHER, MAC), OTHER)


@pytest.mark.parametrize("echo", QUESTIONS)
def test_no_piece_of_an_answer_is_one(echo: Echo) -> None:
    whole = answered(echo)
    start = 14 + (20 if len(echo.source.packed) == 4 else 40) + 8
    assert not any(echo.is_answer(whole[:length], OTHER) for length in range(start))
