"""Voters given up by force: one Site and one owner again, whoever was right."""

from __future__ import annotations

from collections import Counter

import pytest

from protocol.groups import Groups
from protocol.timing import SECOND
from tests.sim import operators
from tests.sim.recoveries import TAMED, run_story
from tests.sim.run import quiet_world
from tests.sim.site import Setup
from tests.sim.world import World

FOUND = (65, 10796, 10970, 40086)
"""Seeds with no coordinator, or one whom others did not heed, although all were there; one that
was elected in a term older than what an operator had just forced it to store."""


def test_recoveries_on_both_sides_leave_one_site_and_one_owner() -> None:
    seen: Counter[str] = Counter()
    for seed in (*range(40), *FOUND):
        story = run_story(seed)
        assert story.violations == (), f"python -m tests.sim.recoveries --replay {seed}"
        seen += story.seen
    for state in ("recover: done", "two owners by force", "history lost by force"):
        assert seen[state], f"no story saw {state!r}"


def two_sides(seed: int) -> World:
    """A Virtual Server is served on both sides; two of the three that vote on it meet again."""
    world = quiet_world(seed, Setup(devices=5, carriers=3))
    world.checker.ignored = TAMED
    world.checker.leases.by_force = True
    world.crash(3)
    world.crash(4)
    world.network.partition(world.now, [0])
    world.run_for(3 * SECOND)
    operators.recover(world, 0)
    operators.recover(world, 2)
    world.run_for(4 * SECOND)
    assert len(world.announcers(world.first_vip)) == 2
    world.network.heal(world.now, 0, 2)
    world.network.heal(world.now, 2, 0)
    world.run_for(4 * SECOND)
    return world


@pytest.mark.parametrize("seed", range(4))
def test_who_hears_of_the_other_side_owns_nothing_beside_it(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = two_sides(seed)
    assert not world.checker.violations
    assert len(world.announcers(world.first_vip)) == 1
    if seed == 0:
        monkeypatch.setattr(Groups, "_give_up", lambda self, now, out: None)
        assert "S1" in str(two_sides(seed).checker.violations)
