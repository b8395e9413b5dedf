"""``scripts/bench telling`` measures real agents while real connections come."""

from __future__ import annotations

import os

import pytest

from halbctl.lab.lifecycle import down, up
from halbctl.lab.plan import Plan
from halbctl.lab.telling import measure_telling

pytestmark = pytest.mark.kernel


def test_agents_are_measured_at_rest_and_while_connections_come() -> None:
    name = f"tl{os.getpid() % 100000}"
    try:
        found = measure_telling(up(Plan(name)), 1, 0.5, flows=300)
    finally:
        down(name)
    assert len(found.primary) == 1
    assert len(found.secondaries) == 2
    assert all(turn.rest > 0 and turn.busy > 0 for turn in (*found.primary, *found.secondaries))
    assert found.per_second[0] > 0
    assert found.in_step is not None
    assert (found.in_step.flows, found.in_step.broken()) == (300, [])
    assert found.in_step.seconds > 0
    assert found.lines()
