"""``halbctl apply``, ``diff`` and ``export``: the Site as one document."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from halbctl.app import area
from halbctl.errors import note
from halbctl.output import Paint, emit
from halbctl.session import asks, change, confirm, finish, get_document
from halbctl.settings import settings_of

if TYPE_CHECKING:
    from halbctl.replies import Exported
    from protocol.document import SiteDocument

app = area()

APPLY_S = 10.0

File = Annotated[
    str, typer.Option("--file", "-f", metavar="FILE", help="YAML or JSON; - is stdin.")
]


@app.command()
def apply(
    ctx: typer.Context,
    file: File,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check it and show the changes; change nothing.")
    ] = False,
    if_revision: Annotated[
        str | None,
        typer.Option(metavar="TERM.N", help="Only if the Site is still at this revision."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until every device that runs uses it; 7 if not in time.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before Virtual Servers are deleted.")
    ] = False,
) -> None:
    """Make the Virtual Servers what a file says; delete others."""
    from halbctl.yaml import read
    from protocol.changes import ApplyDocument
    from protocol.document import parse_site

    wanted = parse_site(read(file))
    if dry_run:
        done = change(ctx, ApplyDocument(wanted), if_revision, dry_run=True)
        lines = done["detail"].splitlines() if done["changed"] else []
        _show(ctx, lines, done["revision"])
        return
    if asks(yes=yes):
        exported = get_document(ctx)
        if gone := _deleted(exported, wanted):
            confirm(f"This deletes {', '.join(gone)}. Go on?", yes=yes)
        # What others made since nobody was asked about.
        if_revision = if_revision or exported["revision"]
    settings_of(ctx).share()
    done = change(ctx, ApplyDocument(wanted), if_revision)
    if wait:
        from halbctl.applied import wait_until_applied

        wait_until_applied(ctx, done["revision"], settings_of(ctx).timeout_or(APPLY_S))
    finish(ctx, done)


def _deleted(exported: Exported, wanted: SiteDocument) -> list[str]:
    from protocol.document import parse_site

    kept = {vs.name for vs in wanted.virtual_servers}
    current = parse_site(exported["document"])
    return [vs.name for vs in current.virtual_servers if vs.name not in kept]


@app.command()
def diff(ctx: typer.Context, file: File) -> None:
    """Show what `apply` would change."""
    from halbctl.documents import site_difference
    from halbctl.yaml import read
    from protocol.changes import ApplyDocument
    from protocol.document import parse_site

    wanted = parse_site(read(file))
    foreseen = change(ctx, ApplyDocument(wanted), dry_run=True)
    exported = get_document(ctx)
    current = parse_site(exported["document"])
    name = "<stdin>" if file == "-" else file
    lines = site_difference(current, wanted, f"revision {exported['revision']}", name)
    _show(ctx, lines if foreseen["changed"] else [], exported["revision"])


def _show(ctx: typer.Context, lines: list[str], revision: str) -> None:
    from halbctl.documents import painted

    data = {"changed": bool(lines), "revision": revision, "diff": lines}
    emit(data, settings_of(ctx).output, painted(lines, Paint.for_stream(sys.stdout)))
    if not lines:
        note(f"no difference to revision {revision}")


@app.command()
def export(ctx: typer.Context) -> None:
    """Print the Site as a document that `apply` takes."""
    exported = get_document(ctx)
    if settings_of(ctx).output == "json":
        emit(exported["document"], "json", ())
    else:
        # For --if-revision: asked for later, it may be that of another document.
        print(f"# revision {exported['revision']}")
        emit(exported["document"], "yaml", ())
