"""Which agent a command talks to: the one of this host, or one on the network."""

from __future__ import annotations

import os
from dataclasses import dataclass

from protocol.control import DEFAULT_CONTROL
from protocol.errors import InvalidInput


@dataclass(frozen=True)
class Remote:
    """An agent on the network."""

    key: str
    """Path of the operator's key file."""
    agent: str = ""
    """``NAME``, ``HOST`` or ``HOST:PORT``; empty: whichever device of the file answers."""


Where = str | Remote
"""The path of a control socket, or an agent on the network."""


@dataclass
class Wish:
    """What one source, the command line or the environment, says of it."""

    control: str = ""
    agent: str = ""
    key: str = ""

    @classmethod
    def of_environment(cls) -> Wish:
        """``HALB_CONTROL``, ``HALB_AGENT`` and ``HALB_KEY``."""
        names = ("HALB_CONTROL", "HALB_AGENT", "HALB_KEY")
        return cls(*(os.environ.get(name, "") for name in names))


def chosen(line: Wish, environment: Wish) -> Where:
    """What both say together; the command line overrules the environment."""
    if line.control and (line.agent or line.key):
        raise InvalidInput(
            "--control names an agent of this host, --agent and --key one on the network",
            "Give one or the other.",
        )
    if line.control:
        return line.control
    agent, key = line.agent or environment.agent, line.key or environment.key
    if environment.control and (agent or key):
        if not (line.agent or line.key):
            raise InvalidInput(
                "HALB_CONTROL names an agent of this host, HALB_AGENT and HALB_KEY one on the"
                " network",
                "Unset one or the other, or say --control or --key.",
            )
    elif environment.control:
        return environment.control
    if agent and not key:
        raise InvalidInput(
            f"agent {agent} lets nobody in without a key",
            "Name your key file with --key FILE; `halbctl operator create` makes one.",
        )
    return Remote(key, agent) if key else DEFAULT_CONTROL
