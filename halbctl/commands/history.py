"""``halbctl history``: what happened, and how long each part of it took."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from halbctl.app import area
from halbctl.output import Cell, Paint, emit, table
from halbctl.screens import utc
from halbctl.session import ask
from halbctl.settings import settings_of

if TYPE_CHECKING:
    from halbctl.replies import Entry

app = area()


@app.command()
def history(
    ctx: typer.Context,
    vs: Annotated[str | None, typer.Argument(metavar="[VS]", help="Of this one only.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, max=1000, help="Newest events.")
    ] = 100,
) -> None:
    """Show what happened, oldest first, with the milliseconds of each move."""
    found = ask(ctx, {"op": "history", "virtual_server": vs, "limit": limit})
    emit(found, settings_of(ctx).output, _lines(found["entries"]))


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
            timeline(entry["timeline"]),
            entry["text"],
        )
        for entry in entries
    ]
    titles = ("TIME", "VS", "EVENT", "DEVICE", "TERM", "TOOK", "WHAT")
    return table(titles, rows, paint)


def moment(unix_ms: int) -> str:
    """``2025-05-01 10:00:00.123Z``."""
    return f"{utc(unix_ms // 1000)[:-1]}.{unix_ms % 1000:03}Z"


def timeline(phases: dict[str, float]) -> str:
    """``312 ms = detection 251 + election 32``; a phase too short to matter still shows."""
    parts = [f"{name} {ms:.4g}" for name, ms in phases.items() if name != "total"]
    total = f"{phases['total']:.4g} ms" if "total" in phases else ""
    return " = ".join(part for part in (total, " + ".join(parts)) if part)
