"""``halbctl promote``: a planned move."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from halbctl.app import area
from halbctl.errors import note
from halbctl.session import finish, order
from halbctl.settings import settings_of

app = area()

MOVE_S = 10.0


@app.command()
def promote(
    ctx: typer.Context,
    vs: Annotated[str, typer.Argument(metavar="VS")],
    to: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Successor. [default: the next in rank]")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it is primary; exit code 7 if not in time.")
    ] = False,
) -> None:
    """Move a Virtual Server to another device, gracefully. [timeout: 10]"""
    from protocol.api import PromoteTo

    limit = settings_of(ctx).timeout_or(MOVE_S)
    progress = _progress(vs, to) if wait else None
    try:
        done = order(ctx, PromoteTo(vs, to, wait, limit), limit, progress)
    finally:
        if progress and sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
    finish(ctx, done)


def _progress(vs: str, to: str | None) -> Callable[[float], None]:
    """On a terminal one line that counts; elsewhere one line."""
    what = f"moving {vs} to {to or 'the next device in rank'} ..."
    if not sys.stderr.isatty():
        note(what)
        return lambda _: None

    def tick(passed: float) -> None:
        sys.stderr.write(f"\r\x1b[K{what} {passed:.1f} s")
        sys.stderr.flush()

    return tick
