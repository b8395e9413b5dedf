"""``halbctl doctor``: is this device as it should be?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, cast

import typer

from halbctl.app import area
from halbctl.output import Paint, clean, emit, sentence
from halbctl.session import ask
from halbctl.settings import settings_of

if TYPE_CHECKING:
    from halbctl.replies import Diagnosis

app = area()

LOOKING_S = 30.0
"""Seconds; many gateways that do not answer take their time."""
PAINTS = {"ok": ("green",), "warning": ("yellow", "bold"), "problem": ("red", "bold")}


@app.command()
def doctor(
    ctx: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Show what is well, too.")] = False,
) -> None:
    """Name what is wrong with this device, and the remedy.

    Looks at its host, its peers and its gateways, too.

    Ends with exit code 1 if there is a problem; warnings alone end with 0.
    """
    found = cast("Diagnosis", ask(ctx, {"op": "doctor"}, LOOKING_S))
    emit(found, settings_of(ctx).output, list(_lines(found, Paint.for_stream(sys.stdout), every)))
    if any(finding["state"] == "problem" for finding in found["findings"]):
        raise typer.Exit(1)


def _lines(found: Diagnosis, paint: Paint, every: bool) -> Iterator[str]:
    for finding in found["findings"]:
        state = finding["state"]
        if state == "ok" and not every:
            continue
        said = f" {finding['check']}: {finding['text']}"
        yield from sentence(said, paint, state, *PAINTS.get(state, ()))
        if finding["remedy"]:
            yield from sentence(finding["remedy"], paint, indent="  ")
    states = [finding["state"] for finding in found["findings"]]
    problems, warnings = states.count("problem"), states.count("warning")
    outside = "" if found["site"] else "; it belongs to no Site, so only its host was looked at"
    yield (
        f"{clean(found['device'])}: {problems} problem{'' if problems == 1 else 's'}, "
        f"{warnings} warning{'' if warnings == 1 else 's'}, {states.count('ok')} well{outside}"
    )
