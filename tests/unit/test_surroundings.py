"""What starts an agent may have closed its files, and sends it signals that mean nothing to it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.unit.listening import refusing_port

START_S = 30.0
NULL = Path(os.devnull)


@contextmanager
def agent(
    folder: Path, closed: Sequence[int] = (), **files: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A witness that runs and answers, started without the files ``closed``."""
    control = folder / "control"
    argv = [
        *(sys.executable, "-m", "agent", "--name", "w", "--witness"),
        *("--state-dir", str(folder / "state"), "--control", str(control)),
        *("--address", f"127.0.0.1:{refusing_port()}"),
    ]
    closing = " ".join(f"{number}>&-" for number in closed)
    process = subprocess.Popen(["sh", "-c", f'exec "$@" {closing}', "sh", *argv], **files)
    try:
        deadline = time.monotonic() + START_S
        while not control.exists():
            assert process.poll() is None, f"ended with {process.returncode}"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("closed", [(2,), (0, 1, 2)])
def test_an_agent_without_standard_files_runs_and_uses_their_numbers_for_nothing_else(
    closed: Sequence[int], tmp_path: Path
) -> None:
    with agent(tmp_path, closed, stdin=subprocess.DEVNULL) as process:
        for number in closed:
            assert Path(f"/proc/{process.pid}/fd/{number}").readlink() == NULL
        process.terminate()
        assert process.wait(START_S) == 0


def test_a_signal_that_means_nothing_ends_no_agent(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file, agent(tmp_path, stdin=subprocess.DEVNULL, stderr=file) as process:
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
            process.send_signal(number)
            time.sleep(0.2)
            assert process.poll() is None, number.name
        assert "SIGHUP means nothing here" in log.read_text()
        process.terminate()
        assert process.wait(START_S) == 0


def test_an_agent_whose_terminal_is_closed_stops_cleanly(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        with agent(tmp_path, stdin=theirs) as process:
            process.send_signal(signal.SIGHUP)
            assert process.wait(START_S) == 0
    finally:
        os.close(ours)
        os.close(theirs)
