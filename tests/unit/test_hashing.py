"""Slots: the same everywhere, by weight, and moved as little as possible."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.hashing import assign_slots
from protocol.objects import MAX_WEIGHT, SLOTS

FARM = {"10.0.0.1": 1, "10.0.0.2": 1, "10.0.0.3": 2, "fd00::4": 4}
seeds = st.integers(0, 2**32 - 1)
farms = st.dictionaries(
    st.ip_addresses().map(str), st.integers(0, MAX_WEIGHT), min_size=1, max_size=12
)


def test_the_assignment_is_a_promise_to_other_releases() -> None:
    """Devices of two releases must agree while a Site is upgraded."""
    assert "".join(address[-1] for address in assign_slots(FARM, seed=7)[:32]) == (
        "32244434444442442441134344443144"
    )


def test_it_does_not_depend_on_the_process() -> None:
    code = f"from agent.hashing import assign_slots; print(assign_slots({FARM!r}, 7))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert found == {str(assign_slots(FARM, 7))}


@given(farms, seeds)
def test_it_does_not_depend_on_the_order_of_gateways(farm: dict[str, int], seed: int) -> None:
    assert assign_slots(farm, seed) == assign_slots(dict(reversed(farm.items())), seed)


@given(farms, seeds, st.data())
def test_a_gateway_that_leaves_moves_only_its_own_slots(
    farm: dict[str, int], seed: int, data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(sorted(farm)))
    before = assign_slots(farm, seed)
    after = assign_slots({name: w for name, w in farm.items() if name != gone}, seed)
    if after:
        assert all(a == b for a, b in zip(after, before, strict=True) if b != gone)


@given(farms, seeds, st.data())
def test_more_weight_only_wins_slots(farm: dict[str, int], seed: int, data: st.DataObject) -> None:
    grown = data.draw(st.sampled_from(sorted(farm)))
    before = assign_slots(farm, seed)
    after = assign_slots({**farm, grown: farm[grown] + 10}, seed)
    moved = {a for a, b in zip(after, before, strict=bool(before)) if a != b}
    assert moved <= {grown}


@pytest.mark.parametrize("farm", [{}, {"10.0.0.1": 0}])
def test_without_weight_there_is_no_slot(farm: dict[str, int]) -> None:
    assert assign_slots(farm, 1) == ()


@given(farms, seeds)
def test_weight_zero_has_no_slot(farm: dict[str, int], seed: int) -> None:
    assert not {name for name, weight in farm.items() if not weight} & set(assign_slots(farm, seed))


def test_shares_follow_the_weights() -> None:
    """Over many seeds each share is the weight's, within five standard deviations."""
    rounds = 200
    found = Counter(slot for seed in range(rounds) for slot in assign_slots(FARM, seed))
    total = rounds * SLOTS
    for name, weight in FARM.items():
        share = weight / sum(FARM.values())
        assert abs(found[name] - total * share) < 5 * sqrt(total * share * (1 - share))


def test_seeds_give_different_assignments() -> None:
    assert assign_slots(FARM, 1) != assign_slots(FARM, 2)
