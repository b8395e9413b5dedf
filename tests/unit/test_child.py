"""Child processes that hold up no other thread."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

import pytest

from agent import child
from halbctl.lab.processes import start_time

Files = tuple[BinaryIO, BinaryIO, BinaryIO]


@pytest.fixture
def files() -> Iterator[Files]:
    """Standard input, output and error."""
    with ExitStack() as stack:
        made = [stack.enter_context(os.fdopen(os.memfd_create(n), "w+b")) for n in ("i", "o", "e")]
        yield made[0], made[1], made[2]


def text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode()


def test_it_reads_and_writes_the_files_and_returns_its_status(files: Files) -> None:
    files[0].write(b"question")
    files[0].seek(0)
    program = "import sys; print(sys.stdin.read()[::-1]); sys.exit('no')"
    assert child.run([sys.executable, "-c", program], *files, 60.0) == 1
    assert text(files[1]) == "noitseuq\n"
    assert text(files[2]) == "no\n"


def test_it_has_the_environment(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALB_CHILD", "near")
    program = "import os; print(os.environ['HALB_CHILD'])"
    assert child.run([sys.executable, "-c", program], *files, 60.0) == 0
    assert text(files[1]) == "near\n"


def test_a_signal_that_ended_it_counts_below_zero(files: Files) -> None:
    program = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    assert child.run([sys.executable, "-c", program], *files, 60.0) == -15


def test_a_program_that_is_not_there_is_named(files: Files) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        child.run(["no-such-program"], *files, 60.0)


@pytest.mark.parametrize("stopped", [False, True])
def test_it_does_not_outlive_a_parent_that_is_killed(tmp_path: Path, stopped: bool) -> None:
    told = tmp_path / "told"
    body = 'echo $$ >"$0.new"; mv "$0.new" "$0"; exec sleep 60'
    program = (
        "import sys; from agent import child;"
        "file = open('/dev/null', 'r+b', buffering=0);"
        f"child.run(['sh', '-c', {body!r}, sys.argv[1]], file, file, file, 60.0)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(told)])
    try:
        _until(told.exists)
        pid = int(told.read_text())
        if stopped:
            os.kill(pid, signal.SIGSTOP)
    finally:
        parent.kill()
        parent.wait()
    try:
        _until(lambda: start_time(pid) is None)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_that_does_not_end_is_killed(files: Files) -> None:
    with pytest.raises(child.TooSlow):
        child.run(["sleep", "3600"], *files, 0.05)
