"""How ``scripts/bench dataplane`` judges."""

from __future__ import annotations

from halbctl.lab.dataplane import BY_HAND, DEVICE, PROXY, Comparison


def figures(stream: float, connect: float, ask: float) -> dict[str, list[float]]:
    return {"stream": [stream] * 3, "connect": [connect] * 3, "ask": [ask] * 3}


def test_ratios_as_wanted_break_nothing() -> None:
    good = Comparison(
        {DEVICE: figures(10, 4000, 40), BY_HAND: figures(10, 4100, 39), PROXY: figures(4, 2000, 80)}
    )
    assert not good.broken()
    assert good.ratios()[PROXY] == {"stream": 2.5, "connect": 2.0, "ask": 0.5}
    assert "HALB 10.0, nftables by hand 10.0 (1.00), HAProxy, mode tcp 4.0 (2.50)" in "\n".join(
        good.lines()
    )


def test_each_ratio_that_is_missed_is_said() -> None:
    bad = Comparison(
        {DEVICE: figures(9, 4000, 60), BY_HAND: figures(10, 5000, 40), PROXY: figures(9, 4000, 60)}
    )
    assert len(bad.broken()) == 6
    assert "0.90 of nftables by hand, wanted at least 0.95" in bad.broken()[0]


def test_one_odd_round_decides_nothing() -> None:
    mine = {"stream": [10.0, 1.0, 10.0], "connect": [4e3] * 3, "ask": [40.0, 40.0, 900.0]}
    found = Comparison({DEVICE: mine, BY_HAND: figures(10, 4000, 40)}, "it is not installed")
    assert not found.broken()
    assert "without HAProxy: it is not installed" in "\n".join(found.lines())
