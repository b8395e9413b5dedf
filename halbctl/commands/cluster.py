"""``halbctl init``, ``join`` and ``leave``: belonging to a Site."""

from __future__ import annotations

from typing import Annotated

import typer

from halbctl.app import area
from halbctl.session import confirm, finish, order
from protocol.errors import InvalidInput

app = area()

MAX_TOKEN = 4096
JOIN_S = 30.0


@app.command()
def init(
    ctx: typer.Context,
    site: Annotated[str, typer.Argument(metavar="SITE", help="Name of the new Site.")],
) -> None:
    """Found a Site, with this device as its first."""
    from protocol.api import Init

    finish(ctx, order(ctx, Init(site), 15.0))


@app.command()
def join(
    ctx: typer.Context,
    token: Annotated[
        str | None,
        typer.Argument(metavar="[TOKEN]", help="From `halbctl token create`; - reads stdin."),
    ] = None,
    token_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Read it from a file, - is stdin: not seen in `ps`."),
    ] = None,
) -> None:
    """Join the Site that a token comes from. [timeout: 30]"""
    from protocol.api import Join

    finish(ctx, order(ctx, Join(_token(token, token_file)), JOIN_S))


def _token(token: str | None, file: str | None) -> str:
    if (token is None) == (file is None):
        raise InvalidInput(
            "a token is needed, once",
            "Use `halbctl join TOKEN` or `halbctl join --token-file FILE`;"
            " `halbctl token create` on a device of the Site prints one.",
        )
    source = (token if file is None else file) or ""
    if file is None and source != "-":
        return source
    try:
        with open(0 if source == "-" else source, encoding="utf-8", closefd=source != "-") as text:
            read = text.read(MAX_TOKEN).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is no text" if isinstance(error, ValueError) else error.strerror
        raise InvalidInput(f"the token cannot be read from {source}: {reason}") from error
    if not read:
        raise InvalidInput(f"no token in {'stdin' if source == '-' else source}")
    return read


@app.command()
def leave(
    ctx: typer.Context,
    force: Annotated[
        bool, typer.Option("--force", help="Leave although nobody can be told.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Hand everything over and leave the Site for good. [timeout: 30]"""
    from protocol.api import Leave

    confirm("Take this device out of its Site?", yes=yes)
    finish(ctx, order(ctx, Leave(force), 30.0))
