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

from agent.hashing import VARIANTS, assign_slots
from protocol.objects import MAX_GATEWAYS, MAX_WEIGHT, SLOTS

FARM = {1: 1, 2: 1, 3: 2, 4: 4}
"""Weights by seat."""
seeds = st.integers(0, 2**32 - 1)
farms = st.dictionaries(
    st.integers(0, MAX_GATEWAYS - 1), st.integers(0, MAX_WEIGHT), min_size=1, max_size=12
)


def test_the_assignment_is_a_promise_to_other_releases() -> None:
    """Devices of two releases must agree while a Site is upgraded."""
    assert "".join(str(seat) for seat in assign_slots(FARM, seed=7)[:32]) == (
        "24333334444334344442431444442433"
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
def test_it_does_not_depend_on_the_order_of_gateways(farm: dict[int, int], seed: int) -> None:
    assert assign_slots(farm, seed) == assign_slots(dict(reversed(farm.items())), seed)


@given(farms, seeds, st.data())
def test_a_gateway_that_leaves_moves_only_its_own_slots(
    farm: dict[int, int], seed: int, data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(sorted(farm)))
    before = assign_slots(farm, seed)
    after = assign_slots({seat: w for seat, w in farm.items() if seat != gone}, seed)
    if after:
        assert all(a == b for a, b in zip(after, before, strict=True) if b != gone)


@given(farms, seeds, st.data())
def test_more_weight_only_wins_slots(farm: dict[int, int], seed: int, data: st.DataObject) -> None:
    grown = data.draw(st.sampled_from(sorted(farm)))
    before = assign_slots(farm, seed)
    after = assign_slots({**farm, grown: farm[grown] + 10}, seed)
    moved = {a for a, b in zip(after, before, strict=bool(before)) if a != b}
    assert moved <= {grown}


@pytest.mark.parametrize("farm", [{}, {1: 0}])
def test_without_weight_there_is_no_slot(farm: dict[int, int]) -> None:
    assert assign_slots(farm, 1) == ()


@given(farms, seeds)
def test_weight_zero_has_no_slot(farm: dict[int, int], seed: int) -> None:
    assert not {seat for seat, weight in farm.items() if not weight} & set(assign_slots(farm, seed))


def test_shares_follow_the_weights() -> None:
    """Over all seats and seeds each share is the weight's, within five standard deviations."""
    weights = (1, 1, 2, 4)
    found = Counter[int]()
    turns = 0
    for first in range(0, MAX_GATEWAYS, len(weights)):
        farm = {first + place: weight for place, weight in enumerate(weights)}
        for seed in range(VARIANTS):
            found.update(seat - first for seat in assign_slots(farm, seed))
            turns += 1
    total = turns * SLOTS
    for place, weight in enumerate(weights):
        share = weight / sum(weights)
        assert abs(found[place] - total * share) < 5 * sqrt(total * share * (1 - share))


def test_virtual_servers_with_the_same_gateways_do_not_share_one_bias() -> None:
    assert len({assign_slots(FARM, seed) for seed in range(100)}) == VARIANTS
