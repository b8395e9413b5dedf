"""``halbctl listener``: the ports of a Virtual Server, and how their connections are treated."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from halbctl import completion
from halbctl.app import area
from halbctl.arguments import IfRevision, Sticky, VirtualServer
from halbctl.output import Paint, emit
from halbctl.session import finish, get_virtual_server, put_edited
from halbctl.settings import settings_of
from protocol.errors import InvalidInput

if TYPE_CHECKING:
    from protocol.document import VirtualServerDocument
    from protocol.listener_document import ListenerDocument

app = area("List, add, edit and remove the listeners of a Virtual Server.")

Listeners = Annotated[
    list[str],
    typer.Argument(
        metavar="LISTENER...|all", help="Such as tcp/443.", autocompletion=completion.listeners
    ),
]
Policy = Annotated[
    Literal["hash", "source-hash", "round-robin", "random", "least-connections"] | None,
    typer.Option(help="How new connections are shared among the gateways."),
]
ClientConnections = Annotated[
    int | None, typer.Option(metavar="N", help="Most of one client address; 0 for any number.")
]
ClientRate = Annotated[
    int | None, typer.Option(metavar="N", help="Most new ones of a client in a second; 0: any.")
]
Passive = Annotated[
    bool | None,
    typer.Option("--passive/--no-passive", help="Check at once what does not answer clients."),
]
CheckType = Annotated[
    Literal["tcp", "tls", "http", "https", "udp", "exec", "none"] | None,
    typer.Option(help="How gateways are checked."),
]
Verify = Annotated[
    bool | None,
    typer.Option("--check-verify/--no-check-verify", help="Who vouches for the certificate."),
]
Days = Annotated[int | None, typer.Option(metavar="DAYS")]
Statuses = Annotated[str | None, typer.Option(metavar="STATUS", help="Such as 200-299,301.")]
Command = Annotated[
    str | None, typer.Option(metavar="WORDS", help="A program of the checks directory.")
]
Port = Annotated[int | None, typer.Option(metavar="PORT")]
CheckPort = Annotated[
    int | None, typer.Option(metavar="PORT", help="Another than the gateways serve; 0: that one.")
]
Seconds = Annotated[float | None, typer.Option(metavar="SECONDS")]
Number = Annotated[int | None, typer.Option(metavar="N")]
Text = Annotated[str | None, typer.Option(metavar="TEXT")]


@app.command("list")
def list_(ctx: typer.Context, vs: VirtualServer) -> None:
    """List the listeners, with the check that applies to each."""
    from halbctl.listeners import as_data, lines

    _, server = get_virtual_server(ctx, vs)
    found = as_data(server.listeners)
    shown = lines(found, Paint.for_stream(sys.stdout))
    emit(found, settings_of(ctx).output, shown, f"{vs} has no listener")


@app.command()
def add(
    ctx: typer.Context,
    vs: VirtualServer,
    listener: Annotated[str, typer.Argument(metavar="PROTOCOL/PORT[:PORT]")],
    if_revision: IfRevision = None,
) -> None:
    """Add a listener.

    tcp/443, tcp/443:8443 where gateways use 8443, udp/3000-3010, or tcp/all.
    """
    from halbctl.listeners import parse

    revision, server = get_virtual_server(ctx, vs)
    _put(ctx, revision, if_revision, server, (*server.listeners, parse(listener)))


@app.command()
def remove(
    ctx: typer.Context, vs: VirtualServer, listener: Listeners, if_revision: IfRevision = None
) -> None:
    """Remove listeners. Their connections end."""
    from halbctl.listeners import chosen

    revision, server = get_virtual_server(ctx, vs)
    gone = chosen(server.listeners, listener, vs)
    left = tuple(item for item in server.listeners if item not in gone)
    _put(ctx, revision, if_revision, server, left)


@app.command()
def edit(
    ctx: typer.Context,
    vs: VirtualServer,
    listener: Listeners,
    gateway_port: Port = None,
    balance: Policy = None,
    sticky: Sticky = None,
    client_connections: ClientConnections = None,
    client_rate: ClientRate = None,
    passive: Passive = None,
    check: CheckType = None,
    check_interval: Seconds = None,
    check_timeout: Seconds = None,
    check_fall: Number = None,
    check_rise: Number = None,
    check_port: CheckPort = None,
    check_name: Text = None,
    check_verify: Verify = None,
    check_expires_within: Days = None,
    check_path: Text = None,
    check_status: Statuses = None,
    check_body: Text = None,
    check_payload: Text = None,
    check_reply: Text = None,
    check_command: Command = None,
    if_revision: IfRevision = None,
) -> None:
    """Change listeners, and how gateways are checked by them.

    \b
    halbctl listener edit web tcp/443 --check https --check-path /health
    """
    from halbctl.listeners import chosen, edited, words

    fields = _given(
        gateway_port=gateway_port, balance=balance, sticky=_seconds(sticky), passive=passive,
        client_connections=client_connections, client_rate=client_rate,
    )  # fmt: skip
    of_check = _given(
        type=check, interval=check_interval, timeout=check_timeout, fall=check_fall,
        rise=check_rise, port=check_port, name=check_name, verify=check_verify,
        expires_within=check_expires_within, path=check_path, status=check_status,
        body=check_body, payload=check_payload, reply=check_reply, command=words(check_command),
    )  # fmt: skip
    if not fields and not of_check:
        raise InvalidInput("nothing to change is given", "Give an option: see --help.")
    revision, server = get_virtual_server(ctx, vs)
    wanted = chosen(server.listeners, listener, vs)
    new = (edited(i, fields, of_check) if i in wanted else i for i in server.listeners)
    _put(ctx, revision, if_revision, server, tuple(new))


def _seconds(sticky: str | None) -> int | None:
    from halbctl.flags import seconds

    return None if sticky is None else seconds("--sticky", sticky)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _put(
    ctx: typer.Context,
    revision: str,
    if_revision: str | None,
    server: VirtualServerDocument,
    listeners: Sequence[ListenerDocument],
) -> None:
    import msgspec

    new = msgspec.structs.replace(server, listeners=tuple(listeners))
    finish(ctx, put_edited(ctx, revision, if_revision, new))
