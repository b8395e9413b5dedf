"""How ``scripts/bench telling`` judges."""

from __future__ import annotations

from halbctl.lab.telling import Telling, Turn


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
