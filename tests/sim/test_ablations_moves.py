"""Rules of planned moves and of recovery, each taken away on purpose."""

from __future__ import annotations

import pytest

from protocol import recovery, rescue, terms
from protocol.effects import Recover
from protocol.ids import DeviceId
from protocol.timing import MILLISECOND, SECOND
from protocol.voter import Voter
from tests.sim import operators
from tests.sim.run import quiet_world
from tests.sim.site import Setup
from tests.sim.test_ablations import ALL_RULES, eager
from tests.sim.world import World


def free_for_all(self: Voter, leader: DeviceId, term: int, successor: DeviceId) -> bool:
    """A hand-over that frees voters for any candidate, as a resignation does."""
    if leader != self.leader or term != self.term:
        return False
    self.promised_to, self.promise_until = None, 0
    return True


def world_after_a_move_that_nobody_took(seed: int) -> World:
    """The successor stands still; a device that hears no primary wants to stand."""
    world = quiet_world(seed, Setup(devices=5))
    (holder,) = world.announcers(world.first_vip)
    successor, lonely = (holder + 1) % 5, (holder + 2) % 5
    world.network.cut(holder, lonely)
    world.run_for(SECOND)
    world.stall(successor, 500 * MILLISECOND)
    operators.promote(world, holder, 0, successor)
    world.run_for(SECOND)
    assert world.checker.failed or world.announcers(world.first_vip) == [holder]
    return world


def test_a_hand_over_that_frees_voters_for_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a planned move may end at a device that nobody named."""
    eager(monkeypatch)
    worlds = [world_after_a_move_that_nobody_took(seed) for seed in range(5)]
    assert not any(world.checker.violations for world in worlds)
    monkeypatch.setattr(Voter, "free", free_for_all)
    worlds = [world_after_a_move_that_nobody_took(seed) for seed in range(5)]
    assert {v.rule for world in worlds for v in world.checker.violations} == {"S4"}


def broken_by_a_recovery_beside_a_living_majority(seed: int) -> set[str]:
    """An operator gives up two devices that are only cut off, and hold elections meanwhile."""
    world = quiet_world(seed, Setup())
    world.checker.ignored = ALL_RULES - {"S2"}  # two owners are what force may cost
    (holder,) = world.announcers(world.first_vip)
    cut_off, other = (holder + 1) % 3, (holder + 2) % 3
    world.network.partition(world.now, [cut_off])
    for to in (other, holder) * 3:
        operators.promote(world, holder, 0, to)
        world.run_for(SECOND)
    survivor = world.running(cut_off)
    assert survivor is not None
    survivor.hand_in(Recover("recover", ()))
    world.run_for(3 * SECOND)
    if not world.checker.failed:
        recovered = world.machines[cut_off].disk.config.revision
        world.network.heal_all(world.now, range(3))
        world.run_for(10 * SECOND)
        for machine in world.machines:
            assert world.checker.failed or machine.disk.config.descends_from(recovered)
    return {v.rule for v in world.checker.violations}


def test_a_recovery_without_its_leap_of_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two primaries of one term would both be obeyed, each by whom it has heard of last."""
    assert broken_by_a_recovery_beside_a_living_majority(1) == set()
    for module in (recovery, rescue, terms):
        monkeypatch.setattr(module, "TERM_LEAP", 1)
    monkeypatch.setattr(terms, "TURNS", 1)
    assert broken_by_a_recovery_beside_a_living_majority(1) == {"S2"}
