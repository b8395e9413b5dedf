"""How long the agent rests between two rounds of something that may take long."""

from __future__ import annotations

import asyncio

import pytest

from agent.clock import LONGEST_REST_S, rest


@pytest.mark.parametrize(
    ("took", "slept"),
    [
        (0.05, 0.0),  # a twentieth of 2 s: no more than its share
        (0.2, 2.0),
        (30.0, LONGEST_REST_S),  # a host that stood still
    ],
)
def test_rests_so_long_that_the_share_is_kept_within_bounds(
    monkeypatch: pytest.MonkeyPatch, took: float, slept: float
) -> None:
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    asyncio.run(rest(took, share=0.05, period=2.0))
    assert found == pytest.approx([slept])
