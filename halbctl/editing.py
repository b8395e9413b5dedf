"""``vs edit`` in the operator's own editor."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from halbctl.documents import difference, painted
from halbctl.errors import note, report
from halbctl.output import Paint
from halbctl.yaml import dump, read
from protocol.document import parse_virtual_server
from protocol.errors import HalbError, InvalidInput, Refused
from protocol.rendering import render_virtual_server

if TYPE_CHECKING:
    from protocol.document import VirtualServerDocument

Done = dict[str, Any]
"""As agents answer changes."""
HEAD = "# Save and close to go on; close without a change to leave it as it is.\n"


def edit_by_hand(
    old: VirtualServerDocument, store: Callable[[VirtualServerDocument], Done]
) -> Done:
    """What comes of storing what the operator made of ``old`` and agreed to.

    Raises Refused when nothing is to be changed. What cannot be stored is kept, and said where.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidInput(
            "nothing to change, and no terminal to edit in",
            "Give options such as --profile fast; see `halbctl vs edit --help`.",
        )
    with tempfile.NamedTemporaryFile(
        "w", prefix=f"{old.name}-", suffix=".yaml", delete=False
    ) as file:
        file.write(HEAD + dump(render_virtual_server(old)))
    path = Path(file.name)
    try:
        new = _edited(old, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    try:
        done = store(new)
    except (HalbError, KeyboardInterrupt):
        note(f"what you wrote is kept in {path}")
        raise
    path.unlink(missing_ok=True)
    return done


def _edited(old: VirtualServerDocument, path: Path) -> VirtualServerDocument:
    """What the operator makes of the file; a document with an error can be edited again."""
    before = render_virtual_server(old)
    while True:
        _edit(str(path))
        try:
            new = parse_virtual_server(read(str(path)))
        except HalbError as error:
            report(error)
            _agree("Edit it again?")
            continue
        after = render_virtual_server(new)
        lines = difference(before, after, f"{old.name} now", f"{old.name} edited")
        if not lines:
            raise Refused("nothing was changed")
        for line in painted(lines, Paint.for_stream(sys.stderr)):
            print(line, file=sys.stderr)
        _agree("Apply this?")
        return new


def _agree(question: str) -> None:
    if not typer.confirm(question, err=True, default=True):
        raise Refused("nothing was changed")


def _edit(path: str) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        ended = subprocess.run([*shlex.split(editor), path], check=False)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"the editor {editor!r} does not start: {error}", "Set EDITOR."
        ) from error
    if ended.returncode:
        note(f"{editor} ended with {ended.returncode}")
        raise Refused("nothing was changed")
