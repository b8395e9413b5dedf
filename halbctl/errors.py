"""How errors reach the operator: one sentence, one remedy, one exit code."""

from __future__ import annotations

import sys
from typing import Any

from halbctl.output import Paint, clean
from protocol.errors import BY_EXIT_CODE, ExitCode, HalbError, Refused


def report(error: HalbError) -> int:
    """Print ``error`` to stderr and return the exit code that it stands for."""
    paint = Paint.for_stream(sys.stderr)
    say(paint("halb: error:", "red", "bold"), error.message)
    if error.remedy:
        say(paint("hint:", "cyan", "bold"), error.remedy)
    return int(error.exit_code)


def note(text: str) -> None:
    """Tell the operator something that is not data."""
    for line in text.splitlines():
        print(clean(line), file=sys.stderr)


def warn(text: str) -> None:
    """Warn the operator of something that ends nothing."""
    say(Paint.for_stream(sys.stderr)("halb: warning:", "yellow", "bold"), text)


class Waiting:
    """Warns of an agent that is waited for, once for each reason, however often it is tried."""

    def __init__(self) -> None:
        self._said = ""

    def lost(self, why: str) -> None:
        """It cannot be asked."""
        if why != self._said:
            warn(f"{why}; waiting for it")
        self._said = why

    def back(self) -> None:
        """It has answered."""
        self._said = ""


def say(label: str, text: str) -> None:
    """Print one labelled sentence to stderr."""
    print(label, clean(text), file=sys.stderr)


def from_failure(failure: dict[str, Any]) -> HalbError:
    """The agent's refusal (:class:`protocol.api.Failure`) as the error that it was there."""
    code = failure["exit_code"]
    known = code in ExitCode.__members__.values()
    kind = BY_EXIT_CODE.get(ExitCode(code), Refused) if known else Refused
    return kind(str(failure["message"]), str(failure["remedy"]))


def usage(error: Any) -> int:
    """Print an error of the command line itself, as Typer found it."""
    context = getattr(error, "ctx", None)
    report(HalbError(error.format_message().strip().rstrip("."), _shown_use(context)))
    return int(error.exit_code)


def _shown_use(context: Any) -> str:
    if not context:
        return ""
    pieces = " ".join(context.command.collect_usage_pieces(context))
    return f"Use `{context.command_path} {pieces}`; `--help` says more."
