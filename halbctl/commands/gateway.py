"""``halbctl gateway``: the servers behind a Virtual Server."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import typer

from halbctl import completion
from halbctl.app import area
from halbctl.arguments import IfRevision, VirtualServer
from halbctl.errors import note
from halbctl.output import Paint, emit
from halbctl.session import change, finish
from halbctl.settings import settings_of
from protocol.errors import HalbError, InvalidInput

app = area("Add, remove, drain and weigh the gateways of a Virtual Server.")

MaxConnections = Annotated[
    int | None,
    typer.Option(metavar="N", help="Most connections at a time; 0 for any number."),
]
Gateway = Annotated[str, typer.Argument(metavar="GATEWAY", autocompletion=completion.gateways)]


@app.command()
def add(
    ctx: typer.Context,
    vs: VirtualServer,
    gateway: Annotated[str, typer.Argument(metavar="NAME=ADDRESS[:WEIGHT]")],
    backup: Annotated[bool, typer.Option("--backup", help="Only while no other can.")] = False,
    max_connections: MaxConnections = None,
    if_revision: IfRevision = None,
) -> None:
    """Add a gateway: gw5=10.77.0.35:2, or gw6=[fd77::36]:2."""
    import msgspec

    from halbctl.flags import parse_gateway
    from protocol.changes import AddGateway

    document = msgspec.structs.replace(
        parse_gateway(gateway), backup=backup, max_connections=max_connections or 0
    )
    finish(ctx, change(ctx, AddGateway(vs, document), if_revision))


@app.command()
def remove(
    ctx: typer.Context,
    vs: VirtualServer,
    gateway: Gateway,
    drain: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Let its connections end for so long first: 10m."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Although it has connections: end them now.")
    ] = False,
    if_revision: IfRevision = None,
) -> None:
    """Remove a gateway that has no connections. With --drain or --force make it so."""
    from protocol.changes import RemoveGateway

    if force and drain is not None:
        raise InvalidInput("--force and --drain exclude each other", "Give one of them.")
    if settings_of(ctx).local and (force or drain is not None):
        raise InvalidInput(
            "--local ends no connections", "Without --force and --drain they simply go on."
        )
    removal = RemoveGateway(vs, gateway)
    if not force and drain is None:
        finish(ctx, change(ctx, removal, if_revision))
        return
    from halbctl.draining import wait_until_empty

    settings_of(ctx).share()
    # What would be refused in the end, such as to remove the last one, ends no connection first.
    change(ctx, removal, dry_run=True, force=True)
    note(_drained(ctx, vs, gateway, "0s" if drain is None else drain, if_revision)["detail"])
    try:
        wait_until_empty(ctx, vs, gateway)
        done = change(ctx, removal, force=True)
    except (HalbError, KeyboardInterrupt):
        note(f"{gateway} was drained, and is not removed: the same command goes on")
        raise
    finish(ctx, done)


def _drained(
    ctx: typer.Context, vs: str, gateway: str, deadline: str | None, if_revision: str | None
) -> dict[str, Any]:
    """Have a gateway drained, until a deadline if there is one."""
    import time

    from protocol.changes import SetGateway
    from protocol.durations import parse_seconds

    seconds = None if deadline is None else parse_seconds("--deadline", deadline)
    until = None if seconds is None else int(time.time()) + seconds
    return change(ctx, SetGateway(vs, gateway, state="draining", drain_until=until), if_revision)


@app.command()
def drain(
    ctx: typer.Context,
    vs: VirtualServer,
    gateway: Gateway,
    deadline: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Then disable it and end what it still has: 10m."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it has no connections, showing how many it has.")
    ] = False,
    if_revision: IfRevision = None,
) -> None:
    """Send a gateway nothing new. It keeps its connections, until the deadline if one is given."""
    from halbctl.draining import refuse_endless, wait_until_empty

    settings_of(ctx).share()
    if wait:
        refuse_endless(ctx, vs, deadline)
    finish(ctx, _drained(ctx, vs, gateway, deadline, if_revision))
    if wait:
        wait_until_empty(ctx, vs, gateway)


@app.command("list")
def list_(ctx: typer.Context, vs: VirtualServer) -> None:
    """List the gateways as each device sees them, side by side."""
    from halbctl.draining import ask_views
    from halbctl.gateways import side_by_side

    views = ask_views(ctx, vs)
    paint = Paint.for_stream(sys.stdout)
    nothing = f"no gateways of {vs}: `halbctl gateway add` adds one"
    emit(views, settings_of(ctx).output, side_by_side(views, paint), nothing)


@app.command()
def show(ctx: typer.Context, vs: VirtualServer, gateway: Gateway) -> None:
    """Show one gateway as each device sees it, and why."""
    from halbctl.draining import ask_views, gateway_of
    from halbctl.gateways import by_device

    found = gateway_of(ask_views(ctx, vs), gateway)
    paint = Paint.for_stream(sys.stdout)
    emit(found, settings_of(ctx).output, by_device(found, paint))


@app.command()
def undrain(
    ctx: typer.Context, vs: VirtualServer, gateway: Gateway, if_revision: IfRevision = None
) -> None:
    """Send a drained or disabled gateway its share again."""
    from protocol.changes import SetGateway

    finish(ctx, change(ctx, SetGateway(vs, gateway, state="enabled"), if_revision))


@app.command("set")
def set_(
    ctx: typer.Context,
    vs: VirtualServer,
    gateway: Gateway,
    weight: Annotated[int | None, typer.Option(metavar="0-256", help="Share of new flows.")] = None,
    state: Annotated[
        Literal["enabled", "draining", "disabled"] | None, typer.Option(help="What it may take.")
    ] = None,
    backup: Annotated[
        bool | None,
        typer.Option("--backup/--no-backup", help="Takes connections only while no other can."),
    ] = None,
    max_connections: MaxConnections = None,
    if_revision: IfRevision = None,
) -> None:
    """Set the weight, the state or the limits of a gateway."""
    from protocol.changes import SetGateway

    said = (state, weight, backup, max_connections)
    if all(value is None for value in said):
        raise InvalidInput(
            "nothing to set", "Give --weight, --state, --backup or --max-connections."
        )
    finish(ctx, change(ctx, SetGateway(vs, gateway, *said), if_revision))
