"""Names that the shell completes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from protocol import api
from protocol.errors import Unreachable
from protocol.joining import failure_of
from tests.cli import recorded
from tests.cli.peer import Peer
from tests.cli.test_process import environment


def completed(peer: Peer, *words: str, shell: str = "bash") -> list[str]:
    """What a shell offers behind these words, the last of which is being written."""
    line = ["halbctl", *words]
    asks = {
        "_HALBCTL_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": " ".join(line),
        "COMP_CWORD": str(len(words)),
    }
    ran = subprocess.run(
        [sys.executable, "-c", "from halbctl.__main__ import main; main()"],
        env=environment(peer) | asks, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.stderr == ""
    return ran.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("vs", "show", ""), ["mail", "rdp", "web"]),
        (("vs", "show", "w"), ["web"]),
        (("explain", "r"), ["rdp"]),
        (("promote", "rdp", "--to", ""), ["a", "b", "w"]),
        (("device", "drain", "b"), ["b"]),
        (("gateway", "drain", "rdp", "gw"), ["gw1", "gw2"]),
        (("gateway", "drain", "nobody", ""), []),
        (("listener", "edit", "rdp", "tcp"), ["tcp/443"]),
    ],
)
def test_names_that_the_agent_knows_are_completed(
    peer: Peer, words: tuple[str, ...], offered: list[str]
) -> None:
    peer.answers[api.GetStatus] = recorded.BUSY
    assert completed(peer, *words) == offered


def test_a_new_name_is_the_operators(peer: Peer) -> None:
    peer.answers[api.GetStatus] = recorded.BUSY
    assert completed(peer, "vs", "create", "") == []


def test_where_nobody_answers_there_are_no_names_and_no_errors(peer: Peer, tmp_path: Path) -> None:
    peer.path = tmp_path / "nobody.sock"
    assert completed(peer, "vs", "show", "") == []


def test_what_is_refused_offers_nothing(peer: Peer) -> None:
    peer.answers[api.GetStatus] = failure_of(Unreachable("no"))
    assert completed(peer, "vs", "show", "") == []
