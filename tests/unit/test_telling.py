"""How ``scripts/bench telling`` judges."""

from __future__ import annotations

from dataclasses import replace

import pytest

from halbctl.lab.instep import InStep, check_flows
from halbctl.lab.telling import Telling, Turn
from protocol.errors import InvalidInput


def told(*busy: float) -> Telling:
    turns = [Turn(2.0, each) for each in busy]
    return Telling(turns, turns * 2, [1000.0] * len(busy), [990] * len(busy))


def test_what_is_computed_at_rest_is_no_cost_of_connections() -> None:
    found = told(6.5)
    assert found.to_json()["medians"]["primary"] == {"rest": 2.0, "busy": 6.5, "more": 4.5}
    assert not found.broken()
    assert "4.50 % more" in "\n".join(found.lines())


def test_the_median_turn_decides() -> None:
    assert not told(40.0, 6.0, 6.5).broken()
    (said,) = told(8.5, 6.0, 9.0).broken()
    assert "6.5 % of a core on the primary, wanted at most 5 %" in said
    assert f"BROKEN {said}" in told(8.5).lines()


def test_a_secondary_that_is_long_without_the_flows_breaks_a_promise() -> None:
    quick = InStep(flows=50_000, seconds=2.9, primary_s=0.4, secondary_s=0.7)
    found = replace(told(6.0), in_step=quick)
    assert not found.broken()
    assert "50,000 flows after 2.90 s" in "\n".join(found.lines())
    (said,) = replace(found, in_step=replace(quick, seconds=3.2)).broken()
    assert said == "a secondary has 50,000 flows after 3.2 s, wanted at most 3 s"
    assert found.to_json()["in_step"]["seconds"] == 2.9


@pytest.mark.parametrize("flows", [-1, 60_001])
def test_flows_that_one_host_cannot_have_are_refused(flows: int) -> None:
    with pytest.raises(InvalidInput, match=str(flows)):
        check_flows(flows)
