"""Between which values the median of what was sampled lies, whatever their distribution.

Order statistics and the sign test: half of all samples lie below the true median, so how many do
is binomial (W. J. Conover, Practical Nonparametric Statistics, 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

DOUBT = 0.05
"""How likely the median lies beyond the interval, at most; of few samples it is more likely."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value that the median may have; of few samples, their range."""
    ordered, count = sorted(values), len(values)
    below = 0.0
    left_out = 0
    for number in range(count // 2):
        below += comb(count, number) / 2**count
        if 2 * below > DOUBT:
            break
        left_out = number
    return ordered[left_out], ordered[-1 - left_out]
