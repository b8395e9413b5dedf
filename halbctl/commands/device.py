"""``halbctl device``: the hosts of a Site."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from halbctl import completion
from halbctl.app import area
from halbctl.output import Paint, clean, emit
from halbctl.screens import device_table
from halbctl.session import change, change_if_confirmed, finish, get_status
from halbctl.settings import settings_of
from protocol.errors import InvalidInput

app = area("Show, drain, rename, replace and remove devices.")

Name = Annotated[str, typer.Argument(metavar="DEVICE", autocompletion=completion.devices)]


@app.command("list")
def list_(ctx: typer.Context) -> None:
    """List the devices."""
    status = get_status(ctx)
    lines = device_table(status["devices"], status["revision"], Paint.for_stream(sys.stdout))
    emit(status["devices"], settings_of(ctx).output, lines)


@app.command()
def show(ctx: typer.Context, device: Name) -> None:
    """Show one device, and what it is to each Virtual Server."""
    status = get_status(ctx)
    found = next((d for d in status["devices"] if device in (d["name"], d["id"])), None)
    if found is None:
        from protocol.nearest import nearest

        names = [d["name"] for d in status["devices"]]
        raise InvalidInput(f"no device is named {device!r}", nearest(device, names))
    paint = Paint.for_stream(sys.stdout)
    lines = device_table([found], status["revision"], paint)
    parts = [
        (vs["name"], part)
        for vs in status["virtual_servers"]
        for part in vs["devices"]
        if part["name"] == found["name"]
    ]
    for name, part in parts:
        reason = "" if part["eligible"] else f", not eligible: {clean(part['reason'])}"
        lines.append(f"  {part['role']} of {clean(name)}{reason}")
    data = {**found, "virtual_servers": [{**part, "name": name} for name, part in parts]}
    emit(data, settings_of(ctx).output, lines)


@app.command()
def drain(
    ctx: typer.Context,
    device: Name,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is primary of nothing.")] = False,
) -> None:
    """Move everything off a device, and send nothing new to it. It still votes."""
    from protocol.changes import SetDevice

    settings_of(ctx).share()
    finish(ctx, change(ctx, SetDevice(device, True)))
    if wait:
        from halbctl.draining import wait_until_idle

        wait_until_idle(ctx, device)


@app.command()
def undrain(ctx: typer.Context, device: Name) -> None:
    """Let a drained device take Virtual Servers again."""
    from protocol.changes import SetDevice

    finish(ctx, change(ctx, SetDevice(device, False)))


@app.command()
def rename(
    ctx: typer.Context,
    device: Name,
    name: Annotated[str, typer.Argument(metavar="NEW")],
) -> None:
    """Give a device another name. Nothing else changes, as lists refer to its id."""
    from protocol.changes import RenameDevice

    finish(ctx, change(ctx, RenameDevice(device, name)))


@app.command()
def replace(
    ctx: typer.Context,
    device: Name,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="NEW",
            help="Device that has joined for it.",
            autocompletion=completion.devices,
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Although the old one still runs.")
    ] = False,
) -> None:
    """Put a device in the place of another. It has joined; all lists name it then."""
    from protocol.changes import ReplaceDevice

    question = f"Put {by} in the place of {device}, which leaves the Site?"
    wanted = ReplaceDevice(device, by)
    finish(ctx, change_if_confirmed(ctx, wanted, question, yes=yes, force=force))


@app.command()
def remove(
    ctx: typer.Context,
    device: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Although it still runs: it is cut off at once.")
    ] = False,
) -> None:
    """Take a device out of the Site, such as one that is gone for good."""
    from protocol.changes import RemoveDevice

    question = f"Take device {device} out of the Site?"
    finish(ctx, change_if_confirmed(ctx, RemoveDevice(device), question, yes=yes, force=force))
