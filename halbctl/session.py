"""What commands share: asking the agent, and telling the operator what came of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import typer

from halbctl.errors import note
from halbctl.output import emit
from halbctl.settings import settings_of
from halbctl.where import Remote
from protocol.errors import InvalidInput, Refused

if TYPE_CHECKING:
    from halbctl.replies import Exported, Status
    from protocol.api import Op
    from protocol.changes import Change
    from protocol.document import VirtualServerDocument

ANSWER_S = 5.0
"""Default wait for an answer."""
UNDECIDED = (
    "It may be busy or hung, and do later what was asked: see `systemctl status halb-agent`, and"
    " `halbctl status` for what became of it."
)
"""Of a change that was sent and not answered nobody knows yet."""
ENDED = (
    "What was asked may have been done: see `systemctl status halb-agent`, and `halbctl status`"
    " before you repeat it."
)
ALL_S = 0.5
"""Seconds before time is up in which the answers of all devices are put together."""


def ask(
    ctx: typer.Context,
    op: dict[str, Any],
    timeout: float = ANSWER_S,
    waiting: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """The agent's result of ``op``; ``timeout`` (seconds) yields to the operator's own."""
    from halbctl.client import ask as ask_agent

    settings = settings_of(ctx)
    return ask_agent(settings.where, op, settings.timeout_or(timeout), waiting)


def ask_all(ctx: typer.Context, op: dict[str, Any]) -> dict[str, Any]:
    """As :func:`ask`, for what all devices are asked: they have what the operator waits."""
    own = settings_of(ctx).timeout
    if own is None:
        return ask(ctx, op)
    return ask(ctx, {**op, "patience": own - min(ALL_S, own / 4)})


def order(
    ctx: typer.Context,
    op: Op,
    timeout: float = ANSWER_S,
    waiting: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """As :func:`ask`, for something typed: a change, or a move."""
    import msgspec

    from halbctl.client import Ended
    from halbctl.client import ask as ask_agent

    settings = settings_of(ctx)
    if settings.local and not getattr(op, "local", False):
        raise InvalidInput("--local is for changes of gateways and listeners only")
    where = settings.where
    if isinstance(where, Remote) and not where.agent and (settings.local or _of_one_device(op)):
        raise InvalidInput(
            "this concerns the device that is asked, and none is named",
            "Name it with --agent NAME.",
        )
    limit = settings.timeout_or(timeout)
    try:
        return ask_agent(where, msgspec.to_builtins(op), limit, waiting, UNDECIDED)
    except Ended as error:
        raise Ended(f"the agent ended before it answered; {error.message}", ENDED) from None


def _of_one_device(op: Op) -> bool:
    from protocol.api import Failover, Recover

    return isinstance(op, Failover | Recover)


def change(
    ctx: typer.Context,
    change: Change,
    if_revision: str | None = None,
    *,
    dry_run: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Have the Site's configuration changed; the agent's ``Done``."""
    from protocol.api import PutChange, parse_revision

    parse_revision(if_revision)
    timeout = settings_of(ctx).timeout_or(ANSWER_S)
    return order(
        ctx, PutChange(change, if_revision, dry_run, timeout, settings_of(ctx).local, force)
    )


def change_if_confirmed(
    ctx: typer.Context,
    wanted: Change,
    question: str,
    if_revision: str | None = None,
    *,
    yes: bool,
    force: bool = False,
) -> dict[str, Any]:
    """As :func:`change`, after a person agreed to it; who is asked can have it done."""
    if asks(yes=yes):
        change(ctx, wanted, if_revision, dry_run=True, force=force)
    confirm(question, yes=yes)
    return change(ctx, wanted, if_revision, force=force)


def put_edited(
    ctx: typer.Context, revision: str, if_revision: str | None, new: VirtualServerDocument
) -> dict[str, Any]:
    """Have the Virtual Server be so, if it was not changed after ``revision``."""
    from protocol.changes import PutVirtualServer

    return change(ctx, PutVirtualServer(new, "exist", revision), if_revision)


def finish(ctx: typer.Context, done: dict[str, Any]) -> None:
    """Report a ``Done``: a sentence to stderr, or the data to stdout."""
    if settings_of(ctx).output == "table":
        note(done["detail"])
    else:
        emit(done, settings_of(ctx).output, ())


def get_status(ctx: typer.Context) -> Status:
    """The Site as the agent sees it now."""
    return cast("Status", ask(ctx, {"op": "status"}))


def get_document(ctx: typer.Context) -> Exported:
    """The Site as a document, and the revision that it is of."""
    return cast("Exported", ask(ctx, {"op": "export"}))


def get_virtual_server(ctx: typer.Context, name: str) -> tuple[str, VirtualServerDocument]:
    """The Site's revision, and a Virtual Server as it is a document then."""
    from halbctl.documents import virtual_server

    exported = get_document(ctx)
    return exported["revision"], virtual_server(exported["document"], name)


def confirm(question: str, *, yes: bool) -> None:
    """Ask a person; scripts (no terminal) and ``--yes`` have made up their mind."""
    if asks(yes=yes) and not typer.confirm(question, err=True):
        raise Refused("nothing was changed")


def asks(*, yes: bool) -> bool:
    """Whether there is a person to ask."""
    return not yes and sys.stdin.isatty() and sys.stderr.isatty()
