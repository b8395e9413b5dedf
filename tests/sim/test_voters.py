"""Voter lists while they change: what a device has said of them it does not take back."""

from __future__ import annotations

from typing import cast

import pytest

from protocol.changes import PutVirtualServer
from protocol.config import Config
from protocol.document import VirtualServerDocument
from protocol.ids import GroupId
from protocol.listener_document import ListenerDocument
from protocol.messages import Stored
from protocol.node import Node
from protocol.replica import Replica
from protocol.timing import MILLISECOND, SECOND
from tests.sim import operators
from tests.sim.run import quiet_world
from tests.sim.site import Setup, device_id, group_id
from tests.sim.test_ablations import ALL_RULES, turns_red
from tests.sim.world import World

A, B, C = range(3)
SEEDS = range(6)
STEP_NS = 20_000
SLOW_NS = 20 * MILLISECOND


def core(world: World, index: int) -> Node:
    process = world.running(index)
    assert process is not None
    return cast(Node, process.core)


def with_c_lost(seed: int) -> World:
    """Five devices, of which a, b and c vote on the Virtual Server; c has lost power."""
    world = quiet_world(seed, Setup(devices=5, carriers=3))
    operators.promote(world, B, 0, A)
    world.run_for(SECOND)
    world.crash(C)
    world.run_for(3 * SECOND)
    return world


def name_others(world: World, *devices: str) -> None:
    """``halbctl vs edit``: other devices carry the Virtual Server."""
    server = VirtualServerDocument(
        name="vs0",
        vips=(f"{world.first_vip}/24",),
        devices=devices,
        listeners=(ListenerDocument(port=443),),
    )
    assert operators.propose(world, A, PutVirtualServer(server)) is not None


def crash_b(world: World) -> None:
    """Then b and c come back together, cut off from the others."""
    world.crash(B)
    for lost in (B, C):
        for other in (A, 3, 4):
            world.network.cut(lost, other)
            world.network.cut(other, lost)
    world.run_for(4 * SECOND)
    world.machines[B].disk.fsync_ns = MILLISECOND // 2
    world.start(B)
    world.start(C)
    world.run_for(4 * SECOND)


def b_crashes_when_the_coordinator_has_its_word(seed: int) -> World:
    world = with_c_lost(seed)
    world.machines[B].disk.fsync_ns = SLOW_NS
    name_others(world, "a", "b", "d")
    end = world.now + 2 * SECOND
    while not _has_word_of_b(world) and world.now < end:
        world.run_for(STEP_NS)
    crash_b(world)
    return world


def _has_word_of_b(world: World) -> bool:
    for index in (A, B, 3, 4):
        coordinator = core(world, index).configuration.coordinator
        follower = coordinator.followers.get(device_id(B)) if coordinator else None
        if follower is not None and follower.committed is not None:
            config = world.checker.configs.newest
            changed = config.revision_of(("assignment", group_id(0)))
            return config.assignments[group_id(0)].number > 1 and follower.committed >= changed
    return False


def b_crashes_with_more_stored_than_committed(seed: int) -> World:
    """All is settled, and b has one revision more on disk: it must hear whether that counts."""
    world = with_c_lost(seed)
    name_others(world, "a", "b", "d")
    world.run_for(3 * SECOND)
    world.machines[B].disk.fsync_ns = SLOW_NS
    operators.propose(world, A, operators.random_token(world.random))
    disk, end = world.machines[B].disk, world.now + SECOND
    while disk.config.revision == disk.committed and world.now < end:
        world.run_for(STEP_NS)
    assert disk.config.revision > disk.committed, "the moment was missed"
    # As where its file is damaged, or another revision was stored in between.
    disk.former = Config()
    crash_b(world)
    return world


@pytest.mark.parametrize(
    "story",
    [b_crashes_when_the_coordinator_has_its_word, b_crashes_with_more_stored_than_committed],
)
def test_a_voter_that_lost_power_does_not_fall_back_to_a_former_list(story) -> None:  # type: ignore[no-untyped-def]
    for seed in SEEDS:
        world = story(seed)
        assert not world.checker.violations, f"seed {seed}: {world.checker.violations[0]}"
        assert world.announcers(world.first_vip) == [A]


def two_owners(story, monkeypatch: pytest.MonkeyPatch) -> bool:  # type: ignore[no-untyped-def]
    original = World.__init__

    def only_owners(self: World, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
        original(self, *args, **kwargs)
        self.checker.ignored = ALL_RULES - {"S1"}

    monkeypatch.setattr(World, "__init__", only_owners)
    return any(story(seed).checker.violations for seed in SEEDS)


def _at_once(self: Replica, term: int, terms: tuple[tuple[GroupId, int], ...]) -> Stored:
    return Stored(term, self.durable, self.committed.revision, terms)


def test_a_list_that_is_told_before_it_is_on_disk_gives_two_owners(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Replica, "report", _at_once)
    assert two_owners(b_crashes_when_the_coordinator_has_its_word, monkeypatch)


def test_a_former_list_that_a_neighbour_passes_on_gives_two_owners(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Replica, "known_committed", property(lambda self: self.committed.revision))
    assert two_owners(b_crashes_with_more_stored_than_committed, monkeypatch)


def test_a_list_that_is_told_too_early_is_found_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replica, "report", _at_once)
    assert turns_red("S17")
