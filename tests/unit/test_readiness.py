"""The service manager is told that the agent is up once it can take over, and not before."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import readiness
from agent.readiness import READY, VARIABLE, lacking, service_manager, settle, tell_ready
from protocol.ids import DeviceId, GroupId, Revision
from protocol.view import GroupView, NodeView, Role
from tests.unit.listening import refusing_port, run

START_S = 60.0
A, B = DeviceId("a" * 16), DeviceId("b" * 16)
RDP = GroupId("1" * 16)


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


def test_a_name_that_no_file_has_is_one_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(START_S)
        sock.bind("")  # the kernel chooses one
        tell_ready("@" + sock.getsockname()[1:].decode())
        assert sock.recv(100) == READY


def test_no_program_of_a_check_is_heard_as_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/run/manager")
    assert service_manager() == "/run/manager"
    assert VARIABLE not in os.environ
    assert service_manager() == ""


def test_a_manager_that_is_gone_is_said_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        tell_ready(str(tmp_path / "nobody"))
    assert "the service manager is not told" in caplog.text


class TestLacking:
    def view(self, coordinator: DeviceId | None = A, **group: Any) -> NodeView:
        rdp = GroupView(
            **{
                "group": RDP, "role": Role.SECONDARY, "term": 3, "leader": A, "number": 1,
                "voters": (A, B), "unfit": "", **group,
            }
        )  # fmt: skip
        return NodeView((rdp,), (), Revision(3, 1), Revision(3, 1), coordinator)

    def test_a_device_that_hears_of_all_primaries_can_take_over(self) -> None:
        assert lacking(self.view(), B) == ""

    def test_it_hears_of_the_coordinator_first(self) -> None:
        assert "coordinator" in lacking(self.view(coordinator=None), B)

    def test_it_hears_of_the_primary_of_what_it_votes_on(self) -> None:
        assert RDP in lacking(self.view(leader=None), B)
        assert lacking(self.view(leader=None, voters=(A,)), B) == ""

    def test_it_may_vote(self) -> None:
        assert "vote" in lacking(self.view(role=Role.WAITING), B)

    def test_it_has_the_flows(self) -> None:
        assert lacking(self.view(behind="is being told of flows"), B) == "is being told of flows"

    def test_one_that_may_not_become_primary_is_up_all_the_same(self) -> None:
        assert lacking(self.view(unfit="drained"), B) == ""


class TestSettle:
    def test_it_waits_until_nothing_is_lacking(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(readiness, "LOOK_S", 0.001)
        answers = ["a primary", "flows", ""]
        run(settle(lambda: answers.pop(0), asyncio.Event()))
        assert not answers

    def test_its_patience_ends_with_a_word(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(readiness, "PATIENCE_S", 0.0)
        run(settle(lambda: "nobody is there", asyncio.Event()))
        assert "cannot take over yet: nobody is there" in caplog.text

    def test_an_agent_that_is_to_stop_waits_for_nothing(self) -> None:
        async def test() -> None:
            stop = asyncio.Event()
            stop.set()
            await asyncio.wait_for(settle(lambda: "for ever", stop), readiness.PATIENCE_S / 2)

        run(test())
