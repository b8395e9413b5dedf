"""What leads where no rule leads any more goes elsewhere, unless it was answered."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, closing
from functools import partial

import pytest
from msgspec.structs import replace

from agent.leftovers import Leftovers
from agent.ruleset import Desired
from protocol.ids import GroupId
from tests.kernel.farm import ADDRESSES, GREET, HOLD, NAMES, UDP, Farm, farm_gateways, version
from tests.kernel.namespaces import UID, VIPS, virtual_server, wait_until
from tests.kernel.swallowing import (
    ANSWERED,
    LOST,
    PATIENCE_S,
    answer,
    datagrams,
    knock,
    swallowing,
    wait_open,
    waiting,
)

pytestmark = pytest.mark.kernel

GONE, OTHERS = NAMES[0], NAMES[1:]
STICKY = replace(GREET, port=81, balance="round-robin", sticky=300)
LISTENERS = (GREET, STICKY, HOLD, UDP)


def both(*names: str) -> list[str]:
    """The gateways by both of their addresses."""
    return [f"{name}-{version}" for name in names for version in ADDRESSES]


async def redispatched(before: Desired, now: Desired, vip: str, gateway: str) -> None:
    """What an agent does once its rules have changed, until nothing waits for the gateway."""
    leftovers = Leftovers()
    leftovers.on_pass(before)
    leftovers.on_pass(now)
    gone = partial(wait_until, lambda: not waiting(vip, gateway), "none waits", PATIENCE_S)
    await asyncio.to_thread(gone)
    await leftovers.close()


@pytest.mark.parametrize("most", [0, 50])
@pytest.mark.parametrize("vip", VIPS)
def test_what_waits_for_a_gateway_that_goes_down_is_answered_by_another(
    farm: Farm, vip: str, most: int
) -> None:
    gateways, device = farm_gateways(most=most), farm.device
    before = farm.serve(gateways, LISTENERS, down=both(*OTHERS))
    held = farm.hold(vip, timeout=PATIENCE_S)
    talking, silent = (farm.client.call(datagrams, vip) for _ in range(2))
    with swallowing(device.network, GONE), ExitStack() as stack:
        for sock in (talking, silent):
            stack.callback(sock.close)
        opening = [farm.client.call(knock, vip, each.port) for each in (GREET, STICKY)]
        for sock in opening:
            stack.callback(sock.close)
        silent.send(LOST)
        address = next(g.address for g in gateways if g.name == f"{GONE}-{version(vip)}")
        wait_until(lambda: device.call(waiting, vip, address) == 3, "they wait", PATIENCE_S)
        assert answer(talking, ANSWERED) == GONE
        now = farm.serve(gateways, LISTENERS, down=both(GONE))
        device.call(asyncio.run, redispatched(before, now, vip, address))
        assert answer(talking, ANSWERED) == GONE
        held.sendall(b"?")
        assert held.recv(1) == b"?"
        assert answer(silent, LOST) in OTHERS
        for sock in opening:
            wait_open(sock)
            assert sock.recv(100).decode().strip() in OTHERS


@pytest.mark.parametrize("vip", VIPS)
def test_datagrams_follow_a_vip_to_another_virtual_server(farm: Farm, vip: str) -> None:
    device, other = farm.device, GroupId("00000000000000bb")
    one, two = (
        [g for g in farm_gateways() if g.name == f"{name}-{version(vip)}"] for name in NAMES[:2]
    )
    servers = (
        virtual_server(one, [UDP]),
        replace(virtual_server(two, [UDP]), uid=other, name="other"),
    )
    before, now = (Desired(servers, {owner: (vip,)}) for owner in (UID, other))
    device.reconcile(before)
    device.take([vip])
    with closing(farm.client.call(datagrams, vip)) as steady:
        with swallowing(device.network, NAMES[0]):
            steady.send(LOST)
            address = one[0].address
            wait_until(lambda: device.call(waiting, vip, address) == 1, "it waits", PATIENCE_S)
            device.reconcile(now)
            device.call(asyncio.run, redispatched(before, now, vip, address))
        assert answer(steady, LOST) == NAMES[1]


@pytest.mark.parametrize("vip", VIPS)
def test_datagrams_find_the_new_port_of_a_gateway(farm: Farm, vip: str) -> None:
    device, gateways = farm.device, [g for g in farm_gateways() if NAMES[0] in g.name]
    address = next(g.address for g in gateways if (":" in g.address) is (":" in vip))
    before = farm.serve(gateways, [replace(UDP, gateway_port=UDP.gateway_port + 1)])
    with closing(farm.client.call(datagrams, vip)) as steady:
        with swallowing(device.network, NAMES[0]):
            steady.send(LOST)
            wait_until(lambda: device.call(waiting, vip, address) == 1, "it waits", PATIENCE_S)
            now = farm.serve(gateways, [UDP])
            device.call(asyncio.run, redispatched(before, now, vip, address))
        assert answer(steady, ANSWERED) == NAMES[0]


@pytest.mark.parametrize("vip", VIPS)
def test_a_flow_that_began_while_others_had_removed_the_rules_finds_a_gateway(
    farm: Farm, vip: str
) -> None:
    """Its entry leads to the device itself, and would for as long as the client sends."""
    device = farm.device
    served = farm.serve(farm_gateways())

    async def mended() -> None:
        leftovers = Leftovers()
        leftovers.on_pass(served)
        done = device.plane.reconcile(served)
        leftovers.on_pass(done.in_force, mended=bool(done.drift))
        gone = partial(wait_until, lambda: not waiting(vip, vip), "none waits", PATIENCE_S)
        await asyncio.to_thread(gone)
        await leftovers.close()

    with closing(farm.client.call(datagrams, vip)) as steady:
        device.run("nft", "delete", "table", "inet", "halb")
        steady.send(LOST)
        wait_until(lambda: device.call(waiting, vip, vip) == 1, "it waits", PATIENCE_S)
        device.call(asyncio.run, mended())
        device.take()
        assert answer(steady, ANSWERED) in NAMES
