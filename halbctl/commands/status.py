"""``halbctl status``."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from halbctl.app import area
from halbctl.output import Paint, emit
from halbctl.screens import status_screen
from halbctl.session import get_status
from halbctl.settings import a_number, settings_of

app = area()


@app.command()
def status(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow, until Ctrl-C.")] = False,
    interval: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            max=3600,
            callback=a_number,
            help="Longest pause with --watch.",
        ),
    ] = 1.0,
) -> None:
    """Show the Site: Virtual Servers, gateways, devices, warnings."""
    if watch:
        from halbctl.watching import follow

        follow(settings_of(ctx), interval)
        return
    import sys

    found = get_status(ctx)
    output = settings_of(ctx).output
    paint = Paint.for_stream(sys.stdout)
    emit(found, output, status_screen(found, time.time(), paint) if output == "table" else ())
