"""Checks by a program of the host: bounded in time, output and processes, and never any other."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import child
from agent.probes import GOOD, Answer, Cancel, Verdict
from agent.programs import MAX_RUNNING, MAX_WAITING, TOO_MANY, Programs
from protocol.objects import Check
from tests.unit.listening import never, run, until

MANY = 100_000
"""Processes: whoever runs the tests has others."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "checks"
    made.mkdir(mode=0o755)
    return made


def program(folder: Path, text: str, name: str = "check", mode: int = 0o755) -> None:
    """Put the program there at once: one that runs cannot be written to."""
    path = folder / f"{name}.new"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    path.rename(folder / name)


async def ask(
    programs: Programs, *command: str, seconds: float = 8.0, interval: float = 2.0
) -> Answer:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Answer] = loop.create_future()
    check = Check(type="exec", command=command, timeout=seconds, interval=interval)
    programs.start(loop, "10.0.0.7", 443, check, answer.set_result)
    return await answer


def begin(programs: Programs, name: str) -> Cancel:
    """Have a program run, or wait for its turn, that is to give no answer."""
    check = Check(type="exec", command=(name,), timeout=60.0, interval=60.0)
    return programs.start(asyncio.get_running_loop(), "10.0.0.7", 443, check, never)


async def all_gone(programs: Programs) -> None:
    await until(lambda: not programs.running)


def answer_of(folder: Path, *command: str, seconds: float = 8.0) -> Answer:
    found: list[Answer] = []

    async def test() -> None:
        programs = Programs(folder, MANY)
        found.append(await ask(programs, *command, seconds=seconds))
        await all_gone(programs)

    run(test())
    return found[0]


def bad(reason: str) -> Answer:
    return Answer(Verdict.BAD, reason)


def is_told(path: Path) -> Callable[[], bool]:
    """Whether a program wrote its number: the file is there, but empty, before that."""
    return lambda: path.exists() and path.read_text().endswith("\n")


def is_gone(path: Path) -> Callable[[], bool]:
    """Whether the process whose number the file holds is no more."""
    told = is_told(path)

    def gone() -> bool:
        return told() and not Path(f"/proc/{path.read_text().strip()}").exists()

    return gone


def test_the_exit_code_decides_and_the_first_line_is_the_reason(folder: Path) -> None:
    program(folder, "exit 0")
    assert answer_of(folder, "check") == GOOD
    program(folder, "echo 'queue is full'; echo more; exit 3")
    assert answer_of(folder, "check") == bad("exit code 3: queue is full")
    program(folder, "kill -11 $$")
    assert answer_of(folder, "check") == bad("ended by SIGSEGV")
    program(folder, "kill -40 $$")
    assert answer_of(folder, "check") == bad("ended by signal 40")


def test_arguments_are_words_that_no_shell_reads(folder: Path) -> None:
    program(folder, 'echo "$#:$1:$2"; exit 1')
    assert answer_of(folder, "check", "a b", "$(id);*") == bad("exit code 1: 2:a b:$(id);*")


def test_a_program_knows_the_gateway_and_nothing_of_the_agent(folder: Path) -> None:
    program(folder, 'echo "$HALB_ADDRESS $HALB_PORT $HALB_TIMEOUT $HOME$PWD"; exit 1')
    assert answer_of(folder, "check") == bad("exit code 1: 10.0.0.7 443 8 /")


def test_a_program_has_no_capability_and_cannot_gain_one(folder: Path) -> None:
    program(
        folder, "grep -E '^(CapEff|CapAmb|NoNewPrivs)' /proc/self/status | tr '\\n\\t' '  '; exit 1"
    )
    words = answer_of(folder, "check").reason.partition(": ")[2].split()
    assert words[1::2] == ["0000000000000000", "0000000000000000", "1"]


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o644])
def test_a_program_that_others_may_write_or_none_may_run_is_not_run(
    folder: Path, mode: int
) -> None:
    program(folder, "exit 0", mode=mode)
    assert answer_of(folder, "check").verdict is Verdict.UNCLEAR


def test_a_program_that_this_host_does_not_have_says_nothing_of_the_gateway(folder: Path) -> None:
    answer = answer_of(folder, "missing")
    assert answer.verdict is Verdict.UNCLEAR
    assert f"check program {folder}/missing: no such file" in answer.reason
    nowhere = answer_of(folder / "nowhere", "missing")
    assert f"directory of check programs {folder}/nowhere: no such file" in nowhere.reason


def test_a_program_has_no_descriptor_of_the_agent_and_is_ended_by_a_pipe(folder: Path) -> None:
    program(folder, "echo $(ls /proc/self/fd) $(grep SigIgn /proc/self/status); exit 1")
    inherited = os.dup(2)
    os.set_inheritable(inherited, True)
    try:
        *words, ignored = answer_of(folder, "check").reason.partition(": ")[2].split()
    finally:
        os.close(inherited)
    # The last one is what `ls` reads with.
    assert words == ["0", "1", "2", "3", "SigIgn:"]
    assert not int(ignored, 16) & 1 << signal.SIGPIPE - 1


