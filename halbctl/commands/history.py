"""``halbctl history``: what happened, and how long each part of it took."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, cast

import typer

from halbctl import completion
from halbctl.app import area
from halbctl.errors import Waiting, note, warn
from halbctl.output import Cell, Paint, as_data, as_json, clean, emit, table
from halbctl.session import ask
from halbctl.settings import settings_of
from protocol.durations import utc
from protocol.errors import Unreachable

if TYPE_CHECKING:
    from halbctl.replies import Entry

app = area()

POLL_S = 0.5
FOLLOWED = 200
"""Entries that are looked through each time, if the oldest of them is known."""
MOST = 1000
"""As many as an agent keeps."""
KNOWN = 2 * MOST
"""Entries that are known again: what is older no agent tells."""


OnlyOf = Annotated[
    str | None,
    typer.Argument(
        metavar="[VS]", help="Of this one only.", autocompletion=completion.virtual_servers
    ),
]


@app.command()
def history(
    ctx: typer.Context,
    vs: OnlyOf = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, max=MOST, help="Newest events.")
    ] = 100,
) -> None:
    """Show what happened, with the milliseconds of each move. Oldest first."""
    found = ask(ctx, {"op": "history", "virtual_server": vs, "limit": limit})
    emit(found, settings_of(ctx).output, _lines(found["entries"]), _nothing(vs))


@app.command()
def events(
    ctx: typer.Context,
    vs: OnlyOf = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on, until Ctrl-C.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, max=MOST, help="To begin with.")
    ] = 20,
) -> None:
    """Print what happened, a line each. With --follow also what happens."""
    output = settings_of(ctx).output
    if follow:
        for entry in _followed(ctx, vs, limit):
            print(_line(entry, output), flush=True)
        return
    entries = _newest(ctx, vs, limit)
    for entry in entries:
        print(_line(entry, output), flush=True)
    if not entries and output == "table":
        note(_nothing(vs))


def _newest(ctx: typer.Context, vs: str | None, limit: int) -> list[Entry]:
    found = ask(ctx, {"op": "history", "virtual_server": vs, "limit": limit})
    return cast("list[Entry]", found["entries"])


def _followed(ctx: typer.Context, vs: str | None, limit: int) -> Iterator[Entry]:
    """The newest ``limit`` entries, then each that comes, once; without end."""
    waiting = Waiting()
    entries = _newest(ctx, vs, MOST)
    known = dict.fromkeys(map(_key, entries))
    yield from entries[-limit:]
    while True:
        time.sleep(POLL_S)
        try:
            entries = _newest(ctx, vs, FOLLOWED)
            if len(entries) == FOLLOWED and _key(entries[0]) not in known:
                entries = _newest(ctx, vs, MOST)
        except Unreachable as error:
            waiting.lost(error.message)
            continue
        waiting.back()
        told = dict.fromkeys(map(_key, entries))
        if told and known.keys().isdisjoint(told) and (known or len(told) == MOST):
            warn("more has happened than the agent keeps: events before these are not shown")
        yield from (entry for entry in entries if _key(entry) not in known)
        # Those that were told last stay longest.
        known = {**{key: None for key in known if key not in told}, **told}
        known = dict.fromkeys(list(known)[-KNOWN:])


def _nothing(vs: str | None) -> str:
    return f"no events of {vs}" if vs else "no events"


def _key(entry: Entry) -> tuple[object, ...]:
    """The same for an entry that is told again."""
    return entry["at"], entry["kind"], entry["uid"], entry["device"], entry["term"], entry["text"]


def _line(entry: Entry, output: str) -> str:
    if output != "table":
        return as_json(entry, line=True) if output == "json" else "---\n" + as_data(entry, output)
    words = (
        moment(entry["at"]), entry["virtual_server"], entry["kind"], entry["device"],
        timeline(entry["timeline"]), entry["text"],
    )  # fmt: skip
    return clean("  ".join(word for word in words if word))


def _lines(entries: list[Entry]) -> list[str]:
    return history_lines(entries, Paint.for_stream(sys.stdout))


def history_lines(entries: list[Entry], paint: Paint) -> list[str]:
    """A line per event."""
    rows = [
        (
            moment(entry["at"]),
            entry["virtual_server"],
            Cell(entry["kind"], "bold"),
            entry["device"],
            entry["term"] or "",
            Cell(total(entry["timeline"]), "", True),
            ": ".join(part for part in (entry["text"], phases(entry["timeline"])) if part),
        )
        for entry in entries
    ]
    titles = ("TIME", "VS", "EVENT", "DEVICE", "TERM", "TOOK", "WHAT")
    return table(titles, rows, paint)


def moment(unix_ms: int) -> str:
    """``2025-05-01 10:00:00.123Z``."""
    return f"{utc(unix_ms // 1000)[:-1]}.{unix_ms % 1000:03}Z"


def timeline(timed: dict[str, float]) -> str:
    """``312 ms = detection 251 + election 32, verified 12 ms later``."""
    return " = ".join(part for part in (total(timed), phases(timed)) if part)


def total(timed: dict[str, float]) -> str:
    """``312 ms``; empty where it was not timed."""
    return f"{_ms(timed['total'])} ms" if "total" in timed else ""


def phases(timed: dict[str, float]) -> str:
    """``detection 251 + election 32``; a phase too short to matter still shows."""
    apart = ("total", "verification")
    parts = " + ".join(f"{name} {_ms(ms)}" for name, ms in timed.items() if name not in apart)
    seen = f"verified {_ms(timed['verification'])} ms later" if "verification" in timed else ""
    return ", ".join(part for part in (parts, seen) if part)


def _ms(value: float) -> str:
    """Four digits, and never a power of ten: an outage may last for hours."""
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"
