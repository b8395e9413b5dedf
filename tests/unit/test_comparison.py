"""How ``scripts/bench dataplane`` judges."""

from __future__ import annotations

from typing import Any

import pytest

from halbctl.lab.compared import ALONE, BY_HAND, NOTHING, PROXY, TELLING
from halbctl.lab.dataplane import Comparison

TOOL = "a tool"


def figures(stream: float, connect: float, ask: float, cost: float = 300) -> dict[str, list[float]]:
    return {
        "stream": [stream] * 3, "ask": [ask] * 3, "connect": [connect] * 3, "cost": [cost] * 3,
        "per_processor": [1e6 / cost] * 3, "agents": [1.0] * 3, "carry": [5 * connect] * 3,
    }  # fmt: skip


def compared(mine: dict[str, list[float]], **others: dict[str, list[float]]) -> Comparison:
    onward, telling = figures(20, 9000, 20, cost=100), figures(10, 3900, 41, cost=320)
    known: dict[str, Any] = {NOTHING: onward, ALONE: mine, TELLING: telling, **others}
    return Comparison(known, TOOL)


def test_ratios_as_wanted_break_nothing() -> None:
    others = {BY_HAND: figures(10, 4100, 39, 290), PROXY: figures(4, 2000, 80, 500)}
    good = compared(figures(10, 4000, 40), **others)
    assert not good.broken()
    proxy = {"stream": 2.5, "connect": 2.0, "carry": 2.0, "ask": 0.5, "cost": 0.5,
             "per_processor": 500 / 300}  # fmt: skip
    assert good.ratios()[PROXY] == pytest.approx(proxy)
    said = "\n".join(good.lines())
    assert "2.50" in said
    assert TOOL in said


def test_what_a_connection_takes_where_frames_are_sent_on_is_not_counted() -> None:
    found = compared(figures(10, 4000, 40, cost=290), **{BY_HAND: figures(10, 4100, 39, cost=290)})
    assert found.medians()[ALONE]["cost"] == 190
    assert found.medians()[NOTHING]["cost"] == 0
    assert found.ratios()[BY_HAND]["cost"] == 1.0
    assert found.ratios(TELLING)[BY_HAND]["cost"] == 220 / 190


def test_each_ratio_that_is_missed_is_said() -> None:
    others = {BY_HAND: figures(10, 5000, 40, 270), PROXY: figures(9, 4000, 60)}
    bad = compared(figures(9, 4000, 60), **others)
    assert len(bad.broken()) == 7
    assert "0.900 of nftables by hand" in bad.broken()[0]
    assert "wanted at least 0.95" in bad.broken()[0]
    assert not bad.unsure()


def test_what_is_missed_by_less_than_turns_differ_is_unsure() -> None:
    mine = {**figures(10, 4000, 40), "stream": [9.0, 9.4, 9.6], "ask": [41.0, 43.0, 44.0]}
    found = compared(mine, **{BY_HAND: figures(10, 4000, 40)})
    assert not found.broken()
    stream, ask = found.unsure()
    assert "0.940 of nftables by hand (0.900 to 0.960 by what turns differ)" in stream
    assert "1.075 of nftables by hand (1.025 to 1.100" in ask
    assert f"UNSURE {stream}" in found.lines()


def test_turns_are_compared_with_those_of_the_same_round() -> None:
    """The machine was twice as slow in the second half."""
    mine = {**figures(10, 4000, 40), "ask": [40.0, 80.0, 80.0]}
    by_hand = {BY_HAND: {**figures(10, 4000, 40), "ask": [40.0, 40.0, 80.0]}}
    assert compared(mine, **by_hand).ratios()[BY_HAND]["ask"] == 1.0


def test_one_odd_round_decides_nothing() -> None:
    mine = {**figures(10, 4000, 40), "stream": [10.0, 1.0, 10.0], "ask": [40.0, 40.0, 900.0]}
    by_hand = {BY_HAND: figures(10, 4000, 40)}
    found = Comparison({**compared(mine, **by_hand).runs}, TOOL, "it is not installed")
    assert not found.broken()
    assert "without HAProxy: it is not installed" in "\n".join(found.lines())


def test_a_figure_that_cannot_be_measured_here_is_said_and_not_judged() -> None:
    def without(known: dict[str, list[float]]) -> dict[str, list[float]]:
        return {**known, "carry": []}

    others = {
        BY_HAND: without(figures(10, 4100, 39, 290)),
        PROXY: without(figures(4, 2000, 80, 500)),
    }
    runs = compared(without(figures(10, 4000, 40)), **others).runs
    found = Comparison(runs, TOOL, not_carried="clang is not installed")
    assert not found.broken()
    assert "carry" not in found.ratios()[PROXY]
    assert "clang is not installed" in "\n".join(found.lines())
