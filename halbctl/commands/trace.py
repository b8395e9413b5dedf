"""``halbctl trace``: which gateway a flow goes to, and why."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from halbctl import completion
from halbctl.app import area
from halbctl.output import Paint, clean, emit
from halbctl.session import ask
from halbctl.settings import settings_of

if TYPE_CHECKING:
    from halbctl.replies import Traced

app = area()


@app.command()
def trace(
    ctx: typer.Context,
    client: Annotated[str, typer.Argument(metavar="CLIENT:PORT")],
    vs: Annotated[
        str, typer.Argument(metavar="VS[:PORT]", autocompletion=completion.virtual_servers)
    ],
    protocol: Annotated[
        Literal["tcp", "udp"] | None,
        typer.Option(help="Where both listen on the port. [default: tcp]"),
    ] = None,
) -> None:
    """Say which gateway a client's flow goes to, and why. By this device's rules.

    \b
    halbctl trace 192.0.2.7:51000 web:443
    halbctl trace '[2001:db8::7]:51000' web:443
    """
    from halbctl.flags import parse_client, parse_target

    address, port = parse_client(client)
    name, listener = parse_target(vs)
    asked = {"client": address, "port": port, "virtual_server": name, "listener": listener}
    found = ask(ctx, {"op": "trace", **asked, "protocol": protocol})
    paint = Paint.for_stream(sys.stdout)
    emit(found, settings_of(ctx).output, trace_lines(cast("Traced", found), paint))


def trace_lines(found: Traced, paint: Paint) -> list[str]:
    """The answer for people."""
    ends = {"refused": "nobody: it is refused", "turn": "a gateway that the next packet decides"}
    target = ends.get(found["how"], "any gateway with room")
    if found["gateway"] is not None:
        target = f"{found['gateway']} ({found['address']})"
    style = "red" if found["how"] == "refused" else "green"
    # An agent of another release may not say to which VIP its connection is.
    vip = found.get("connection_vip") or found["vip"]
    flow = f"{found['client']} -> {vip} {found['listener']}"
    lines = [f"{clean(flow)} goes to {paint(clean(target), style, 'bold')}"]
    lines += (f"  {clean(reason)}" for reason in found["why"])
    if found["primary"] != found["device"]:
        primary = found["primary"] or "nobody"
        lines.append(f"  as {clean(found['device'])} would do it; the primary is {clean(primary)}")
    return lines
