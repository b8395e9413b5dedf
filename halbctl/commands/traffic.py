"""``halbctl top`` and ``halbctl metrics``: what flows, live and for monitoring."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from halbctl import completion
from halbctl.app import area
from halbctl.errors import Waiting
from halbctl.output import Paint, as_data, as_json, clean, emit
from halbctl.session import ask
from halbctl.settings import a_number, settings_of
from halbctl.traffic import get_counters, of_server, traffic_lines
from protocol.durations import utc
from protocol.errors import Unreachable

if TYPE_CHECKING:
    from halbctl.replies import Counters

app = area()


@app.command()
def top(
    ctx: typer.Context,
    vs: Annotated[
        str | None, typer.Argument(metavar="[VS]", autocompletion=completion.virtual_servers)
    ] = None,
    interval: Annotated[
        float,
        typer.Option(min=0.5, max=3600, callback=a_number, help="Seconds between two looks."),
    ] = 2.0,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="Looks; 0: no end.")] = 0,
    total: Annotated[bool, typer.Option("--total", help="Totals in place of rates.")] = False,
) -> None:
    """Follow the traffic of the asked device, until Ctrl-C.

    By listener and gateway, with the columns that fit in the terminal. An
    agent that goes away is said so, and waited for.
    """
    from halbctl.watching import draw, drawing

    output = settings_of(ctx).output
    screen = output == "table" and sys.stdout.isatty() and count != 1
    lines: list[str] = []
    waiting = Waiting()

    def lost(why: str) -> None:
        if screen:
            draw([Paint.for_stream(sys.stdout)(f"OUT OF DATE: {why}", "red", "bold"), *lines])
        else:
            waiting.lost(why)

    with drawing() if screen else nullcontext():
        looks = _looks(partial(_get, ctx, vs), interval, lost, total=total)
        for number, (now, before) in enumerate(looks, 1):
            waiting.back()
            paint = Paint.for_stream(sys.stdout)
            lines = traffic_lines(now, before, paint)
            if screen:
                over = "in total"
                if before is not None:
                    over = f"per second, over {(now['at'] - before['at']) / 1000:.1f} s"
                head = f"{clean(now['device'])}   {utc(now['at'] / 1000)}   {over}"
                lines = [paint(head, "dim"), "", *lines]
                draw(lines)
            elif output == "table":
                sys.stdout.write("".join(f"{line}\n" for line in [*lines, ""]))
            else:
                sys.stdout.write(_document(now, output))
            sys.stdout.flush()
            if number == count:
                return


def _looks(
    get: Callable[[], Counters], interval: float, lost: Callable[[str], None], *, total: bool
) -> Iterator[tuple[Counters, Counters | None]]:
    """Each look at the counters, and with it the one before, or None if totals are wanted.

    An agent that goes away is waited for, and counts anew when it is back; one that was never
    there is an error.
    """
    from halbctl.watching import RETRY_S

    first = get()
    if total:
        yield first, None
    before: Counters | None = first
    pause = interval
    while True:
        time.sleep(pause)
        try:
            now = get()
        except Unreachable as error:
            lost(error.message)
            before, pause = None, min(interval, RETRY_S)
            continue
        if total or before is not None:
            yield now, None if total else before
        before, pause = now, interval


@app.command()
def metrics(ctx: typer.Context) -> None:
    """Print all figures of the asked device as OpenMetrics text."""
    found = ask(ctx, {"op": "metrics"})
    emit(found, settings_of(ctx).output, found["text"].splitlines())


def _document(now: Counters, output: str) -> str:
    return as_json(now, line=True) + "\n" if output == "json" else f"---\n{as_data(now, output)}\n"


def _get(ctx: typer.Context, name: str | None) -> Counters:
    found = get_counters(ctx)
    if name is None:
        return found
    chosen = of_server(found, name)
    if not chosen["virtual_servers"]:
        from protocol.errors import InvalidInput
        from protocol.nearest import nearest

        names = [server["name"] for server in found["virtual_servers"]]
        raise InvalidInput(f"no Virtual Server named {name!r} is here", nearest(name, names))
    return chosen
