"""Intervals around a median."""

from __future__ import annotations

from random import Random
from statistics import median

import pytest

from halbctl.lab.confidence import DOUBT, interval


@pytest.mark.parametrize(
    ("count", "left_out"),
    # As tables of the sign test have it for 95 %.
    [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (12, 2), (15, 3), (20, 5)],
)
def test_as_many_are_left_out_as_the_sign_test_allows(count: int, left_out: int) -> None:
    values = list(range(count))
    Random(1).shuffle(values)
    assert interval(values) == (left_out, count - 1 - left_out)


def test_the_true_median_is_in_it_as_often_as_is_said() -> None:
    random = Random(7)
    tries = 2000
    missed = 0
    for _ in range(tries):
        low, high = interval([random.expovariate(1.0) for _ in range(15)])
        missed += not low <= 0.6931 <= high
    assert missed / tries <= DOUBT


def test_it_holds_the_median_of_the_samples() -> None:
    values = [3.0, 1.0, 2.0, 9.0]
    low, high = interval(values)
    assert low <= median(values) <= high
