"""``status --watch``: the screen drawn again in place, or a stream of blocks."""

from __future__ import annotations

import gc
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, cast

from halbctl.client import watch
from halbctl.errors import Waiting
from halbctl.output import Paint, as_data, as_json
from halbctl.screens import status_screen, warning_lines
from halbctl.session import ANSWER_S
from protocol.durations import utc
from protocol.errors import Unreachable

if TYPE_CHECKING:
    from halbctl.replies import Status
    from halbctl.settings import Settings

RETRY_S = 1.0
HOME, CLEAR, REST, END = "\x1b[H", "\x1b[2J", "\x1b[J", "\x1b[K"
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
CUT, WRAP = "\x1b[?7l", "\x1b[?7h"
"""Let the terminal cut long lines, which keeps the number of lines known; undo it."""


_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")


def follow(settings: Settings, interval: float) -> None:
    """Print each status that the agent sends, until Ctrl-C.

    An agent that goes away is said so, and waited for; one that was never
    there is an error.
    """
    gc.enable()
    if settings.output == "table" and sys.stdout.isatty():
        with drawing():
            _follow(settings, interval, _Screen(interval))
    else:
        _follow(settings, interval, _Stream(settings.output))


def _follow(settings: Settings, interval: float, view: _Screen | _Stream) -> None:
    seen = False
    while True:
        try:
            for status in watch(
                settings.where,
                {"op": "watch", "interval": interval},
                interval,
                settings.timeout_or(ANSWER_S),
            ):
                seen = True
                view.show(cast("Status", status))
        except Unreachable as error:
            if not seen:
                raise
            view.lost(error.message)
            time.sleep(RETRY_S)


class _Screen:
    """A terminal, drawn again in place."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._last: Status | None = None

    def show(self, status: Status) -> None:
        self._last = status
        self._draw(status, "")

    def lost(self, why: str) -> None:
        if self._last is not None:
            self._draw(self._last, f"OUT OF DATE: {why}")

    def _draw(self, status: Status, alarm: str) -> None:
        now, paint = time.time(), Paint.for_stream(sys.stdout)
        head = paint(f"{utc(now)}   at least every {self._interval:g} s", "dim")
        if alarm:
            head = paint(alarm, "red", "bold")
        lines = [head, "", *status_screen(status, now, paint)]
        draw(lines, last=len(warning_lines(status["warnings"], paint)))


class _Stream:
    """A pipe or a file: blocks for people, or one document after the other."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._first = True
        self._waiting = Waiting()

    def show(self, status: Status) -> None:
        self._waiting.back()
        match self._output:
            case "json":
                text = as_json(status, line=True)
            case "yaml":
                text = "---\n" + as_data(status, "yaml")
            case _:
                block = "\n".join(status_screen(status, time.time(), Paint(False)))
                text = block if self._first else f"\n{block}"
        self._first = False
        print(text, flush=True)

    def lost(self, why: str) -> None:
        self._waiting.lost(why)


def draw(lines: list[str], last: int = 0) -> None:
    """Fill the screen, as far as there is room; the ``last`` lines go last, up to half of them."""
    columns, rows = shutil.get_terminal_size()
    room = rows - 1
    if len(lines) > room > 1:
        more = Paint.for_stream(sys.stdout)(f"({len(lines) - room + 1} more lines)", "dim")
        kept = min(last, room // 2)
        lines = [*lines[: room - 1 - kept], more, *lines[len(lines) - kept :]]
    # Erased before it is written: at the end of a full line that would take its last character.
    text = "".join(f"{END}{_cut(line, columns)}\n" for line in lines)
    sys.stdout.write(HOME + text + REST)
    sys.stdout.flush()


def _cut(line: str, columns: int) -> str:
    """As much of ``line`` as is seen; a terminal would write the rest over its last character."""
    seen = ""
    for part in _COLOUR.split(line):
        if part.startswith("\x1b"):
            seen += part
        else:
            seen += part[:columns]
            columns -= min(columns, len(part))
    return seen


@contextmanager
def drawing() -> Iterator[None]:
    """Own the screen; hand it back as it was, also after Ctrl-C and SIGTERM."""
    before = signal.signal(signal.SIGTERM, _terminated)
    sys.stdout.write(HIDE + CUT + HOME + CLEAR)
    try:
        yield
    finally:
        sys.stdout.write(SHOW + WRAP)
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, before)


def _terminated(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)
