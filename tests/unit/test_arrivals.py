"""Which frames of a peer are decoded: each once, of this life, at a bounded rate."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.arrivals import BURST, RATE, WINDOW, Arrivals, Verdict, Window
from agent.rate import Rate
from protocol.messages import PROTOCOL_MAX
from protocol.wire import Header

SITE = b"\1" * 8


def header(sequence: int, incarnation: int = 1, site: bytes = SITE, version: int = 1) -> Header:
    return Header(version, site, incarnation, sequence)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3 * WINDOW), max_size=60))
def test_within_the_window_each_number_is_fresh_exactly_once(numbers: list[int]) -> None:
    window = Window()
    seen: set[int] = set()
    newest = -1
    for number in numbers:
        verdict = window.judge(number)
        if number <= newest - WINDOW:
            assert verdict is Verdict.STALE
        else:
            assert verdict is (Verdict.DUPLICATE if number in seen else Verdict.FRESH)
        seen.add(number)
        newest = max(newest, number)


def test_the_copy_on_the_other_connection_is_a_duplicate_in_any_order() -> None:
    arrivals = Arrivals()
    verdicts = [arrivals.judge(header(n), SITE, True) for n in (1, 2, 1, 4, 3, 2, 3, 4)]
    fresh, copy = Verdict.FRESH, Verdict.DUPLICATE
    assert verdicts == [fresh, fresh, copy, fresh, fresh, copy, copy, copy]


def test_channels_count_apart() -> None:
    arrivals = Arrivals()
    assert arrivals.judge(header(1), SITE, True) is Verdict.FRESH
    assert arrivals.judge(header(1), SITE, False) is Verdict.FRESH


def test_a_newer_life_begins_anew_and_ends_the_older_one() -> None:
    arrivals = Arrivals()
    assert arrivals.judge(header(900, incarnation=5), SITE, True) is Verdict.FRESH
    assert arrivals.judge(header(1, incarnation=6), SITE, True) is Verdict.FRESH
    assert arrivals.judge(header(901, incarnation=5), SITE, True) is Verdict.STALE


def test_another_site_is_foreign_and_so_is_all_while_in_none() -> None:
    arrivals = Arrivals()
    assert arrivals.judge(header(1, site=b"\2" * 8), SITE, True) is Verdict.FOREIGN
    assert arrivals.judge(header(1, site=b""), b"", True) is Verdict.FOREIGN


def test_another_protocol_version_is_counted_as_such() -> None:
    assert Arrivals().judge(header(1, version=PROTOCOL_MAX + 1), SITE, True) is Verdict.UNSUPPORTED


def test_a_rate_is_bounded_and_refills() -> None:
    rate = Rate(RATE, BURST)
    assert sum(rate.admit(100.0) for _ in range(20_000)) == BURST
    assert sum(rate.admit(100.5) for _ in range(20_000)) == RATE / 2


def test_what_a_frame_brings_counts_too_and_is_never_owed() -> None:
    rate = Rate(RATE, BURST)
    assert rate.admit(100.0)
    rate.charge(BURST - 11)
    assert sum(rate.admit(100.0) for _ in range(100)) == 10
    rate.charge(BURST)
    assert sum(rate.admit(100.5) for _ in range(20_000)) == RATE / 2
