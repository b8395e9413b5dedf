"""Devices that are removed: their connections end, and those of others come back at once."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from protocol.messages import Beat
from protocol.wire import pack_header, site_bytes
from tests.kernel.namespaces import Inside, one_host
from tests.kernel.transports import SITE, Device, heard, run, started, stays_false

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def host() -> Iterator[Inside]:
    with one_host() as inside:
        yield inside


def test_a_removed_device_is_cut_off_at_once_and_others_go_on(host: Inside) -> None:
    async def scenario() -> None:
        a, b, c = Device("a"), Device("b"), Device("c")
        async with started(a, b, c):
            a.transport.set_peers([c.as_peer()])
            took = await heard(a, c)
            assert took < 2.0
            b.got.clear()
            # Even if a still addressed it, the connections are gone.
            topic = b.id.encode() + pack_header(site_bytes(SITE), 99, 1) + b"x"
            before = b.count("malformed")
            await stays_false(
                lambda: b.count("malformed") > before,
                lambda: a.transport._channels[True].send(topic),
            )

    run(host, scenario)


def test_the_connections_of_others_come_back_before_a_lease_needs_them(host: Inside) -> None:
    """Beats come each 100 ms, and a lease that was not renewed ends after 290 ms."""

    async def gap_ms() -> float:
        a, b, c = Device("a"), Device("b"), Device("c")
        async with started(a, b, c):
            b.got.clear()
            for number in range(100):
                if number == 20:  # as in a Site: both let go of c at the same moment
                    a.transport.set_peers([b.as_peer()])
                    b.transport.set_peers([a.as_peer()])
                a.beat(b)
                await asyncio.sleep(0.004)
            await heard(a, b)
            came = [message.sent for _, message in b.got if isinstance(message, Beat)]
        return max(later - earlier for earlier, later in pairwise(came)) / 1e6

    async def scenario() -> None:
        gaps = [await gap_ms() for _ in range(5)]
        assert min(gaps) < 45, gaps

    run(host, scenario)


def test_devices_that_are_removed_one_after_the_other_are_cut_off_in_peace(host: Inside) -> None:
    async def scenario() -> None:
        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        a, b, c = Device("a"), Device("b"), Device("c")
        async with started(a, b, c):
            a.transport.set_peers([b.as_peer()])
            await asyncio.sleep(0)
            a.transport.set_peers([])
            await asyncio.sleep(0)
            a.transport.set_peers([b.as_peer()])
            await heard(a, b)
        gc.collect()
        assert not faults

    run(host, scenario)
