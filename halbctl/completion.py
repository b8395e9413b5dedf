"""Names that the shell completes, as the agent knows them now.

A shell that completes says nothing of errors: where nobody answers there are no names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import typer

from protocol.errors import HalbError

if TYPE_CHECKING:
    from halbctl.replies import Status, VirtualServer

PATIENCE_S = 1.0
"""Longer than that a person at the keyboard does not wait."""


def virtual_servers(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of Virtual Servers."""
    return _matching((vs["name"] for vs in _virtual_servers(ctx)), incomplete)


def devices(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of devices."""
    status = _status(ctx)
    return _matching((each["name"] for each in status["devices"]) if status else (), incomplete)


def gateways(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the gateways of the Virtual Server that stands before."""
    there = _of_the_one_before(ctx)
    return _matching((gateway["name"] for vs in there for gateway in vs["gateways"]), incomplete)


def listeners(ctx: typer.Context, incomplete: str) -> list[str]:
    """Listeners of the Virtual Server that stands before, such as ``tcp/443``."""
    from halbctl.screens import listener_key

    there = _of_the_one_before(ctx)
    return _matching((listener_key(each) for vs in there for each in vs["listeners"]), incomplete)


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))


def _of_the_one_before(ctx: typer.Context) -> list[VirtualServer]:
    name: Any = ctx.params.get("vs")
    return [vs for vs in _virtual_servers(ctx) if vs["name"] == name]


def _virtual_servers(ctx: typer.Context) -> list[VirtualServer]:
    status = _status(ctx)
    return status["virtual_servers"] if status else []


def _status(ctx: typer.Context) -> Status | None:
    from halbctl.session import get_status
    from halbctl.settings import settings_of

    settings_of(ctx).timeout = PATIENCE_S
    try:
        return get_status(ctx)
    except HalbError:
        return None
