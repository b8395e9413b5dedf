"""Durations and moments for people."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.durations import parse_seconds, utc
from protocol.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("2h", 7200), ("7d", 604_800)]
)
def test_a_duration_is_a_whole_number_of_one_unit(text: str, seconds: int) -> None:
    assert parse_seconds("--ttl", text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-5s", "1.5h", "1h30m", "5 weeks", "1w", "٣s"])
def test_what_is_no_duration_is_refused_with_the_forms_there_are(text: str) -> None:
    with pytest.raises(InvalidInput, match="no duration") as refused:
        parse_seconds("--ttl", text)
    assert "60s, 5m, 2h or 7d" in refused.value.remedy


@given(st.integers(0, 4_102_444_800))
@example(951_782_400)
@example(4_107_542_399)
def test_a_moment_is_that_of_the_calendar(unix_s: int) -> None:
    assert utc(unix_s) == f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S}Z"


def test_a_moment_has_a_date_in_every_year() -> None:
    assert utc(1 << 40) == "36812-02-20 00:36:16Z"
    assert utc(-0.5) == "1969-12-31 23:59:59Z"
