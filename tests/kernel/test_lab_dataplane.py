"""``scripts/bench dataplane`` measures what it says, with real agents."""

from __future__ import annotations

import os

import pytest

from halbctl.lab.compared import BY_HAND, NOTHING, lab
from halbctl.lab.dataplane import FIGURES, HALB, compare
from halbctl.lab.lifecycle import build, down

pytestmark = pytest.mark.kernel


def test_every_data_plane_is_measured_in_every_figure() -> None:
    name = f"dp{os.getpid() % 100000}"
    try:
        found = compare(build(lab(name)), 1, 0.2)
    finally:
        down(name)
    assert {*HALB, BY_HAND, NOTHING} <= set(found.runs)
    for figures in found.runs.values():
        assert set(figures) == set(FIGURES)
        assert all(
            value > 0 for name, values in figures.items() for value in values if name != "agents"
        )
    assert found.lines()
