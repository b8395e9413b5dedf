"""``halbctl lab``: a whole Site on this machine, to try things in."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from halbctl.app import area
from halbctl.errors import note
from halbctl.output import Cell, Paint, emit, table
from halbctl.settings import settings_of
from protocol.errors import InvalidInput

app = area("Make a Site on this machine, break it, look, remove it.")

Name = Annotated[str, typer.Option("--name", metavar="NAME", help="Which lab.")]
Device = Annotated[str, typer.Argument(metavar="DEVICE")]
Other = Annotated[str | None, typer.Argument(metavar="[OTHER]")]


def _option(name: str) -> str:
    """What a command that is suggested needs, to mean this lab."""
    return "" if name == "lab" else f" --name {name}"


_STYLES = {"runs": "green", "stopped": "yellow", "ended": "red", "out": "red"}


@app.command()
def up(
    devices: Annotated[int, typer.Option(metavar="N", help="Devices a, b, c, ...")] = 3,
    gateways: Annotated[int, typer.Option(metavar="N", help="Gateways gw1, gw2, ...")] = 4,
    name: Name = "lab",
    witness: Annotated[bool, typer.Option("--witness", help="One more voter, no VIP.")] = False,
    ipv6: Annotated[bool, typer.Option("--ipv6", help="An IPv6 VIP too.")] = False,
) -> None:
    """Make a lab. A switch, devices with agents, gateways, a client, a Virtual Server."""
    from halbctl.lab.lifecycle import ending_signals_raise, up
    from halbctl.lab.plan import VIP, Plan
    from halbctl.lab.servers import BANNER

    with ending_signals_raise():
        site = up(Plan(name, devices, gateways, witness, ipv6), note)
    note(f"lab {name!r} serves; its first VIP is {site.plan.vips[0]}. Try:")
    option = _option(name)
    for hint in (
        f"halbctl --control {site.control('a')} status",
        f"halbctl lab exec{option} client -- bash -c 'cat </dev/tcp/{VIP}/{BANNER}'",
        f"halbctl lab crash{option} {site.primary()}",
        f"halbctl lab down{option}",
    ):
        note(f"  {hint}")


@app.command("list")
def list_(ctx: typer.Context) -> None:
    """List the labs of this user."""
    from halbctl.lab.lifecycle import labs

    found = labs()
    emit(found, settings_of(ctx).output, found, "no labs: `halbctl lab up` makes one")


@app.command()
def status(ctx: typer.Context, name: Name = "lab") -> None:
    """Show what runs in a lab, and who is cut from whom."""
    from halbctl.lab.lifecycle import find

    found = find(name).describe()
    emit(found, settings_of(ctx).output, _screen(found))


def _screen(lab: dict[str, Any]) -> list[str]:
    rows = [
        (
            host["name"],
            host["kind"],
            host["address"],
            Cell(host["process"], _STYLES.get(host["process"], "")),
            host["pid"] or "",
            Cell("" if host["plugged"] else "out", "red"),
            ", ".join(host["cut_from"]),
            host["control"],
        )
        for host in lab["hosts"]
    ]
    titles = ("HOST", "KIND", "ADDRESS", "PROCESS", "PID", "CABLE", "CUT FROM", "CONTROL")
    head = f"lab {lab['name']}   {', '.join(lab['vips'])}   primary {lab['primary'] or 'none'}"
    return [head, "", *table(titles, rows, Paint.for_stream(sys.stdout))]


@app.command(
    "exec", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True}
)
def exec_(
    host: Annotated[str, typer.Argument(metavar="HOST")],
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...")],
    name: Name = "lab",
) -> None:
    """Run a command on a host of the lab. `halbctl` in it talks to that device's agent."""
    from halbctl.lab.lifecycle import find

    # What follows HOST is the command's own, so the parser leaves a first "--" in it.
    words = command[1:] if command[0] == "--" else command
    if not words:
        raise InvalidInput(f"no command to run on {host}", "Write it after `--`.")
    if words[0].startswith("-"):
        raise InvalidInput(f"{words[0]} is no command", f"Options stand before {host}.")
    site = find(name)
    argv = site.network.within(site.plan.host(host).name, words)
    env = {**os.environ, "HALB_CONTROL": str(site.control(host))}
    # Also where it was called by its path, and no environment of Python is entered.
    env["PATH"] = os.pathsep.join((env.get("PATH", os.defpath), os.path.dirname(sys.executable)))
    for elsewhere in ("HALB_AGENT", "HALB_KEY"):
        env.pop(elsewhere, None)
    os.execvpe(argv[0], argv, env)  # noqa: S606 - this process becomes the command


@app.command()
def crash(device: Device, name: Name = "lab") -> None:
    """Power loss: pull the cable, then kill -9 the agent."""
    from halbctl.lab.lifecycle import find

    find(name).crash(device)
    note(f"{device} crashed; `halbctl lab start{_option(name)} {device}` brings it back")


@app.command()
def start(device: Device, name: Name = "lab") -> None:
    """Bring a crashed device back: cable and agent."""
    from halbctl.lab.lifecycle import find

    find(name).start(device)
    note(f"{device} is back")


@app.command()
def stop(device: Device, name: Name = "lab") -> None:
    """Freeze a device's agent (SIGSTOP): it hangs, its kernel goes on."""
    from halbctl.lab.lifecycle import find

    find(name).freeze(device)
    note(f"the agent of {device} hangs; `halbctl lab cont{_option(name)} {device}` lets it go on")


@app.command()
def cont(device: Device, name: Name = "lab") -> None:
    """Let a frozen agent go on (SIGCONT)."""
    from halbctl.lab.lifecycle import find

    find(name).thaw(device)
    note(f"the agent of {device} goes on")


@app.command()
def cut(host: Device, other: Other = None, name: Name = "lab") -> None:
    """Cut two hosts from each other only; with one host, pull its cable."""
    from halbctl.lab.lifecycle import find

    find(name).cut(host, other)
    note(f"{host} is cut from {other}" if other else f"the cable of {host} is out")


@app.command()
def heal(host: Other = None, other: Other = None, name: Name = "lab") -> None:
    """Undo cuts: between two hosts, of one host, or all."""
    from halbctl.lab.lifecycle import find

    find(name).heal(host, other)
    note("healed")


@app.command()
def down(
    name: Name = "lab",
    every: Annotated[bool, typer.Option("--all", help="All labs of this user.")] = False,
) -> None:
    """Remove a lab completely, also a half-made one. No error if there is none."""
    from halbctl.lab.lifecycle import down, labs

    for lab in labs() if every else [name]:
        note(f"lab {lab!r} is removed" if down(lab) else f"there is no lab {lab!r}")
