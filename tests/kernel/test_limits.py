"""Limits in a real kernel: room of gateways, what one client may have and open."""

from __future__ import annotations

import time
from contextlib import suppress
from math import comb

import pytest
from msgspec.structs import replace

from agent.distribution import Moment
from agent.gated import COUNTED_MOST
from tests.kernel.farm import (
    GREET,
    HOLD,
    LISTENERS,
    Farm,
    connect_from,
    farm_gateways,
    source_of,
)
from tests.kernel.namespaces import UID, VIPS, wait_until

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("vip", VIPS)
def test_a_gateway_that_the_agent_counts_full_takes_nothing(farm: Farm, vip: str) -> None:
    names = {f"gw1-{v}" for v in (4, 6)}
    full = Moment(full=frozenset((UID, name) for name in names))
    farm.serve(farm_gateways(most=50), moment=full)
    assert "gw1" not in {farm.greeted(vip) for _ in range(30)}


@pytest.mark.parametrize("vip", VIPS)
def test_a_gateway_never_has_more_than_its_most(farm: Farm, vip: str) -> None:
    farm.serve(farm_gateways(most=5))
    for _ in range(15):
        farm.hold(vip)
    assert farm.held(vip) == {"gw1": 5, "gw2": 5, "gw3": 5}
    with pytest.raises(ConnectionRefusedError):
        farm.hold(vip)


@pytest.mark.parametrize("vip", VIPS)
def test_what_exceeds_a_gateway_goes_to_one_without_a_limit(farm: Farm, vip: str) -> None:
    gateways = [
        replace(g, max_connections=4 if g.name.startswith("gw1") else 0)
        for g in farm_gateways(8, 1, 1)
    ]
    farm.serve(gateways)
    for _ in range(30):
        farm.hold(vip)
    found = farm.held(vip)
    assert found["gw1"] == 4
    assert found["gw2"] + found["gw3"] == 26
    assert found["gw2"] > 3
    assert found["gw3"] > 3


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("weights", [(5, 1, 4), (8, 1, 1), (2, 4, 1)])
@pytest.mark.parametrize("most", [20, COUNTED_MOST + 1])
def test_what_exceeds_a_gateway_is_shared_by_the_weights_of_those_with_room(
    farm: Farm, vip: str, weights: tuple[int, int, int], most: int
) -> None:
    """By the kernel's count of what the first one has, and by the agent's."""
    gateways = [
        replace(g, max_connections=most if g.name.startswith("gw1") else 0)
        for g in farm_gateways(*weights)
    ]
    counted = () if most <= COUNTED_MOST else [(UID, g.name) for g in gateways if g.max_connections]
    listener = replace(HOLD, balance="random")
    farm.serve(gateways, [listener], moment=Moment(full=frozenset(counted)))
    for _ in range(200):
        farm.hold(vip, timeout=4)
    found = farm.held(vip)
    assert found["gw1"] == (0 if counted else 20)
    assert chance(found["gw2"], 200 - found["gw1"], weights[1] / sum(weights[1:])) > 1e-6, found


def chance(found: int, of: int, share: float) -> float:
    """How likely so few, or so many, are of this ``share``: the exact tails of the binomial."""
    each = [comb(of, n) * share**n * (1 - share) ** (of - n) for n in range(of + 1)]
    return 2 * min(sum(each[: found + 1]), sum(each[found:]))


@pytest.mark.parametrize("vip", VIPS)
def test_a_place_that_is_free_again_is_taken(farm: Farm, vip: str) -> None:
    farm.serve(farm_gateways(most=3))
    socks = [farm.hold(vip) for _ in range(9)]
    for sock in socks:
        sock.close()
    wait_until(lambda: sum(farm.held(vip).values()) == 0, "all connections have ended")

    def taken() -> bool:
        try:
            farm.hold(vip, timeout=3)
        except ConnectionRefusedError:
            return False
        return True

    wait_until(taken, "a gateway has room again", 8)


@pytest.mark.parametrize("vip", VIPS)
def test_listeners_share_the_room_of_a_gateway(farm: Farm, vip: str) -> None:
    other = replace(HOLD, port=81)
    farm.serve(farm_gateways(most=2), [HOLD, other])
    for _ in range(6):
        farm.hold(vip)
    with pytest.raises(ConnectionRefusedError):
        farm.client.call(connect_from, source_of(vip, 1, 0), vip, 81)


@pytest.mark.parametrize("vip", VIPS)
def test_a_rule_change_forgets_no_connection_of_a_gateway(farm: Farm, vip: str) -> None:
    gateways = farm_gateways(most=5)
    farm.serve(gateways)
    for _ in range(15):
        farm.hold(vip)
    farm.serve(gateways, [*LISTENERS, replace(HOLD, port=81)])
    time.sleep(2.6)
    with pytest.raises((ConnectionRefusedError, TimeoutError)):
        farm.hold(vip)
    assert farm.held(vip) == {"gw1": 5, "gw2": 5, "gw3": 5}


@pytest.mark.parametrize("vip", VIPS)
def test_a_gateway_that_took_nothing_for_a_while_has_its_connections_counted(
    farm: Farm, vip: str
) -> None:
    """One that the agent counted full, and one that was down."""
    gateways = farm_gateways(most=5)
    farm.serve(gateways)
    held = [farm.hold(vip) for _ in range(15)]
    full = frozenset((UID, g.name) for g in gateways if not g.name.startswith("gw3"))
    farm.serve(gateways, down=["gw3-4", "gw3-6"], moment=Moment(full=full))
    held[0].close()
    wait_until(lambda: sum(farm.held(vip).values()) == 14, "a connection has ended")
    farm.serve(gateways)
    time.sleep(2.6)
    for _ in range(12):
        with suppress(ConnectionRefusedError, TimeoutError):
            farm.hold(vip, timeout=0.1)
    assert max(farm.held(vip).values()) == 5


@pytest.mark.parametrize("vip", VIPS)
def test_a_client_has_no_more_connections_than_it_may(farm: Farm, vip: str) -> None:
    farm.serve(farm_gateways(), [replace(HOLD, client_connections=4)])
    socks = [farm.hold(vip) for _ in range(4)]
    with pytest.raises(ConnectionRefusedError):
        farm.hold(vip)
    farm.hold(vip, client=1)
    socks[0].close()
    wait_until(lambda: sum(farm.held(vip).values()) == 4, "one has ended")
    farm.hold(vip)


@pytest.mark.parametrize("vip", VIPS)
def test_a_client_opens_no_more_in_a_second_than_it_may(farm: Farm, vip: str) -> None:
    farm.serve(farm_gateways(), [replace(GREET, client_rate=10)])
    began, opened = time.monotonic(), 0
    while time.monotonic() - began < 3:
        try:
            farm.client.call(_opened_within, source_of(vip, 0, 0), vip, 80, 0.05)
            opened += 1
        except TimeoutError:
            pass
    took = time.monotonic() - began
    assert 10 * took * 0.5 < opened <= 10 + 10 * took * 1.2
    assert farm.greeted(vip, client=1), "another client is not held up"


def _opened_within(source: tuple[str, int], vip: str, port: int, seconds: float) -> None:
    connect_from(source, vip, port, seconds).close()
