"""``halbctl vs``: the Virtual Servers."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Annotated, Literal

import typer

from halbctl import completion
from halbctl.app import area
from halbctl.arguments import IfRevision, Sticky, VirtualServer
from halbctl.output import Paint, clean, emit
from halbctl.screens import virtual_server_block, virtual_server_table
from halbctl.session import (
    change,
    change_if_confirmed,
    finish,
    get_status,
    get_virtual_server,
    put_edited,
)
from halbctl.settings import settings_of
from protocol.errors import InvalidInput

app = area("Make, show, edit and delete Virtual Servers.")

Name = Annotated[str, typer.Argument(metavar="VS")]
Vips = Annotated[
    list[str] | None,
    typer.Option("--vip", metavar="ADDRESS/PREFIX", help="A VIP and its network. Repeat."),
]
Tcp = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PORT[:PORT]|no",
        help="A TCP listener[:port on the gateways], FIRST-LAST or all. Repeat.",
    ),
]
Udp = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PORT[:PORT]|no",
        help="A UDP listener[:port on the gateways], FIRST-LAST or all. Repeat.",
    ),
]
Devices = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        metavar="NAME|all",
        help="May carry it, in order of rank. Repeat.",
        autocompletion=completion.devices,
    ),
]
Witnesses = Annotated[
    list[str] | None,
    typer.Option(
        "--witness",
        metavar="NAME|no",
        help="Votes only. Repeat.",
        autocompletion=completion.devices,
    ),
]
Arbiter = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS|no", help="Of two devices, who reaches it may serve alone."),
]
OnPeerLoss = Annotated[
    Literal["serve", "hold", "no"] | None,
    typer.Option(help="Of two devices, one serves alone, or waits for an operator."),
]
WaitForPeer = Annotated[
    bool | None,
    typer.Option(
        "--wait-for-peer/--no-wait-for-peer",
        help="One of two that starts waits for the other. [default: wait]",
    ),
]
Profile = Annotated[
    Literal["fast", "normal", "calm", "wan"] | None,
    typer.Option(help="How fast it fails over."),
]
Forwarding = Annotated[
    Literal["snat", "routed", "dsr"] | None,
    typer.Option(help="How packets reach the gateways, and answers come back."),
]
InnerVips = Annotated[
    list[str] | None,
    typer.Option(
        "--inner-vip",
        metavar="ADDRESS/PREFIX|no",
        help="Of routed: the gateways' router. Repeat.",
    ),
]
VirtualMac = Annotated[
    str | None,
    typer.Option(metavar="auto|MAC|no", help="The VIPs keep this address, whoever is primary."),
]
Balance = Annotated[
    Literal["hash", "source-hash", "round-robin", "random", "least-connections"] | None,
    typer.Option(help="How its listeners share new connections among the gateways."),
]
SlowStart = Annotated[
    str | None,
    typer.Option(metavar="TIME|no", help="A gateway that came back grows to its share in it."),
]
Preempt = Annotated[
    str | None,
    typer.Option(
        metavar="TIME|never",
        help="Hand over to a better-ranked device that was fit for so long, such as 60s.",
    ),
]


@app.command()
def create(
    ctx: typer.Context,
    name: Name,
    vip: Vips = None,
    tcp: Tcp = None,
    udp: Udp = None,
    gateway: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=ADDRESS[:WEIGHT]", help="[IPv6]:WEIGHT in brackets. Repeat."),
    ] = None,
    device: Devices = None,
    witness: Witnesses = None,
    arbiter: Arbiter = None,
    on_peer_loss: OnPeerLoss = None,
    wait_for_peer: WaitForPeer = None,
    profile: Profile = None,
    forwarding: Forwarding = None,
    inner_vip: InnerVips = None,
    virtual_mac: VirtualMac = None,
    balance: Balance = None,
    sticky: Sticky = None,
    slow_start: SlowStart = None,
    preempt: Preempt = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Check gateways on each TCP listener.")
    ] = True,
    if_revision: IfRevision = None,
) -> None:
    """Make a Virtual Server.

    \b
    halbctl vs create web --vip 10.77.0.100/24 --tcp 443 \\
        --gateway gw1=10.77.0.31:2 --gateway gw2=10.77.0.32
    """
    from halbctl.flags import listed, parse_gateway, replace_listeners, seconds, shared
    from protocol.changes import PutVirtualServer
    from protocol.document import VirtualServerDocument
    from protocol.timing import Profile as SiteProfile

    document = VirtualServerDocument(
        name=name,
        vips=tuple(vip or ()),
        devices=listed((), device, "all"),
        witnesses=listed((), witness, "no"),
        arbiter=None if arbiter == "no" else arbiter,
        on_peer_loss=None if on_peer_loss == "no" else on_peer_loss,
        wait_for_peer=wait_for_peer is not False,
        profile=SiteProfile(profile or SiteProfile.NORMAL),
        forwarding=forwarding or "snat",
        inner_vips=listed((), inner_vip, "no"),
        virtual_mac=None if virtual_mac == "no" else virtual_mac,
        preempt=None if preempt == "never" else preempt,
        gateways=tuple(map(parse_gateway, gateway or ())),
        slow_start=seconds("--slow-start", slow_start or "no"),
        listeners=shared(replace_listeners((), tcp, udp, check=check), balance, sticky),
    )
    finish(ctx, change(ctx, PutVirtualServer(document, "create"), if_revision))


@app.command("list")
def list_(ctx: typer.Context) -> None:
    """List the Virtual Servers."""
    found = get_status(ctx)["virtual_servers"]
    lines = virtual_server_table(found, time.time(), Paint.for_stream(sys.stdout))
    nothing = "no Virtual Servers: `halbctl vs create` or `halbctl apply` makes some"
    emit(found, settings_of(ctx).output, lines, nothing)


@app.command()
def show(ctx: typer.Context, name: VirtualServer) -> None:
    """Show one Virtual Server, and its traffic here."""
    from halbctl.traffic import get_counters, of_server, traffic_lines

    status = get_status(ctx)
    found = next((vs for vs in status["virtual_servers"] if vs["name"] == name), None)
    if found is None:
        from protocol.nearest import nearest

        names = [vs["name"] for vs in status["virtual_servers"]]
        raise InvalidInput(f"no Virtual Server is named {name!r}", nearest(name, names))
    states = {device["name"]: device["state"] for device in status["devices"]}
    paint = Paint.for_stream(sys.stdout)
    lines = virtual_server_block(found, states, time.time(), paint)
    counters = of_server(get_counters(ctx), name)
    traffic = None
    for counted in counters["virtual_servers"]:
        traffic = {"device": counters["device"], "at": counters["at"], **counted}
        lines += ["", f"  traffic through {clean(counters['device'])}, in total"]
        lines += traffic_lines(counters, None, paint, gateways=False, indent="  ")
    emit({**found, "traffic": traffic}, settings_of(ctx).output, lines)


@app.command()
def edit(
    ctx: typer.Context,
    name: VirtualServer,
    vip: Vips = None,
    tcp: Tcp = None,
    udp: Udp = None,
    device: Devices = None,
    witness: Witnesses = None,
    arbiter: Arbiter = None,
    on_peer_loss: OnPeerLoss = None,
    wait_for_peer: WaitForPeer = None,
    profile: Profile = None,
    forwarding: Forwarding = None,
    inner_vip: InnerVips = None,
    virtual_mac: VirtualMac = None,
    balance: Balance = None,
    sticky: Sticky = None,
    slow_start: SlowStart = None,
    preempt: Preempt = None,
    if_revision: IfRevision = None,
) -> None:
    """Change a Virtual Server: by options, or without any in $EDITOR.

    An option that may be repeated replaces the whole list of its kind. Refused
    (exit code 4) if this Virtual Server was changed meanwhile.
    """
    import msgspec

    from halbctl import flags
    from protocol.timing import Profile as SiteProfile

    revision, old = get_virtual_server(ctx, name)
    put = partial(put_edited, ctx, revision, if_revision)
    more = (balance, sticky, slow_start, forwarding, inner_vip, virtual_mac)
    given = (vip, tcp, udp, device, witness, arbiter, on_peer_loss, wait_for_peer, profile, preempt)
    if all(value is None for value in (*given, *more)):
        from halbctl.editing import edit_by_hand

        finish(ctx, edit_by_hand(old, put))
    else:
        listeners = flags.replace_listeners(old.listeners, tcp, udp)
        new = msgspec.structs.replace(
            old,
            vips=old.vips if vip is None else tuple(vip),
            devices=flags.listed(old.devices, device, "all"),
            witnesses=flags.listed(old.witnesses, witness, "no"),
            arbiter=flags.one_of_two(old.arbiter, arbiter, on_peer_loss),
            on_peer_loss=flags.one_of_two(old.on_peer_loss, on_peer_loss, arbiter),
            wait_for_peer=old.wait_for_peer if wait_for_peer is None else wait_for_peer,
            profile=old.profile if profile is None else SiteProfile(profile),
            forwarding=forwarding or old.forwarding,
            inner_vips=flags.inner_vips(old.inner_vips, forwarding, inner_vip),
            virtual_mac=None if virtual_mac == "no" else virtual_mac or old.virtual_mac,
            preempt=old.preempt if preempt is None else None if preempt == "never" else preempt,
            slow_start=flags.seconds("--slow-start", slow_start or f"{old.slow_start}s"),
            listeners=flags.shared(listeners, balance, sticky),
        )
        finish(ctx, put(new))


@app.command()
def freeze(ctx: typer.Context, name: VirtualServer, if_revision: IfRevision = None) -> None:
    """Keep it where it is. No move but `promote`, no takeover by another device."""
    from protocol.changes import FreezeVirtualServer

    finish(ctx, change(ctx, FreezeVirtualServer(name, True), if_revision))


@app.command()
def unfreeze(ctx: typer.Context, name: VirtualServer, if_revision: IfRevision = None) -> None:
    """Let it move and fail over again."""
    from protocol.changes import FreezeVirtualServer

    finish(ctx, change(ctx, FreezeVirtualServer(name, False), if_revision))


@app.command()
def delete(
    ctx: typer.Context,
    name: VirtualServer,
    if_revision: IfRevision = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a Virtual Server. Its VIPs fall silent and its connections end."""
    from protocol.changes import DeleteVirtualServer

    question = f"Delete Virtual Server {name}, with the connections through it?"
    wanted = DeleteVirtualServer(name)
    finish(ctx, change_if_confirmed(ctx, wanted, question, if_revision, yes=yes))
