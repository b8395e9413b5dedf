"""Durations as people write them: ``90s``, ``5m``, ``2h``, ``7d``, or whole seconds."""

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
