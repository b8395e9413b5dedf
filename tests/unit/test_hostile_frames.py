"""What anyone may send costs no more than a bounded multiple of its size."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

import pytest

from agent.requests import Requests
from protocol import api, wire
from protocol.errors import MalformedMessage
from protocol.joining import MAX_REQUEST, decode_join_reply, decode_join_request

DOORS: dict[str, tuple[Callable[[bytes], object], int]] = {
    "joining": (decode_join_request, MAX_REQUEST),
    "urgent": (lambda data: wire.decode(data, wire.MAX_URGENT), wire.MAX_URGENT),
    "bulk": (wire.decode, wire.MAX_URGENT),
    "control": (wire.decode_request, wire.MAX_URGENT),
    "id of a refused request": (wire.request_id, wire.MAX_URGENT),
    "join reply": (decode_join_reply, wire.MAX_URGENT),
    "configuration": (wire.config_from_bytes, wire.MAX_URGENT),
}
MULTIPLE = 100
"""An empty dictionary is 64 bytes of one."""
BEGINNINGS = (
    b"",
    b"\x81\xa1x",
    b"\x82\xa1t\xa6append\xa7records",
    b"\x83\xa1v\x01\xa2id\xa1x\xa2op",
    b"\x84\xa8token_id\xa1a\xa6secret\xa1b\xa6device\x81\xa9addresses",
)
"""Of frames whose rest stands where a list or a map is expected, or anything."""


def bombs(size: int) -> Iterator[bytes]:
    """Lists and maps that claim to hold as much as a frame of ``size`` bytes can, and do not."""
    short, long = min(size, 0xFFFF).to_bytes(2, "big"), size.to_bytes(4, "big")
    half = (size // 2).to_bytes(4, "big")
    nests = (
        b"\xdc" + short, b"\xdd" + long, b"\xdd" + half, b"\xdd" + b"\xff" * 4,
        b"\xde" + short + b"\xa1a", b"\xdf" + half + b"\xa1a",
    )  # fmt: skip
    for beginning in BEGINNINGS:
        room = size - len(beginning)
        for nest in nests:
            for depth in (20, 1000, 5000):
                yield beginning + (nest * depth).ljust(room, b"\xc0")[:room]
        for item in (b"\xc0", b"\x80", b"\x90", b"\x91\xc0", b"\xa0", b"\x81\xa0\xc0"):
            count = (room - 5) // len(item)
            yield beginning + b"\xdd" + count.to_bytes(4, "big") + item * count


def cost(door: Callable[[bytes], object], data: bytes) -> int:
    """Bytes that are allocated at the most while ``door`` handles ``data``."""
    tracemalloc.start()
    try:
        with suppress(MalformedMessage):
            door(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", DOORS)
def test_a_frame_costs_no_more_than_a_bounded_multiple_of_its_size(name: str) -> None:
    door, size = DOORS[name]
    with suppress(MalformedMessage):
        door(b"\xc0")  # what is made once
    for data in bombs(size):
        assert cost(door, data) < MULTIPLE * size, data[:64]


def test_a_refused_request_costs_no_more_though_its_id_is_read_too() -> None:
    async def never(request: api.Request) -> api.Result:
        raise AssertionError(request)

    async def nothing(interval: float) -> AsyncIterator[api.Status]:
        raise AssertionError(interval)
        yield

    requests = Requests(never, nothing, lambda frames: None)
    for data in bombs(wire.MAX_URGENT):
        assert cost(lambda d: requests.came(b"client", (d,)), data) < MULTIPLE * len(data)
    assert not requests.counts["requests"]
