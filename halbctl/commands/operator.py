"""``halbctl operator``: who may command the Site over the network."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from halbctl.app import area
from halbctl.errors import note
from halbctl.output import Paint, emit, table
from halbctl.session import ask, change, finish
from halbctl.settings import settings_of
from halbctl.where import Remote
from protocol.durations import utc
from protocol.errors import HalbError, InvalidInput, NoQuorum, Refused

app = area("Let operators in over the network by key, or keep them out.")

Name = Annotated[str, typer.Argument(metavar="NAME")]


@app.command()
def create(
    ctx: typer.Context,
    name: Name,
    file: Annotated[
        str, typer.Option("--file", "-f", metavar="FILE", help="Key file; - is stdout.")
    ] = "",
) -> None:
    """Make a key that commands the Site, and write it to NAME.key.

    No device keeps its secret half: the file is the only copy.
    """
    from halbctl import keyfile
    from halbctl.remote import new_keys
    from protocol.changes import PutOperator
    from protocol.ids import check_name

    check_name("operator", name)
    contacts = ask(ctx, {"op": "contacts"})
    public, secret = new_keys()
    devices = keyfile.contacts_of(contacts["devices"])
    key = keyfile.KeyFile(contacts["site"], contacts["site_id"], name, public, secret, devices)
    path = file or f"{name}.key"
    if path != "-":
        keyfile.create(path, key)
    try:
        change(ctx, PutOperator(name, public))
    except (InvalidInput, Refused, NoQuorum):
        if path != "-":
            os.unlink(path)
        raise
    except HalbError:
        note(f"`halbctl operator list` says whether {name} is let in; {path} is his key")
        raise
    if path == "-":
        sys.stdout.write(key.text())
    else:
        made = {
            "operator": name,
            "public_key": public,
            "file": path,
            "site": key.site,
            "devices": [device.name for device in devices],
        }
        emit(made, settings_of(ctx).output, [path])
    named = "FILE" if path == "-" else path
    note(f"operator {name} commands Site {key.site} with `halbctl --key {named} ...`")


@app.command("list")
def list_(ctx: typer.Context) -> None:
    """List the operators that are let in over the network."""
    found = ask(ctx, {"op": "operator-list"})["operators"]
    rows = [
        (each["name"], utc(each["created_at"]), each.get("by", ""), each["public_key"])
        for each in found
    ]
    lines = table(
        ("OPERATOR", "CREATED", "LET IN BY", "PUBLIC KEY"), rows, Paint.for_stream(sys.stdout)
    )
    nothing = "no operators: `halbctl operator create` lets one in"
    emit(found, settings_of(ctx).output, lines, nothing)


@app.command()
def remove(ctx: typer.Context, name: Name) -> None:
    """Let an operator in no more, nor devices with his tokens."""
    from protocol.changes import RemoveOperator

    known = ask(ctx, {"op": "operator-list"})["operators"]  # before he may have removed himself
    finish(ctx, change(ctx, RemoveOperator(name)))
    let_in = [each["name"] for each in known if each.get("by") == name]
    if let_in:
        note(f"{name} had let in {', '.join(let_in)}, who stay: `halbctl operator list`")


@app.command()
def refresh(ctx: typer.Context) -> None:
    """Bring the devices in the key file (--key) up to date."""
    from halbctl import keyfile

    where = settings_of(ctx).where
    if not isinstance(where, Remote):
        raise InvalidInput("no key file is named", "Name the one to refresh with --key FILE.")
    contacts = ask(ctx, {"op": "contacts"})
    old = keyfile.read(where.key)
    new = old.with_devices(contacts)
    if new != old:
        keyfile.rewrite(where.key, new)
    names = [device.name for device in new.devices]
    told = {"file": where.key, "site": new.site, "devices": names, "changed": new != old}
    emit(told, settings_of(ctx).output, [])
    state = "is brought up to date" if new != old else "was up to date"
    note(f"{where.key} {state}: {', '.join(names)}")
