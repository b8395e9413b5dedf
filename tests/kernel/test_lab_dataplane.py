"""``scripts/bench dataplane`` measures what it says, with real agents."""

from __future__ import annotations

import os

import pytest

from halbctl.lab.dataplane import BY_HAND, DEVICE, FIGURES, GATEWAYS, compare
from halbctl.lab.lifecycle import build, down
from halbctl.lab.plan import Plan

pytestmark = pytest.mark.kernel


def test_every_data_plane_is_measured_in_every_figure() -> None:
    name = f"dp{os.getpid() % 100000}"
    try:
        found = compare(build(Plan(name, gateways=GATEWAYS)), 1, 0.2)
    finally:
        down(name)
    assert {DEVICE, BY_HAND} <= set(found.runs)
    for figures in found.runs.values():
        assert set(figures) == set(FIGURES)
        assert all(value > 0 for values in figures.values() for value in values)
