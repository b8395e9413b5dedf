"""Traffic as the asked device counts it, and as people read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from halbctl.output import Cell, Paint, clean, table
from halbctl.session import ask

if TYPE_CHECKING:
    import typer

    from halbctl.replies import Counters, Traffic, VirtualServerTraffic

UNITS = ("", "k", "M", "G", "T", "P")
RATES = (
    "", "ACTIVE", "NEW/s", "REFUSED/s", "DROPPED/s",
    "IN pkt/s", "OUT pkt/s", "IN B/s", "OUT B/s",
)  # fmt: skip
TOTALS = (
    "", "ACTIVE", "NEW/s", "CONNECTIONS", "REFUSED", "DROPPED",
    "IN packets", "OUT packets", "IN bytes", "OUT bytes",
)  # fmt: skip
SPARE = (
    "IN pkt/s", "OUT pkt/s", "IN B/s", "OUT B/s", "DROPPED/s", "REFUSED/s",
    "IN packets", "OUT packets", "IN bytes", "NEW/s", "OUT bytes", "DROPPED", "REFUSED",
)  # fmt: skip
"""Columns that are left out where there is no room, the first of them first."""


def get_counters(ctx: typer.Context) -> Counters:
    """The traffic of the Virtual Servers that the asked device carries."""
    return cast("Counters", ask(ctx, {"op": "counters"}))


def of_server(found: Counters, name: str) -> Counters:
    """Of it, that of one Virtual Server; of none where the device does not carry it."""
    chosen = [server for server in found["virtual_servers"] if server["name"] == name]
    return {**found, "virtual_servers": chosen}


def traffic_lines(
    now: Counters,
    before: Counters | None,
    paint: Paint,
    *,
    gateways: bool = True,
    indent: str = "",
) -> list[str]:
    """The traffic for people: per second since ``before``, or in total without it.

    A line for each Virtual Server and listener, and for each of its ``gateways``. Where
    there is little room the least important columns are left out, and names are cut.
    """
    if not now["virtual_servers"]:
        return [f"{clean(now['device'])} carries no Virtual Server"]
    seconds = (now["at"] - before["at"]) / 1000 if before else 0.0
    was = {s["name"]: s for s in before["virtual_servers"]} if before else {}
    longest = None if paint.room is None else paint.room // 2
    rows = [
        row
        for server in now["virtual_servers"]
        for row in _rows(server, was.get(server["name"]), seconds, 2 if gateways else 1, longest)
    ]
    titles = TOTALS if before is None else RATES
    return table(titles, rows, paint, indent, spare=SPARE)


def _rows(
    server: VirtualServerTraffic,
    before: VirtualServerTraffic | None,
    seconds: float,
    deepest: int,
    longest: int | None,
) -> Iterator[tuple[Cell | str, ...]]:
    role = " (primary here)" if server["primary"] else " (secondary here)"
    style = "bold" if server["primary"] else "dim"
    was = _flat(before) if before else {}
    for depth, key, traffic in _parts(server):
        if depth > deepest:
            continue
        about = role if depth == 0 else ""
        indent = "  " * depth
        name = _cut(key[-1], None if longest is None else longest - len(indent + about))
        cell = Cell(f"{indent}{name}{about}", "" if depth else style)
        yield (cell, *_figures(traffic, was.get(key), seconds))


def _cut(name: str, longest: int | None) -> str:
    if longest is None or len(name) <= longest:
        return name
    return name[: max(1, longest - 1)] + "…"


def _parts(server: VirtualServerTraffic) -> Iterator[tuple[int, tuple[str, ...], Traffic]]:
    """Every line: how deep, its names from the top, and what was counted."""
    name = server["name"]
    yield 0, (name,), server["traffic"]
    for listener in server["listeners"]:
        yield 1, (name, listener["listener"]), listener["traffic"]
        for gateway in listener["gateways"]:
            yield 2, (name, listener["listener"], gateway["name"]), gateway["traffic"]


def _flat(server: VirtualServerTraffic) -> dict[tuple[str, ...], Traffic]:
    return {key: traffic for _, key, traffic in _parts(server)}


def _figures(now: Traffic, before: Traffic | None, seconds: float) -> Iterator[Cell]:
    yield Cell("?" if now["active"] < 0 else str(now["active"]), "", True)
    if not seconds:
        yield Cell("?" if now["rate"] < 0 else short(now["rate"]), "", True)
    pairs = (
        (now["connections"], before and before["connections"]),
        (now["refused"], before and before["refused"]),
        (now["dropped"], before and before["dropped"]),
        (now["packets_in"], before and before["packets_in"]),
        (now["packets_out"], before and before["packets_out"]),
        (now["bytes_in"], before and before["bytes_in"]),
        (now["bytes_out"], before and before["bytes_out"]),
    )
    for index, (value, was) in enumerate(pairs):
        if value < 0:
            yield Cell("?", "", True)
            continue
        figure = max(0, value - (was or 0)) / seconds if seconds else value
        bad = index in (1, 2) and figure > 0
        yield Cell(short(figure), "red" if bad else "", True)


def short(figure: float) -> str:
    """At most four digits and a unit: ``950``, ``1.2k``, ``34M``."""
    power = 0
    while figure >= 999.5 and power < len(UNITS) - 1:
        figure, power = figure / 1000, power + 1
    digits = 1 if power and figure < 9.95 else 0
    return f"{figure:.{digits}f}{UNITS[power]}"
