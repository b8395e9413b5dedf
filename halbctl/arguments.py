"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

from halbctl import completion

VirtualServer = Annotated[
    str, typer.Argument(metavar="VS", autocompletion=completion.virtual_servers)
]
"""One that there is."""
IfRevision = Annotated[
    str | None,
    typer.Option(metavar="TERM.N", help="Only if the Site is still at this revision."),
]
Sticky = Annotated[
    str | None,
    typer.Option(metavar="TIME|no", help="A client keeps its gateway for so long, such as 30m."),
]
