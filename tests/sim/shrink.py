"""The fewest faults that still break a seed: delta debugging over its schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.sim.faults import Fault
from tests.sim.run import plan, run_seed


def shrink(seed: int, devices: int, safety_ns: int) -> tuple[list[Fault], str]:
    """Faults that cannot be left out one by one, and the violation that they lead to."""
    _, faults = plan(seed, devices, safety_ns)
    first = run_seed(seed, devices, safety_ns)
    assert first.violations, f"seed {seed} holds"
    rule = first.violations[0].rule

    def breaks(candidate: Sequence[Fault]) -> bool:
        result = run_seed(seed, devices, safety_ns, schedule=list(candidate))
        return any(v.rule == rule for v in result.violations)

    smallest = minimal(faults, breaks)
    result = run_seed(seed, devices, safety_ns, schedule=smallest)
    return smallest, str(result.violations[0])


def minimal(items: list[Fault], breaks: Callable[[Sequence[Fault]], bool]) -> list[Fault]:
    """Zeller's ddmin: halves first, then ever smaller pieces."""
    pieces = 2
    while len(items) > 1:
        size = max(1, len(items) // pieces)
        for start in range(0, len(items), size):
            rest = items[:start] + items[start + size :]
            if breaks(rest):
                items, pieces = rest, max(2, pieces - 1)
                break
        else:
            if size == 1:
                return items
            pieces = min(len(items), pieces * 2)
    return items
