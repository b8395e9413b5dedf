"""The nearest known word to one that is not known, for the remedy of an error."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 12


def nearest(word: str, known: Iterable[str]) -> str:
    """One or two sentences: the likely word, if any, and what there is to choose from."""
    words = list(known)
    if not words:
        return "There is none yet."
    close = difflib.get_close_matches(word[:64], words, n=1)
    guess = f"Did you mean {close[0]!r}? " if close else ""
    rest = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return f"{guess}Known: {', '.join(words[:_SHOWN])}{rest}."