def test_the_loop_goes_on_while_a_program_is_started_and_one_that_is_cancelled_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(folder, "exit 0")
    starting, go_on, start = threading.Semaphore(0), threading.Event(), child.start

    def start_slowly(*args: Any) -> int:
        starting.release()
        assert go_on.wait(60.0)
        return start(*args)

    monkeypatch.setattr(child, "start", start_slowly)

    async def test() -> None:
        programs = Programs(folder, MANY)
        check = Check(type="exec", command=("check",), timeout=60.0)
        answer = asyncio.ensure_future(ask(programs, "check", seconds=60.0))
        await until(lambda: starting.acquire(blocking=False))
        cancel = programs.start(asyncio.get_running_loop(), "10.0.0.7", 1, check, never)
        cancel()
        assert programs.running == 2
        go_on.set()
        assert await answer == GOOD
        await all_gone(programs)
        assert not starting.acquire(blocking=False)

    run(test())


def test_one_that_hangs_is_killed_in_time(folder: Path, tmp_path: Path) -> None:
    program(folder, f"echo $$ > {tmp_path}/pid; exec sleep 60")

    async def test() -> None:
        began = time.monotonic()
        programs = Programs(folder, MANY)
        answer = await ask(programs, "check", seconds=2.0)
        assert answer == bad("no answer in 2 s: killed")
        assert time.monotonic() - began < 8
        await until(is_gone(tmp_path / "pid"))
        await all_gone(programs)

    run(test())


@pytest.mark.parametrize(
    ("how", "end"),
    [
        ("sleep 60 &", "exit 0"),
        ("setsid sleep 60 &", "exit 0"),
        ("(setsid sleep 60 &) &", "exit 0"),
        ("(setsid sleep 60 &) &", "sleep 60"),
    ],
)
def test_what_it_forked_dies_with_it(folder: Path, tmp_path: Path, how: str, end: str) -> None:
    inner = f"sh -c 'echo $$ > {tmp_path}/pid; exec sleep 60'"
    waiting = f"while ! [ -s {tmp_path}/pid ]; do sleep 0.01; done"
    program(folder, f"{how.replace('sleep 60', inner)}\n{waiting}\n{end}")

    async def test() -> None:
        programs = Programs(folder, MANY)
        await ask(programs, "check", seconds=4.0)
        await until(is_gone(tmp_path / "pid"))
        await all_gone(programs)

    run(test())


def test_one_that_writes_without_end_is_ended(folder: Path) -> None:
    program(folder, "exec yes")
    assert answer_of(folder, "check") == bad("wrote more than 64 KiB")


def test_a_cancelled_one_is_killed_and_says_nothing(folder: Path, tmp_path: Path) -> None:
    program(folder, f"echo $$ > {tmp_path}/pid; exec sleep 60")

    async def test() -> None:
        loop = asyncio.get_running_loop()
        check = Check(type="exec", command=("check",), timeout=8.0)
        programs = Programs(folder, MANY)
        cancel = programs.start(loop, "10.0.0.7", 1, check, never)
        await until(is_told(tmp_path / "pid"))
        cancel()
        cancel()
        await until(is_gone(tmp_path / "pid"))
        await all_gone(programs)

    run(test())


def test_more_than_may_run_at_one_time_wait_for_their_turn(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    program(folder, f"echo $$ >> {path}; exit 1")
    many = 3 * MAX_RUNNING

    async def test() -> None:
        programs = Programs(folder, MANY)
        asked = [asyncio.create_task(ask(programs, "check", interval=60.0)) for _ in range(many)]
        while not all(each.done() for each in asked):
            assert programs.running <= MAX_RUNNING
            await asyncio.sleep(0)
        assert {each.result() for each in asked} == {bad("exit code 1")}
        assert len(path.read_text().split()) == many
        await all_gone(programs)

    run(test())


def test_one_whose_turn_does_not_come_within_its_interval_says_nothing_of_the_gateway(
    folder: Path,
) -> None:
    program(folder, "exec sleep 60", "slow")

    async def test() -> None:
        programs = Programs(folder, MANY)
        slow = [begin(programs, "slow") for _ in range(MAX_RUNNING)]
        assert await ask(programs, "check", interval=0.05) == TOO_MANY
        waiting = [begin(programs, "slow") for _ in range(MAX_WAITING)]
        assert await ask(programs, "check", interval=60.0) == TOO_MANY  # at once
        for cancel in waiting + slow:
            cancel()
        await all_gone(programs)

    run(test())


def test_one_that_is_cancelled_before_its_turn_is_not_run(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    program(folder, "exec sleep 60", "slow")
    program(folder, f"touch {path}", "unwanted")
    program(folder, "exit 0")

    async def test() -> None:
        programs = Programs(folder, MANY)
        slow = [begin(programs, "slow") for _ in range(MAX_RUNNING)]
        unwanted = begin(programs, "unwanted")
        following = asyncio.create_task(ask(programs, "check", interval=60.0))
        await asyncio.sleep(0)
        unwanted()
        for cancel in slow:
            cancel()
        assert await following == GOOD
        await all_gone(programs)
        assert not path.exists()

    run(test())


def test_children_of_other_parts_of_the_agent_are_left_alone(folder: Path) -> None:
    program(folder, "exit 0")
    pid = os.posix_spawn("/bin/sleep", ["sleep", "30"], {})
    try:
        assert answer_of(folder, "check") == GOOD
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
