"""All types of check that the agent can make."""

from __future__ import annotations

from pathlib import Path

from agent import probes
from agent.conversations import start_of
from agent.datagrams import udp
from agent.probes import Start
from agent.programs import Programs
from agent.settings import DEFAULT_CHECKS_DIR
from agent.talks import Talks


def repertoire(checks_dir: Path = DEFAULT_CHECKS_DIR) -> dict[str, Start]:
    """How each ``type`` of :class:`protocol.objects.Check` is carried out.

    ``checks_dir`` holds the programs that checks of type ``exec`` may name.
    """
    talks = Talks()
    return {
        "tcp": probes.start_tcp,
        "tls": start_of(talks.tls),
        "http": start_of(talks.http),
        "https": start_of(talks.https),
        "udp": start_of(udp),
        "exec": Programs(checks_dir).start,
    }
