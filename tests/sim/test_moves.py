"""Moves without a failure, on bad links: held back, in time, and never two owners."""

from __future__ import annotations

import pytest

from protocol.changes import CancelMove, FreezeVirtualServer, PlanMove
from protocol.effects import WallClock
from protocol.timing import SECOND
from tests.sim import network, operators
from tests.sim.machine import UNIX_S
from tests.sim.run import quiet_world
from tests.sim.site import Setup, device_name
from tests.sim.world import World

PLAN = "0123456789abcdef"
SEEDS = range(3)


def asked(world: World, change: FreezeVirtualServer | PlanMove | CancelMove) -> None:
    request = operators.propose(world, 1, change)
    assert request is not None
    world.run_for(3 * SECOND)
    assert operators.succeeded(world, request)


def holder(world: World) -> list[int]:
    return list(world.announcers(world.first_vip))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_frozen_service_waits_for_its_last_primary(seed: int) -> None:
    world = quiet_world(seed, Setup())
    world.network.quality = network.Quality(loss=0.05)
    (first,) = holder(world)
    asked(world, FreezeVirtualServer("vs0", True))
    (first,) = holder(world)
    world.crash(first)
    for _ in range(20):
        world.run_for(SECOND)
        assert holder(world) == []
    world.start(first)
    world.run_for(5 * SECOND)
    assert holder(world) == [first]
    assert not world.checker.violations


def planned_on_bad_links(seed: int) -> bool:
    """Whether a planned move was made although a tenth of all messages is lost."""
    world = quiet_world(seed, Setup())
    world.network.quality = network.Quality(loss=0.1)
    (first,) = holder(world)
    to = (first + 1) % 3
    at = world.now // SECOND + 15
    for index, machine in enumerate(world.machines):
        offset = UNIX_S * SECOND + world.now - machine.clock.local(world.now)
        world.hand_in(index, WallClock(offset))
    asked(world, PlanMove("vs0", device_name(to), at + UNIX_S, PLAN))
    world.run_for(5 * SECOND)
    assert holder(world) == [first]
    world.run_for(25 * SECOND)
    assert holder(world) in ([first], [to])
    assert not world.checker.violations
    assert not world.checker.configs.newest.planned_moves
    return holder(world) == [to]


def test_a_planned_move_is_tried_once_and_mostly_made_on_bad_links() -> None:
    assert sum(map(planned_on_bad_links, range(8))) >= 5
