"""What is printed: tables, JSON, YAML, colour."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TextIO

_CODES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "cyan": "36",
}


class Paint:
    """Colours text, or leaves it as it is; knows how much room a line has."""

    def __init__(self, on: bool, room: int | None = None) -> None:
        self.on = on
        self.room = room
        """Columns of the terminal; None where lines may be of any length."""

    @classmethod
    def for_stream(cls, stream: TextIO) -> Paint:
        """Colour for people only: a terminal, not ``dumb``, without ``NO_COLOR``."""
        wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        if not stream.isatty():
            return cls(False)
        return cls(wanted, shutil.get_terminal_size().columns)

    def __call__(self, text: str, *styles: str) -> str:
        codes = ";".join(_CODES[style] for style in styles if style)
        return f"\x1b[{codes}m{text}\x1b[0m" if self.on and codes and text else text


def sentence(text: str, paint: Paint, label: str = "", *styles: str, indent: str = "") -> list[str]:
    """A sentence behind a label in ``styles``, in lines that break between words.

    They are one line where there is room for it; later lines are indented by two more blanks.
    """
    lines, used = [indent + paint(label, *styles)], len(indent + label)
    for number, word in enumerate(clean(text).split(" ")):
        blank = " " if label or number else ""
        if number and paint.room is not None and used + 1 + len(word) > paint.room:
            lines.append(f"{indent}  {word}")
            used = len(lines[-1])
        else:
            lines[-1] += blank + word
            used += len(blank + word)
    return lines


class Cell(NamedTuple):
    """One cell of a table, and its colour (empty: none)."""

    text: str
    style: str = ""
    right: bool = False
    """Of a column with such a cell the text ends at the right."""


def clean(text: str) -> str:
    """``text`` without control characters, which could steer the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def table(
    titles: Sequence[str],
    rows: Iterable[Sequence[Cell | str | int]],
    paint: Paint,
    indent: str = "",
    *,
    spare: Sequence[str] = (),
) -> list[str]:
    """Lines of a table: two blanks between columns, numbers to the right, no borders.

    Columns without any content are left out; without rows there are no titles either.
    Where lines have no room, columns go whose titles are ``spare``, the first one first.
    """
    body = [[_cell(value) for value in row] for row in rows]
    if not body:
        return []
    head = [Cell(title, "dim") for title in titles]
    columns = [i for i in range(len(titles)) if i == 0 or any(row[i].text for row in body)]
    right = {i for row in body for i in columns if row[i].right}
    width = {i: max(len(row[i].text) for row in (head, *body)) for i in columns}
    for title in spare:
        needed = len(indent) + sum(width[i] + 2 for i in columns) - 2
        if paint.room is None or needed <= paint.room:
            break
        columns = [i for i in columns if titles[i] != title]
    lines = []
    for row in (head, *body):
        parts = []
        for i in columns:
            gap = " " * (width[i] - len(row[i].text))
            text = paint(row[i].text, row[i].style)
            parts.append(gap + text if i in right else text + gap)
        lines.append((indent + "  ".join(parts)).rstrip())
    return lines


def _cell(value: Cell | str | int) -> Cell:
    match value:
        case int():
            return Cell(str(value), right=True)
        case str():
            return Cell(clean(value))
        case _:
            return value._replace(text=clean(value.text))


def as_json(value: Any, *, line: bool = False) -> str:
    """``value`` as JSON: indented, or on one line for streams."""
    import json

    return json.dumps(value, separators=(",", ":")) if line else json.dumps(value, indent=2)


def as_data(value: Any, output: str) -> str:
    """``value`` as ``json`` or ``yaml``, ending without a newline."""
    if output == "json":
        return as_json(value)
    from halbctl.yaml import dump

    return dump(value).rstrip("\n")


def emit(value: Any, output: str, lines: Iterable[str], nothing: str = "") -> None:
    """Print ``value`` as data, or ``lines``, its form for people, where that is asked.

    People who get no line are told ``nothing``, a sentence, which is no data.
    """
    if output != "table":
        sys.stdout.write(as_data(value, output) + "\n")
    elif text := "".join(f"{line}\n" for line in lines):
        sys.stdout.write(text)
    elif nothing:
        print(clean(nothing), file=sys.stderr)
