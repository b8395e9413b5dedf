"""``halbctl recover``: go on without voters that are lost for good."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from halbctl.app import area
from halbctl.errors import note
from halbctl.session import finish, get_status, order
from protocol.errors import InvalidInput, Refused

app = area()

RECOVER_S = 20.0


@app.command()
def recover(
    ctx: typer.Context,
    accept: Annotated[
        bool,
        typer.Option(
            "--i-accept-two-primaries", help="A lost device that still runs goes on serving."
        ),
    ] = False,
    device: Annotated[
        list[str] | None,
        typer.Option("--device", metavar="NAME", help="A survivor. [default: those heard]"),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask for the Site's name.")
    ] = False,
) -> None:
    """Give up voters that are lost for good. Where they were a majority. [timeout: 20]"""
    from protocol.api import Recover

    if not accept:
        raise InvalidInput(
            "this gives up the promise that a VIP has one owner: devices that are cut off but"
            " not dead go on serving",
            "Make sure that the lost devices are off, then add --i-accept-two-primaries.",
        )
    status = get_status(ctx)
    alive = [d["name"] for d in status["devices"] if d["state"] == "alive"]
    survivors = device or alive
    lost = [d["name"] for d in status["devices"] if d["name"] not in survivors]
    note(f"survivors: {', '.join(survivors)}")
    note(f"given up as voters: {', '.join(lost) or 'none'}; make sure that they are off")
    if not yes:
        _type_the_name(status["site"])
    finish(ctx, order(ctx, Recover(status["site"], tuple(device or ())), RECOVER_S))


def _type_the_name(site: str) -> None:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidInput("there is nobody to ask for the Site's name", "Add --yes.")
    if typer.prompt(f"Type the name of the Site ({site}) to go on", err=True) != site:
        raise Refused("that is not its name; nothing was changed")
