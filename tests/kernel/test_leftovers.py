"""What leads where no rule leads any more goes elsewhere, unless it was answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import ExitStack, closing
from functools import partial

import pytest
from msgspec.structs import replace

from agent.conntrack import count_flows
from agent.leftovers import Leftovers
from agent.ruleset import Desired
from halbctl.lab.servers import ECHO
from protocol.config import Config, Edit
from protocol.ids import GroupId
from tests.kernel.farm import ADDRESSES, GREET, HOLD, NAMES, UDP, Farm, farm_gateways, version
from tests.kernel.namespaces import UID, VIPS, connect, virtual_server, wait_until
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


async def swept(leftovers: Leftovers, left: Callable[[], int | Collection[object]]) -> None:
    """Until nothing is left."""
    gone = partial(wait_until, lambda: not left(), "nothing is left", PATIENCE_S)
    await asyncio.to_thread(gone)
    await leftovers.close()


async def redispatched(before: Desired, now: Desired, vip: str, gateway: str) -> None:
    """What an agent does once its rules have changed, until nothing waits for the gateway."""
    leftovers = Leftovers()
    leftovers.on_pass(before)
    leftovers.on_pass(now)
    await swept(leftovers, lambda: waiting(vip, gateway))


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
        await swept(leftovers, lambda: waiting(vip, vip))

    with closing(farm.client.call(datagrams, vip)) as steady:
        device.run("nft", "delete", "table", "inet", "halb")
        steady.send(LOST)
        wait_until(lambda: device.call(waiting, vip, vip) == 1, "it waits", PATIENCE_S)
        device.call(asyncio.run, mended())
        device.take()
        assert answer(steady, ANSWERED) in NAMES


@pytest.mark.parametrize("vip", VIPS)
def test_connections_end_with_their_vip_and_lead_where_it_leads_when_it_is_back(
    farm: Farm, vip: str
) -> None:
    """While nobody has the VIP, what clients go on to send passes, and leaves an entry."""
    device = farm.device
    served = farm.serve(farm_gateways())
    config = Config().edited(Edit(put=served.virtual_servers), 1)
    held = farm.hold(vip, timeout=PATIENCE_S)

    async def deleted() -> None:
        leftovers = Leftovers()
        leftovers.on_config(config)
        leftovers.on_pass(served)
        leftovers.on_config(Config())
        leftovers.on_pass(device.plane.reconcile(Desired()).in_force)
        await swept(leftovers, lambda: count_flows([vip]))

    async def back() -> None:
        leftovers = Leftovers()
        leftovers.on_pass(device.plane.reconcile(served).in_force)
        await swept(leftovers, lambda: waiting(vip, vip))

    with closing(farm.client.call(datagrams, vip)) as steady:
        assert answer(steady, ANSWERED) in NAMES
        device.call(asyncio.run, deleted())
        held.sendall(b"?")
        steady.send(LOST)
        wait_until(lambda: device.call(waiting, vip, vip) == 2, "they wait", PATIENCE_S)
        device.call(asyncio.run, back())
        device.take()
        assert held.recv(1) == b"?"
        assert answer(steady, ANSWERED) in NAMES


@pytest.mark.parametrize("vip", VIPS)
def test_connections_that_gateways_answer_themselves_from_now_on_are_counted_no_more(
    farm: Farm, vip: str
) -> None:
    """They are lost, and would for days count as connections once the mode is `snat` again. What a
    process on the device has open is translated in every mode, and goes on."""
    device = farm.device
    served = farm.serve(farm_gateways())
    direct = Desired((replace(served.virtual_servers[0], forwarding="dsr"),), served.vips)
    farm.hold(vip, timeout=PATIENCE_S)

    def open_flows() -> int:
        return sum(count_flows([vip]).values())

    async def changed() -> None:
        leftovers = Leftovers()
        leftovers.on_pass(served)
        leftovers.on_pass(device.plane.reconcile(direct).in_force)
        await swept(leftovers, lambda: open_flows() > 1)

    with closing(device.call(connect, vip, ECHO)) as own:
        assert device.call(open_flows) == 2
        device.call(asyncio.run, changed())
        own.sendall(b"?")
        assert own.recv(1) == b"?"


@pytest.mark.parametrize("vip", VIPS)
def test_only_those_of_a_vip_end_that_no_other_virtual_server_is_to_have(
    farm: Farm, vip: str
) -> None:
    """That one has it only once no lease of the former one can be alive."""
    (nobodys,) = set(VIPS) - {vip}
    served = farm.serve(farm_gateways())
    (former,) = served.virtual_servers
    other = replace(
        former,
        uid=GroupId("00000000000000bb"),
        vips=tuple(each for each in former.vips if each.startswith(vip)),
    )
    kept, _ = (farm.hold(each, timeout=PATIENCE_S) for each in (vip, nobodys))

    async def moving() -> None:
        leftovers = Leftovers()
        for server, in_force in ((former, served), (other, Desired((other,)))):
            leftovers.on_config(Config().edited(Edit(put=(server,)), 1))
            leftovers.on_pass(in_force)
        await swept(leftovers, lambda: count_flows([nobodys]))

    farm.device.call(asyncio.run, moving())
    kept.sendall(b"?")
    assert kept.recv(1) == b"?"
