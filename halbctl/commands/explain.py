"""``halbctl explain`` and ``halbctl matrix``: why, and who hears whom."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import typer

from halbctl.app import area
from halbctl.arguments import VirtualServer
from halbctl.output import Cell, Paint, clean, emit, sentence, table
from halbctl.session import ask_all
from halbctl.settings import settings_of

if TYPE_CHECKING:
    from halbctl.replies import Explanation, Link, Matrix

app = area()

LOSSY = 5.0
"""Per cent of beats lost from which on it is said loudly."""
SILENT_MS = 5000
SPARE = ("TERM", "VOTED FOR", "PROMISE", "HEARD PRIMARY")
"""Columns that are left out where there is no room, the first of them first."""


@app.command()
def explain(
    ctx: typer.Context,
    vs: VirtualServer,
) -> None:
    """Say why a Virtual Server is where it is. Also what each device lacks, what would move it."""
    found = ask_all(ctx, {"op": "explain", "virtual_server": vs})
    paint = Paint.for_stream(sys.stdout)
    emit(found, settings_of(ctx).output, explain_lines(cast("Explanation", found), paint))


@app.command()
def matrix(ctx: typer.Context) -> None:
    """Show who hears whom: last heard, loss, round trips."""
    found = ask_all(ctx, {"op": "matrix"})
    paint = Paint.for_stream(sys.stdout)
    nothing = f"no links: {found['device']} is the only device"
    emit(found, settings_of(ctx).output, matrix_lines(cast("Matrix", found), paint), nothing)


def explain_lines(found: Explanation, paint: Paint) -> list[str]:
    """The explanation for people."""
    lines = [paint(line, "bold") for line in sentence(found["why"], paint)]
    if found["confirmed_ms"] >= 0:
        lines.append(
            f"  confirmed by {found['majority']} of {found['voters']} voters"
            f" {found['confirmed_ms']} ms ago; without an ack it gives up in"
            f" {found['step_down_ms']} ms"
        )
    lines += _election(found)
    rows = [
        (
            device["name"],
            device["role"],
            device["rank"] or "",
            Cell(device["lacks"] or "nothing", "yellow" if device["lacks"] else "green"),
            device["gateways"] if device["gateways"] >= 0 else _unseen(device["role"]),
            _promise(device["promised_to"], device["promise_ms"]),
            device["voted_for"],
            device["term"] or "",
            f"{device['heard_ms']} ms ago" if device["heard_ms"] >= 0 else "",
            device["late"],
        )
        for device in found["devices"]
    ]
    titles = (
        "DEVICE", "ROLE", "RANK", "LACKS", "GATEWAYS UP", "PROMISE", "VOTED FOR", "TERM",
        "HEARD PRIMARY", "LATE",
    )  # fmt: skip
    lines += ["", *table(titles, rows, paint, spare=SPARE)]
    if found["moves"]:
        moves = (sentence(move, paint, "->", "cyan") for move in found["moves"])
        lines += ["", *(line for move in moves for line in move)]
    silent = [device["name"] for device in found["devices"] if device["role"] == "unknown"]
    return [*lines, *_silent(silent, paint)]


def _silent(names: list[str], paint: Paint) -> Iterator[str]:
    for name in names:
        said = f"{name} did not answer in time; --timeout waits longer for it"
        yield from sentence(said, paint, "warning:", "yellow", "bold")


def _election(found: Explanation) -> Iterator[str]:
    election = found["election"]
    if election is None:
        return
    before = f", after {election['predecessor']}" if election["predecessor"] else ""
    yield f"  elected {election['ago_s']} s ago in term {election['term']}{clean(before)}"
    for title, said in (("asked before", election["answers"]), ("votes", election["votes"])):
        if said:
            listed = "; ".join(f"{name} {what}" for name, what in said.items())
            yield f"  {title}: {clean(listed)}"


def _unseen(role: str) -> str:
    """A witness checks no gateways."""
    return "" if role == "witness" else "?"


def _promise(to: str, ms: int) -> str:
    return f"to {to}, {ms} ms" if to else ""


def matrix_lines(found: Matrix, paint: Paint) -> list[str]:
    """A line for each pair and direction."""
    rows = [_row(link, found["silent"]) for link in found["links"]]
    titles = ("HEARS", "OF", "LAST HEARD", "LOSS", "ROUND TRIP p50", "p99")
    lines = table(titles, rows, paint, spare=("p99", "ROUND TRIP p50"))
    return [*lines, *_silent(found["silent"], paint)]


def _row(link: Link, silent: list[str]) -> tuple[Cell | str, ...]:
    deaf = not 0 <= link["heard_ms"] < SILENT_MS
    heard = "never" if link["heard_ms"] < 0 else f"{link['heard_ms']} ms ago"
    lossy = max(link["loss"], default=-1.0) > LOSSY
    loss = " / ".join("?" if each < 0 else f"{each:g} %" for each in link["loss"])
    median, p99 = (f"{ms:.1f} ms" if ms >= 0 else "?" for ms in link["round_trip_ms"])
    return (
        link["hears"],
        Cell(link["of"], "dim" if link["of"] in silent else ""),
        Cell(heard.upper() if deaf else heard, "red" if deaf else ""),
        Cell(loss or "?", "yellow" if lossy else ""),
        median,
        p99,
    )
