"""A running peer and the command line, for tests of ``halbctl``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from halbctl.__main__ import run
from tests.cli.peer import Peer


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Halbctl = Callable[..., Ran]


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A directory with a short path: a socket's may have 107 characters."""
    path = Path(tempfile.mkdtemp(prefix="halbctl-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def peer(run_dir: Path) -> Iterator[Peer]:
    with Peer(run_dir / "control.sock") as running:
        yield running


@pytest.fixture
def halbctl(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Halbctl:
    """Runs one command line against the socket of ``peer``, whether it runs or not."""
    monkeypatch.setenv("HALB_CONTROL", str(run_dir / "control.sock"))
    monkeypatch.delenv("HALB_OUTPUT", raising=False)

    def call(*argv: str) -> Ran:
        code = run(argv)
        return Ran(code, *capsys.readouterr())

    return call
