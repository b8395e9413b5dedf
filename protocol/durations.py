"""Durations and moments for people: ``90s``, ``5m``, ``2h``, ``7d``; ``2025-05-01 10:00:00Z``."""

from __future__ import annotations

import re

from protocol.errors import InvalidInput
from protocol.shown import shown

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_FORM = re.compile(r"([0-9]{1,9})(|s|m|h|d)")


def parse_seconds(path: str, text: str) -> int:
    """Seconds that ``text`` says; raise InvalidInput that names ``path``."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(
            f"`{path}` is {shown(text)}, no duration", "Write it as 60s, 5m, 2h or 7d."
        )
    return int(found[1]) * _UNITS[found[2]]


def say(seconds: int) -> str:
    """``45s``, ``3m 12s``, ``3h 12m``: two units are enough."""
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m {seconds % 60}s"
    return f"{seconds // 3600}h {seconds % 3600 // 60}m"


def utc(seconds: float) -> str:
    """``2025-05-01 10:00:00Z`` for a Unix time of any year.

    Howard Hinnant's ``civil_from_days``: a year begins in March, its leap day comes last.
    """
    days, second = divmod(int(seconds // 1), 86_400)
    era, day_of_era = divmod(days + 719_468, 146_097)
    year = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    march = (5 * day_of_year + 2) // 153
    month = march + 3 if march < 10 else march - 9
    date = f"{year + era * 400 + (month < 3):04}-{month:02}"
    date += f"-{day_of_year - (153 * march + 2) // 5 + 1:02}"
    return f"{date} {second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z"
