"""``halbctl version``."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Any

import typer

from halbctl.app import area
from halbctl.errors import warn
from halbctl.output import clean, emit
from halbctl.session import ask
from halbctl.settings import settings_of
from protocol.errors import Unreachable

app = area()


def halbctl_version() -> str:
    """The release of this client; ``unknown`` where it was not installed."""
    try:
        return installed_version("halb")
    except PackageNotFoundError:
        return "unknown"


@app.command()
def version(ctx: typer.Context) -> None:
    """Show the versions of halbctl and of the agent."""
    agent: dict[str, Any] | None = None
    try:
        agent = ask(ctx, {"op": "version"})
    except Unreachable as error:
        warn(error.message)
    own = halbctl_version()
    lines = [f"halbctl    {own}"]
    if agent:
        speaks = f"protocol {agent['protocol_min']} to {agent['protocol_max']}"
        site = f"of Site {agent['site']}" if agent["site"] else "of no Site yet"
        lines.append(clean(f"halb-agent {agent['agent']}   {speaks}"))
        lines.append(clean(f"device     {agent['device']} ({agent['id']}) {site}"))
    emit({"halbctl": own, "agent": agent}, settings_of(ctx).output, lines)
