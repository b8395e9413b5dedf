"""Rules for processes that stand still for a moment, each taken away on purpose.

One of three devices is cut off from the primary and asks the third one, again and
again, whether it misses the primary, too. The third one's process stands still
for less than 2 T at a time, so its promise and the primary's lease go on.
"""

from __future__ import annotations

from random import Random

import pytest

from protocol.contact import Contact
from protocol.groups import Groups
from protocol.timing import MILLISECOND, SECOND
from tests.sim.run import quiet_world
from tests.sim.site import Setup

SEEDS = range(6)


def moves_while_the_third_device_stands_still(seed: int) -> int:
    """How often a lease was given up."""
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
    assert not any(moves_while_the_third_device_stands_still(seed) for seed in SEEDS)
    monkeypatch.setattr(Groups, "forgive", lambda *_: None)
    assert any(moves_while_the_third_device_stands_still(seed) for seed in SEEDS)


def test_a_voter_that_answers_late_is_asked_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Contact, "answered_late", lambda *_: False)
    assert any(moves_while_the_third_device_stands_still(seed) for seed in SEEDS)
