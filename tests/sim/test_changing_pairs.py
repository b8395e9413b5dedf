"""Pairs in larger Sites whose voters change: who serves meanwhile, what each rule is for."""

from __future__ import annotations

import pytest

from protocol.alone import Alone
from protocol.changes import DeleteVirtualServer, RecoverVoters
from protocol.objects import Assignment
from protocol.timing import MILLISECOND, SECOND, Profile
from tests.sim import operators
from tests.sim.changing_pairs import (
    DEVICES,
    MODES,
    UID,
    change,
    changing_world,
    run_story,
    unsettled,
)
from tests.sim.pairs import heal, primary
from tests.sim.site import device_id
from tests.sim.world import World

B, C = 1, 2


def test_voter_lists_that_change_under_faults_never_make_two_owners() -> None:
    stories = [run_story(seed) for seed in range(20)]
    assert [s for s in stories if s.violations or s.overlap or not s.healed] == []
    assert sum(s.seen["taken while the list before may serve"] for s in stories) > 4


def in_force(world: World, index: int = B) -> Assignment:
    process = world.running(index)
    assert process is not None
    assert process.in_force is not None
    return process.in_force.assignments[UID]


def restart(world: World, index: int) -> None:
    world.kill(index)
    world.run_for(2 * SECOND)
    world.start(index)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("beginning", ["left", "grew"])
def test_who_is_left_of_two_serves_again_after_a_restart(mode: str, beginning: str) -> None:
    world = changing_world(0, mode, beginning)
    world.crash(0)
    world.run_for(3 * SECOND)
    restart(world, B)
    world.run_for(5 * SECOND)
    assert unsettled(world)
    if mode == "hold":
        assert primary(world) is None
        assert "operator" in world.view(B).groups[1].waits
        operators.force(world, B, "vs0")
        world.run_for(2 * SECOND)
    assert primary(world) == B
    assert not world.checker.violations


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("beginning", ["left", "grew"])
def test_nobody_takes_what_the_other_of_two_serves_by_the_list_before(
    mode: str, beginning: str
) -> None:
    world = changing_world(1, mode, beginning)
    assert primary(world) == 0
    restart(world, B)
    operators.force(world, B, "vs0")
    world.run_for(5 * SECOND)
    assert primary(world) == 0
    assert not world.checker.violations


def heard_by_beats_alone(seed: int) -> World:
    """One serves by the list before; the links live but for configuration, the segment is dead."""
    world = changing_world(seed, "serve", "grew")
    assert primary(world) == 0
    world.segment.whole = False
    world.network.heal_all(world.now, range(DEVICES))
    for other in range(1, DEVICES):
        world.network.cut_bulk(other, 0)
    world.run_for(3 * SECOND)
    return world


def test_the_word_of_one_that_serves_by_the_list_before_counts_where_the_segment_is_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds = range(1, 8, 2)
    assert not any(heard_by_beats_alone(seed).checker.violations for seed in seeds)
    monkeypatch.setattr(Alone, "on_claim", lambda self, _, __, yields, now, out: None)
    assert any(heard_by_beats_alone(seed).checker.violations for seed in seeds)


def taken_amid_a_hand_over(seed: int) -> World:
    """The successor's disk is slow, and the device that was cut off finds nobody meanwhile."""
    world = changing_world(2 * seed, "serve", "grew")
    before = primary(world)
    assert before in (B, C)
    world.machines[B + C - before].disk.fsync_ns = 300 * MILLISECOND
    operators.promote(world, before, 0, None)
    operators.force(world, 0, "vs0")
    world.run_for(3 * SECOND)
    return world


def test_a_majority_asks_once_more_before_it_opens_what_took_it_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worlds = [taken_amid_a_hand_over(seed) for seed in range(4)]
    assert not any(world.checker.violations for world in worlds)
    assert {primary(world) for world in worlds} == {0}
    monkeypatch.setattr(Alone, "may_open", lambda self, now: True)
    assert any(taken_amid_a_hand_over(seed).checker.violations for seed in range(4))


def test_a_majority_that_does_not_ask_for_the_vips_is_one_of_two_owners(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Alone, "clear", lambda self, now: True)
    monkeypatch.setattr(Alone, "may_open", lambda self, now: True)
    world = changing_world(1, "serve", "grew")
    world.run_for(3 * SECOND)
    assert "S1" in str(world.checker.violations)


@pytest.mark.parametrize("delay_ms", [2, 20, 100, 300])
def test_a_pair_that_grows_survives_its_primary(delay_ms: int) -> None:
    world = changing_world(0, "serve", "pair")
    before = primary(world)
    assert before is not None
    operators.propose(world, C, change("serve", "abc", "", Profile.NORMAL))
    world.run_for(delay_ms * MILLISECOND)
    world.crash(before)
    world.run_for(5 * SECOND)
    assert primary(world) is not None
    assert not world.checker.violations


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("mode", "witnesses", "profile"), [("", "c", Profile.NORMAL), ("serve", "", Profile.FAST)]
)
def test_an_edit_leaves_alone_who_serves_alone(
    seed: int, mode: str, witnesses: str, profile: Profile
) -> None:
    world = changing_world(seed, "serve", "pair")
    gone = primary(world)
    assert gone is not None
    world.crash(gone)
    world.run_for(3 * SECOND)
    assert primary(world) == 1 - gone
    gaps = len(world.checker.leases.gaps)
    operators.propose(world, C, change(mode, "ab", witnesses, profile))
    world.run_for(5 * SECOND)
    assert primary(world) == 1 - gone
    assert len(world.checker.leases.gaps) == gaps
    world.start(gone)
    world.run_for(5 * SECOND)
    assert in_force(world).profile is profile
    assert in_force(world).settled
    assert primary(world) is not None


def test_recover_settles_what_waits_for_one_that_is_gone() -> None:
    world = changing_world(0, "serve", "grew")
    world.crash(0)
    world.run_for(3 * SECOND)
    assert unsettled(world)
    survivors = tuple(device_id(i) for i in range(1, DEVICES))
    operators.propose(world, B, RecoverVoters(survivors, ((UID, world.view(B).groups[1].term),)))
    world.run_for(3 * SECOND)
    after = in_force(world)
    assert after.settled
    assert not after.formerly_lone
    assert after.voters == (device_id(B), device_id(C))
    restart(world, B)
    restart(world, C)
    world.run_for(3 * SECOND)
    assert primary(world) is not None
    world.start(0)
    heal(world)
    world.run_for(3 * SECOND)
    assert primary(world) is not None


def test_a_deleted_service_is_silent_although_its_list_waits_for_one_that_is_gone() -> None:
    world = changing_world(0, "serve", "grew")
    world.crash(0)
    world.run_for(3 * SECOND)
    assert primary(world) is not None
    operators.propose(world, B, DeleteVirtualServer("vs0"))
    world.run_for(SECOND)
    assert primary(world) is None
    assert in_force(world).releasing


def without_the_segment(seed: int) -> World:
    """One serves by the list before, cut off by the links; the others are by the segment."""
    world = changing_world(seed, "arbiter", "grew")
    assert primary(world) == 0
    world.segment.reached = [True, False, False, True]
    world.run_for(3 * SECOND)
    return world


def test_a_majority_whose_questions_reach_nobody_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not without_the_segment(1).checker.violations
    monkeypatch.setattr(Alone, "_reached", lambda self, probed: True)
    assert without_the_segment(1).checker.violations
