"""``halbctl top`` and ``halbctl metrics``: what flows, live and for monitoring."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import count as counting
from typing import TYPE_CHECKING, Annotated, cast

import typer

from halbctl.app import area
from halbctl.output import Cell, Paint, as_data, as_json, emit, table
from halbctl.session import ask
from halbctl.settings import settings_of
from protocol.errors import InvalidInput

if TYPE_CHECKING:
    from halbctl.replies import Counters, Traffic, VirtualServerTraffic

app = area()

UNITS = ("", "k", "M", "G", "T", "P")


@app.command()
def top(
    ctx: typer.Context,
    vs: Annotated[str | None, typer.Argument(metavar="[VS]")] = None,
    interval: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks.")] = 2.0,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="Looks; 0: no end.")] = 0,
    total: Annotated[bool, typer.Option("--total", help="Totals in place of rates.")] = False,
) -> None:
    """Follow the traffic of the asked device, by listener and gateway, until Ctrl-C."""
    from halbctl.watching import draw, drawing

    output = settings_of(ctx).output
    screen = output == "table" and sys.stdout.isatty() and count != 1
    paint = Paint.for_stream(sys.stdout)
    before = None if total else _get(ctx, vs)
    with drawing() if screen else nullcontext():
        for number in counting(1):
            if before is not None:
                time.sleep(interval)
            now = _get(ctx, vs)
            lines = traffic_lines(now, before, paint)
            if screen:
                draw(lines)
            elif output == "table":
                sys.stdout.write("".join(f"{line}\n" for line in [*lines, ""]))
            else:
                sys.stdout.write(_document(now, output))
            sys.stdout.flush()
            if number == count:
                return
            if total:
                time.sleep(interval)
            else:
                before = now


@app.command()
def metrics(ctx: typer.Context) -> None:
    """Print all figures of the asked device as OpenMetrics text."""
    found = ask(ctx, {"op": "metrics"})
    emit(found, settings_of(ctx).output, found["text"].splitlines())


def _get(ctx: typer.Context, name: str | None) -> Counters:
    found = cast("Counters", ask(ctx, {"op": "counters"}))
    servers = found["virtual_servers"]
    if name is None:
        return found
    chosen = [server for server in servers if server["name"] == name]
    if not chosen:
        from protocol.nearest import nearest

        names = [server["name"] for server in servers]
        raise InvalidInput(f"no Virtual Server named {name!r} is here", nearest(name, names))
    found["virtual_servers"] = chosen
    return found


def _document(now: Counters, output: str) -> str:
    return as_json(now, line=True) + "\n" if output == "json" else f"---\n{as_data(now, output)}\n"


def traffic_lines(now: Counters, before: Counters | None, paint: Paint) -> list[str]:
    """The traffic for people: per second since ``before``, or in total without it."""
    seconds = (now["at"] - before["at"]) / 1000 if before else 0.0
    was = {s["name"]: s for s in before["virtual_servers"]} if before else {}
    rows = [
        row
        for server in now["virtual_servers"]
        for row in _rows(server, was.get(server["name"]), seconds)
    ]
    per = "" if before is None else "/s"
    titles = (
        "", "ACTIVE", f"CONNECTIONS{per}", f"REFUSED{per}", f"DROPPED{per}", f"IN packets{per}",
        f"OUT packets{per}", f"IN bytes{per}", f"OUT bytes{per}",
    )  # fmt: skip
    return table(titles, rows, paint)


def _rows(
    server: VirtualServerTraffic, before: VirtualServerTraffic | None, seconds: float
) -> Iterator[tuple[Cell | str, ...]]:
    role = "primary here" if server["primary"] else "secondary here"
    style = "bold" if server["primary"] else "dim"
    was = _flat(before) if before else {}
    for depth, key, traffic in _parts(server):
        name = Cell(f"{key[-1]} ({role})", style) if depth == 0 else f"{'  ' * depth}{key[-1]}"
        yield (name, *_figures(traffic, was.get(key), seconds))


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
