"""How a value from outside appears in an error: short, on one line, whatever it is."""

from __future__ import annotations

_LONGEST = 60


def shown(value: object) -> str:
    """``value`` for people; never long, also where it is nested or recursive."""
    match value:
        case None:
            return "empty"
        case bool():
            return "true" if value else "false"
        case str() if len(value) > _LONGEST:
            return f"{value[:_LONGEST]!r}..."
        case int() if value.bit_length() > 64:
            return "a number of more than 64 bits"
        case str() | int() | float():
            return repr(value)
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"
