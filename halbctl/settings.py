"""The options that every command takes, before or after its name."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from math import isfinite
from time import monotonic
from typing import Any

import typer
from typer.core import TyperOption

from halbctl.where import Where, Wish, chosen
from protocol.control import DEFAULT_CONTROL
from protocol.errors import InvalidInput

OUTPUTS = ("table", "json", "yaml")
MAX_TIMEOUT_S = 86_400.0
LAST_LOOK_S = 1.0
"""An answer is waited for so long also where the time that requests share is over."""
EPILOG = (
    "Global options, also here: --control PATH, --agent HOST, --key FILE,"
    " --output table|json|yaml, --timeout SECONDS."
)


@dataclass
class Settings:
    """Filled while the command line is parsed; found by commands as ``ctx.obj``."""

    line: Wish = field(default_factory=Wish)
    """Which agent the command line names."""
    environment: Wish = field(default_factory=Wish)
    output: str = "table"
    local: bool = False
    """Break glass: change the asked device only, without the Site."""
    timeout: float | None = None
    """Seconds; None: what suits the command."""
    until: float | None = None
    """End, by ``monotonic()``, of the time that several requests share."""

    @classmethod
    def from_environment(cls) -> Settings:
        settings = cls(environment=Wish.of_environment())
        if output := os.environ.get("HALB_OUTPUT"):
            settings.output = _output(output, "HALB_OUTPUT")
        return settings

    @property
    def where(self) -> Where:
        """The agent to ask; raises InvalidInput for what names none, or two."""
        return chosen(self.line, self.environment)

    def timeout_or(self, default: float) -> float:
        """Seconds for what is asked now: ``default``, or what the operator said."""
        if self.timeout is None:
            return default
        if self.until is None:
            return self.timeout
        return max(self.until - monotonic(), min(LAST_LOOK_S, self.timeout))

    def share(self) -> None:
        """Have all that is asked from now on share the time that the operator gave, if any."""
        if self.timeout is not None:
            self.until = monotonic() + self.timeout


def settings_of(ctx: typer.Context) -> Settings:
    """The settings of the command line that ``ctx`` is part of."""
    assert isinstance(ctx.obj, Settings)
    return ctx.obj


def a_number(value: float) -> float:
    """For options that are a range: NaN is within every one."""
    if not isfinite(value):
        raise InvalidInput(f"{value} is no number of seconds", "Write it as 2 or 0.5.")
    return value


def _output(value: str, source: str) -> str:
    if value not in OUTPUTS:
        raise InvalidInput(f"{source} {value!r} is not known", "Use table, json or yaml.")
    return value


def _set_control(ctx: typer.Context, _param: object, value: str | None) -> None:
    if value is not None:
        if not value:
            raise InvalidInput("--control is empty", "Name the agent's control socket.")
        settings_of(ctx).line.control = value


def _set_agent(ctx: typer.Context, _param: object, value: str | None) -> None:
    if value is not None:
        if not value:
            raise InvalidInput("--agent is empty", "Name a device, its host or its address.")
        settings_of(ctx).line.agent = value


def _set_key(ctx: typer.Context, _param: object, value: str | None) -> None:
    if value is not None:
        if not value:
            raise InvalidInput("--key is empty", "Name your key file.")
        settings_of(ctx).line.key = value


def _set_output(ctx: typer.Context, _param: object, value: str | None) -> None:
    if value is not None:
        settings_of(ctx).output = _output(value, "--output")


def _set_local(ctx: typer.Context, _param: object, value: bool) -> None:
    settings_of(ctx).local |= bool(value)


def _set_timeout(ctx: typer.Context, _param: object, value: float | None) -> None:
    if value is not None:
        if not (isfinite(value) and 0 < value <= MAX_TIMEOUT_S):
            raise InvalidInput(
                f"--timeout {value:g} is out of range", "Give seconds above 0, up to 86400."
            )
        settings_of(ctx).timeout = value


def global_options(*, hidden: bool) -> list[TyperOption]:
    """The options; hidden where the epilog names them, so that help stays short."""

    def option(*names: str, **more: Any) -> TyperOption:
        return TyperOption(param_decls=list(names), expose_value=False, hidden=hidden, **more)

    return [
        option(
            "--control",
            metavar="PATH",
            callback=_set_control,
            help=f"Control socket of the agent. [HALB_CONTROL; default: {DEFAULT_CONTROL}]",
        ),
        option(
            "--agent",
            metavar="HOST[:PORT]",
            callback=_set_agent,
            help="A device on the network, by name or address. [HALB_AGENT; default: any]",
        ),
        option(
            "--key",
            metavar="FILE",
            callback=_set_key,
            help="Your key file: command the Site over the network. [HALB_KEY]",
        ),
        option(
            "--output",
            "-o",
            metavar="table|json|yaml",
            callback=_set_output,
            help="Form of what is printed. [HALB_OUTPUT; default: table]",
        ),
        option(
            "--local",
            is_flag=True,
            callback=_set_local,
            help="Break glass: change this device only, while no coordinator can be reached.",
        ),
        option(
            "--timeout",
            metavar="SECONDS",
            type=float,
            callback=_set_timeout,
            help="Longest wait for the outcome. [default: 5, longer where the command says so]",
        ),
    ]
