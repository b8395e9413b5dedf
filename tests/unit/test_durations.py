"""Durations as people write them."""

from __future__ import annotations

import pytest

from protocol.durations import parse_seconds
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
