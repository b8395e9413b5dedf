"""``halbctl conflicts``: what this device had stored and the Site did not take."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halbctl.app import area
from halbctl.errors import note
from halbctl.output import Paint, clean, emit
from halbctl.session import ask, change, confirm, finish
from halbctl.settings import settings_of
from protocol.errors import InvalidInput, Refused

if TYPE_CHECKING:
    from halbctl.replies import Conflict

app = area()

WHY = {
    "dropped": "was stored here and never committed; a coordinator without it took over",
    "replaced": "was stored here and gave way, with what was in force, to `recover` elsewhere",
    "local": "was made with --local and ended when a coordinator was back",
}


@app.command()
def conflicts(
    ctx: typer.Context,
    apply: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Put the Virtual Servers of this conflict again."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """List the edits that this device had to give up. The last ten; --apply makes one again."""
    found: list[Conflict] = ask(ctx, {"op": "conflicts"})["conflicts"]
    if apply is not None:
        _apply(ctx, found, apply, yes=yes)
        return
    paint = Paint.for_stream(sys.stdout)
    lines = [line for conflict in found for line in _lines(conflict, paint)]
    emit(found, settings_of(ctx).output, lines, "no conflicts: this device gave up no edit")


def _lines(conflict: Conflict, paint: Paint) -> Iterator[str]:
    why = WHY.get(conflict["kind"], conflict["kind"])
    yield f"{paint(conflict['id'], 'bold')}  {conflict['at']}  {clean(why)}"
    lost, won = conflict["lost"], conflict["won"]
    # A local edit has no revision of its own: it is told with the one that it was made on.
    yield f"  made on revision {won}" if lost == won else f"  revision {lost} gave way to {won}"
    for request in conflict["requests"]:
        yield clean(f"  asked on {request['by']} at {request['at']}:")
        yield from (clean(f"    {line}") for line in request["detail"].splitlines())
    again = False
    for part in conflict["objects"]:
        again |= part["document"] is not None
        yield clean(f"  {part['action']} {part['kind']} {part['name']}")
    if again:
        yield f"  again: halbctl conflicts --apply {conflict['id']}"


def _apply(ctx: typer.Context, found: list[Conflict], id_: str, *, yes: bool) -> None:
    from protocol.changes import PutVirtualServer
    from protocol.document import parse_virtual_server

    chosen = next((c for c in found if c["id"] == id_), None)
    if chosen is None:
        from protocol.nearest import nearest

        raise InvalidInput(f"no conflict is named {id_!r}", nearest(id_, [c["id"] for c in found]))
    documents = [part["document"] for part in chosen["objects"] if part["document"]]
    if not documents:
        raise Refused(
            f"conflict {id_} holds no Virtual Server that could be put again",
            "Repeat by hand what `halbctl conflicts` shows.",
        )
    names = ", ".join(str(document["name"]) for document in documents)
    confirm(f"Replace {names} as a whole by what conflict {id_} holds?", yes=yes)
    done: dict[str, Any] = {}
    for document in documents:
        if done:
            note(done["detail"])
        last = change(ctx, PutVirtualServer(parse_virtual_server(document)))
        done = {**last, "changed": last["changed"] or done.get("changed", False)}
    finish(ctx, done)
