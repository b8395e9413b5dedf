"""Rules for processes that stand still for a moment, each taken away on purpose."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import cast

import pytest

from protocol.beats import Beats
from protocol.contact import Contact
from protocol.groups import Groups
from protocol.neighbourhood import Neighbourhood
from protocol.node import Node
from protocol.timing import MILLISECOND, SECOND
from protocol.view import PeerState
from tests.sim.run import quiet_world
from tests.sim.site import Setup
from tests.sim.test_ablations import eager
from tests.sim.world import World

SEEDS = range(6)


def assert_forgiving_matters(
    monkeypatch: pytest.MonkeyPatch, kind: type, harm: Callable[[int], int]
) -> None:
    """What a seed does harm to is whole, and is not where ``kind`` forgives no stall."""
    assert not any(harm(seed) for seed in SEEDS)
    monkeypatch.setattr(kind, "forgive", lambda *_: None)
    assert any(harm(seed) for seed in SEEDS)


def moves_while_the_third_device_stands_still(seed: int) -> int:
    """How often a lease was given up.

    One of three devices is cut off from the primary and asks the third one, again and
    again, whether it misses the primary, too. The third one's process stands still for
    less than 2 T at a time, so its promise and the primary's lease go on.
    """
    world, random = quiet_world(seed, Setup()), Random(seed)
    (holder,) = world.announcers(world.first_vip)
    third, lonely = (holder + 1) % 3, (holder + 2) % 3
    world.network.cut(holder, lonely)
    world.network.cut(lonely, holder)
    world.run_for(SECOND)
    before = world.checker.seen["event released"]
    for _ in range(10):
        world.stall(third, random.randrange(175, 200) * MILLISECOND)
        world.run_for(random.randrange(600, 700) * MILLISECOND)
    world.network.heal_all(world.now, range(3))
    world.run_for(2 * SECOND)
    assert not world.checker.violations
    return world.checker.seen["event released"] - before


def test_a_device_that_stood_still_is_no_witness_against_the_primary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    eager(monkeypatch)
    assert_forgiving_matters(monkeypatch, Groups, moves_while_the_third_device_stands_still)


def test_a_voter_that_answers_late_is_asked_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    eager(monkeypatch)
    monkeypatch.setattr(Contact, "answered_late", lambda *_: False)
    assert any(moves_while_the_third_device_stands_still(seed) for seed in SEEDS)


def stand_still(world: World, index: int, seconds: int, random: Random) -> None:
    """Stop a device's process for a while; end as it goes on."""
    duration = seconds * SECOND + random.randrange(1000) * MILLISECOND
    world.stall(index, duration)
    world.run_for(duration - 2 * MILLISECOND)


def misses_after_standing_still(seed: int) -> int:
    """How often a device says of others that it does not hear them, who were never silent."""
    world, random = quiet_world(seed, Setup()), Random(seed)
    missed = 0
    for _ in range(6):
        stand_still(world, 2, 6, random)
        for _ in range(10):
            world.run_for(MILLISECOND)
            process = world.running(2)
            assert process is not None
            missed += bool(cast(Node, process.core).neighbourhood.roster.unheard)
        world.run_for(2 * SECOND)
    assert not world.checker.violations
    return missed


def test_a_device_that_stood_still_misses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_forgiving_matters(monkeypatch, Beats, misses_after_standing_still)


def suspects_given_up_after_standing_still(seed: int) -> int:
    """How often a device calls one dead that came back while it stood still itself."""
    world, random = quiet_world(seed, Setup()), Random(seed)
    given_up = 0
    for _ in range(4):
        world.crash(0)
        world.run_for(2200 * MILLISECOND + random.randrange(300) * MILLISECOND)
        assert _state_of_the_first(world) is PeerState.SUSPECT
        world.start(0)
        stand_still(world, 2, 5, random)
        for _ in range(10):
            world.run_for(MILLISECOND)
            given_up += _state_of_the_first(world) is PeerState.DEAD
        world.run_for(5 * SECOND)
    assert not world.checker.violations
    return given_up


def _state_of_the_first(world: World) -> PeerState:
    """As the third device sees it."""
    process = world.running(2)
    assert process is not None
    peers = process.core.view().peers
    return next(peer.state for peer in peers if peer.device == world.machines[0].id)


def test_a_suspect_keeps_its_time_to_come_back_where_its_judge_stood_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert_forgiving_matters(monkeypatch, Neighbourhood, suspects_given_up_after_standing_still)
