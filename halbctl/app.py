"""The tree of commands. Only the one that argv names is imported and built.

Typer inspects each function that it makes a command of, about a millisecond
apiece, and a command's module imports what it needs; so :class:`Root` keeps a
table of names and asks Typer for one command at a time.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from halbctl.settings import EPILOG, global_options

AREAS: dict[str, tuple[str, ...]] = {
    "cluster": ("init", "join", "leave"),
    "token": (),
    "operator": (),
    "status": ("status",),
    "device": (),
    "vs": (),
    "listener": (),
    "gateway": (),
    "document": ("apply", "diff", "export"),
    "promote": ("promote",),
    "failover": ("failover",),
    "explain": ("explain", "matrix"),
    "traffic": ("top", "metrics"),
    "trace": ("trace",),
    "history": ("history", "events"),
    "conflicts": ("conflicts",),
    "doctor": ("doctor",),
    "recover": ("recover",),
    "version": ("version",),
    "lab": (),
}
"""Modules of halbctl.commands, with their commands; none: the module is one group."""

MODULE_OF = {name: area for area, names in AREAS.items() for name in names or (area,)}


def accept_global_options(command: Any, *, hidden: bool = True) -> None:
    """Let ``command`` take the global options, except any that it defines itself."""
    taken = {opt for param in command.params for opt in param.opts}
    command.params += [o for o in global_options(hidden=hidden) if taken.isdisjoint(o.opts)]
    if hidden:
        command.epilog = command.epilog or EPILOG


class Area(TyperGroup):
    """A group of commands; without a command it prints its help."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        for command in self.commands.values():
            accept_global_options(command)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)


class Root(Area):
    """The top of the tree: knows its commands by name, and builds one when asked."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        self.commands = dict.fromkeys(MODULE_OF, TyperCommand(None))
        accept_global_options(self, hidden=False)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        area = MODULE_OF.get(cmd_name)
        if area is None:
            return None
        group = get_group(import_module(f"halbctl.commands.{area}").app)
        if AREAS[area]:
            return group.commands[cmd_name]
        accept_global_options(group)
        return group


def area(help: str = "") -> typer.Typer:
    """A Typer for one module of halbctl.commands, to be its ``app``."""
    return typer.Typer(
        cls=Area,
        help=help,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
    )


def command_line() -> Any:
    """The whole command line of ``halbctl``; call its ``main``."""
    app = typer.Typer(
        cls=Root,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    return get_command(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from halbctl.commands.version import halbctl_version

        typer.echo(f"halbctl {halbctl_version()}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Highly available load balancing: watch and steer a Site of HALB devices."""
