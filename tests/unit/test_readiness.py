"""The service manager is told that the agent is up once it answers, and not before."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.readiness import READY, VARIABLE, tell_ready
from tests.unit.listening import refusing_port

START_S = 60.0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(START_S)
        sock.bind(str(tmp_path / "notify"))
        yield sock


def test_an_agent_that_says_it_is_up_answers(manager: socket.socket, tmp_path: Path) -> None:
    control = tmp_path / "control"
    argv = [
        *(sys.executable, "-m", "agent", "--name", "w", "--witness"),
        *("--state-dir", str(tmp_path / "state"), "--control", str(control)),
        *("--address", f"127.0.0.1:{refusing_port()}"),
    ]
    agent = subprocess.Popen(argv, env={**os.environ, VARIABLE: manager.getsockname()})
    try:
        assert manager.recv(100) == READY
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(control))
    finally:
        agent.terminate()
        assert agent.wait(START_S) == 0


def test_a_name_that_no_file_has_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(START_S)
        sock.bind("")  # the kernel chooses one
        monkeypatch.setenv(VARIABLE, "@" + sock.getsockname()[1:].decode())
        tell_ready()
        assert sock.recv(100) == READY


def test_nobody_hears_of_it_twice(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, manager.getsockname())
    tell_ready()
    tell_ready()
    manager.recv(100)
    manager.settimeout(0)
    with pytest.raises(BlockingIOError):
        manager.recv(100)
    assert VARIABLE not in os.environ, "a check would hear of it"


def test_a_manager_that_is_gone_is_said_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nobody"))
    with caplog.at_level(logging.WARNING):
        tell_ready()
    assert "the service manager is not told" in caplog.text
