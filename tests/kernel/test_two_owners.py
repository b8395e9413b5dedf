"""Two devices that hold one VIP, and meet on its segment: which of them lets go."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace as replaced

from agent.arbiter import Prober
from agent.ruleset import Desired
from protocol.effects import Input, ProbeArbiter, Probed
from protocol.objects import Listener
from protocol.timing import MILLISECOND
from tests.kernel.namespaces import LONG, UID, VIPS, Device, hosts, virtual_server

pytestmark = pytest.mark.kernel

MAC = bytes.fromhex("ba1b000000aa")


@pytest.fixture(params=["", MAC.hex(":")], ids=["own addresses", "virtual MAC"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Device, Device]]:
    listener = Listener(protocol="tcp", port=80, gateway_port=80)
    server = replaced(virtual_server([], [listener]), virtual_mac=request.param)
    with hosts("a", "b") as network:
        both = Device(network, "a"), Device(network, "b")
        for device in both:
            device.reconcile(Desired((server,), {UID: VIPS}))
        yield both
        for device in both:
            device.close()


def test_of_two_owners_that_meet_on_the_segment_alone_one_lets_go(
    pair: tuple[Device, Device],
) -> None:
    """By their own addresses, which answers with a virtual MAC do not tell, but questions do."""
    _, b = pair
    over = threading.Event()
    rounds: dict[str, list[Probed]] = {"a": [], "b": []}

    async def ask(device: Device) -> None:
        device.lease.acquire(VIPS, LONG)
        found = rounds[device.host]

        def deliver(told: Input) -> None:
            assert isinstance(told, Probed)
            found.append(told)

        prober = Prober("eth0", device.announcer, deliver, lambda _: MAC)
        deadline = time.monotonic() + 30
        while not over.is_set():
            assert time.monotonic() < deadline, rounds
            asked = len(found)
            prober.ask(ProbeArbiter(UID, None, VIPS, True, 100 * MILLISECOND))
            while len(found) == asked:  # noqa: ASYNC110 - each round ends by itself
                await asyncio.sleep(0.01)
            if device is b and found[-1].vip_answered:
                over.set()
        prober.close()

    with ThreadPoolExecutor(2) as both:
        for done in [both.submit(d.call, asyncio.run, ask(d)) for d in pair]:
            done.result()
    assert not any(told.vip_answered for told in rounds["a"]), "the lower address stays"
