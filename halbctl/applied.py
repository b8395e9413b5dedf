"""Waiting until every device that runs has a revision in its kernel."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from halbctl.session import get_status
from protocol.errors import TimedOut

if TYPE_CHECKING:
    import typer

    from halbctl.replies import Device, Status

PAUSE_S = 0.2


def wait_until_applied(ctx: typer.Context, revision: str, seconds: float) -> None:
    """Return when all live devices but witnesses have applied ``revision``.

    Raises TimedOut that names those which have not, and why.
    """
    deadline = time.monotonic() + seconds
    while True:
        status = get_status(ctx)
        late = [d for d in status["devices"] if _lacks(d, revision)]
        if not late:
            return
        if time.monotonic() >= deadline:
            raise TimedOut(
                f"revision {revision} is committed, but not in use on "
                + "; ".join(_why(d, status) for d in late),
                "They keep the last good configuration; `halbctl status` shows when that changes.",
            )
        time.sleep(PAUSE_S)


def _lacks(device: Device, revision: str) -> bool:
    runs = device["state"] == "alive" and not device["witness"]
    return runs and _number(device["revision"]) < _number(revision)


def _number(revision: str) -> tuple[int, ...]:
    return tuple(int(part) for part in revision.split(".")) if revision else ()


def _why(device: Device, status: Status) -> str:
    reasons = {
        part["reason"]
        for server in status["virtual_servers"]
        for part in server["devices"]
        if part["name"] == device["name"] and part["reason"]
    }
    said = f": {', '.join(sorted(reasons))}" if reasons else ""
    return f"{device['name']} (at {device['revision']}{said})"
