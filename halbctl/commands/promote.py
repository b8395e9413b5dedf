"""``halbctl promote``: a planned move."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from halbctl import completion
from halbctl.app import area
from halbctl.arguments import VirtualServer
from halbctl.errors import note
from halbctl.session import change, finish, order
from halbctl.settings import settings_of
from protocol.errors import InvalidInput

if TYPE_CHECKING:
    from protocol.changes import Change

app = area()

MOVE_S = 10.0
_NEXT = "the next device in rank"


@app.command()
def promote(
    ctx: typer.Context,
    vs: VirtualServer,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help="Successor. [default: the next in rank]",
            autocompletion=completion.devices,
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Say that it is moving; it is waited for anyway.")
    ] = False,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Later: +90s, +2h, or 2030-05-01T02:00 (UTC)."),
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Take a planned move back.")] = False,
) -> None:
    """Move a Virtual Server to another device, gracefully. [timeout: 10]"""
    from protocol.api import PromoteTo
    from protocol.changes import PlanMove
    from protocol.durations import utc

    if at is not None or cancel:
        plan = _plan(vs, to, at, wait=wait, cancel=cancel)
        finish(ctx, change(ctx, plan))
        if isinstance(plan, PlanMove):
            note(f"{vs} moves to {to or _NEXT} at {utc(plan.at)}")
        return
    limit = settings_of(ctx).timeout_or(MOVE_S)
    progress = _progress(vs, to) if wait else None
    try:
        done = order(ctx, PromoteTo(vs, to, wait, limit), limit, progress)
    finally:
        if progress and sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
    finish(ctx, done)


def _plan(vs: str, to: str | None, at: str | None, *, wait: bool, cancel: bool) -> Change:
    """The change that plans the move, or takes the plan back."""
    import os

    from protocol.changes import CancelMove, PlanMove

    if wait:
        raise InvalidInput("`--wait` is for moves that begin now", "Leave it out.")
    if cancel and (at is not None or to is not None):
        raise InvalidInput("`--cancel` takes neither `--to` nor `--at`", "Leave them out.")
    if at is None:
        return CancelMove(vs)
    return PlanMove(vs, to, moment(at, time.time()), os.urandom(8).hex())


def moment(text: str, now: float) -> int:
    """Unix time, seconds, of ``+90s`` or of an ISO 8601 moment; without a zone it is UTC."""
    from protocol.durations import parse_seconds

    if text.startswith("+"):
        return math.ceil(now) + parse_seconds("--at", text[1:])
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            f"`--at` is {text!r}, which is no time", "Write it as +90s or 2030-05-01T02:00Z."
        ) from None
    return math.ceil((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())


def _progress(vs: str, to: str | None) -> Callable[[float], None]:
    """On a terminal one line that counts; elsewhere one line."""
    what = f"moving {vs} to {to or _NEXT} ..."
    if not sys.stderr.isatty():
        note(what)
        return lambda _: None

    def tick(passed: float) -> None:
        sys.stderr.write(f"\r\x1b[K{what} {passed:.1f} s")
        sys.stderr.flush()

    return tick
