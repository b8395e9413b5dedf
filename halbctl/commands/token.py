"""``halbctl token``: what lets devices join."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from halbctl.app import area
from halbctl.errors import note
from halbctl.output import Cell, Paint, emit, table
from halbctl.screens import age
from halbctl.session import ask, change, finish, order
from halbctl.settings import settings_of
from protocol.durations import utc

app = area("Make, list and revoke the tokens that devices join with.")


@app.command()
def create(
    ctx: typer.Context,
    ttl: Annotated[str, typer.Option(metavar="TIME", help="Valid for: 15m, 2h, 7d.")] = "1h",
    uses: Annotated[int, typer.Option(metavar="N", help="How many devices may join.")] = 1,
) -> None:
    """Make a token and print it; nothing can show it again."""
    from protocol.api import CreateToken
    from protocol.durations import parse_seconds

    token = order(ctx, CreateToken(parse_seconds("--ttl", ttl), uses))
    emit(token, settings_of(ctx).output, [token["token"]])
    devices = "one device" if token["uses"] == 1 else f"{token['uses']} devices"
    note(f"token {token['id']} lets {devices} join until {utc(token['expires_at'])}")
    note("on the new device: halbctl join TOKEN")


@app.command("list")
def list_(ctx: typer.Context) -> None:
    """List the tokens, without their secrets."""
    found = ask(ctx, {"op": "token-list"})
    now = time.time()
    rows = [
        (
            token["id"],
            token["uses_left"],
            utc(token["expires_at"]),
            f"in {age(token['expires_at'] - now)}"
            if token["expires_at"] > now
            else Cell("EXPIRED", "yellow"),
            token.get("by", ""),
        )
        for token in found["tokens"]
    ]
    titles = ("TOKEN", "USES LEFT", "EXPIRES", "", "MADE BY")
    lines = table(titles, rows, Paint.for_stream(sys.stdout), spare=("EXPIRES", "MADE BY"))
    nothing = "no tokens: `halbctl token create` makes one"
    emit(found["tokens"], settings_of(ctx).output, lines, nothing)


@app.command()
def revoke(
    ctx: typer.Context,
    token: Annotated[str, typer.Argument(metavar="ID", help="As `halbctl token list` shows it.")],
) -> None:
    """Make a token worthless. Devices that joined with it stay."""
    from protocol.changes import RevokeToken

    finish(ctx, change(ctx, RevokeToken(token)))
