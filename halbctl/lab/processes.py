"""The processes of a lab: started once, found again by later commands, ended for sure.

Each has a file with its id and start time, so that an id which the kernel gave
to somebody else meanwhile is never signalled.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import Refused, TimedOut

END_TIMEOUT = 10.0
"""Seconds that a killed process may take to vanish."""


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def kill(pid: int) -> None:
    """Send SIGKILL to a process, if it lives, and wait until it is gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    wait_gone(pid, END_TIMEOUT)


def wait_gone(pid: int, timeout: float) -> None:
    """Wait until a process is gone; reap it if it is our child. Raise TimedOut."""
    deadline = time.monotonic() + timeout
    while start_time(pid) is not None:
        if time.monotonic() > deadline:
            raise TimedOut(f"process {pid} did not end within {timeout:g} s")
        time.sleep(0.005)
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # started by another command: its parent reaps it


@dataclass(frozen=True)
class Service:
    """A long-running process of a lab, known by the folder of its host."""

    name: str
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def _record(self) -> Path:
        return self.folder / f"{self.name}.pid"

    @property
    def pid(self) -> int | None:
        """Its process id; None if it does not run."""
        try:
            pid, started = map(int, self._record.read_text().split())
        except (FileNotFoundError, ValueError):
            return None
        return pid if start_time(pid) == started else None

    @property
    def state(self) -> str:
        """``runs``, ``stopped`` (SIGSTOP) or ``ended``."""
        pid = self.pid
        if pid is None:
            return "ended"
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return "stopped" if letter in "tT" else "runs"

    def start(self, argv: Sequence[str], env: dict[str, str]) -> None:
        """Start it, output to :attr:`log`, in a session of its own: Ctrl-C does not reach it."""
        if self.pid is not None:
            raise Refused(f"{self.name} runs already (process {self.pid})")
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )
        process.returncode = 0  # it outlives this command on purpose: no warning about it
        self._record.write_text(f"{process.pid} {start_time(process.pid) or 0}\n")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; raise Refused if it does not run."""
        pid = self.pid
        if pid is None:
            raise Refused(f"{self.name} does not run", f"Its log is {self.log}.")
        os.kill(pid, number)

    def kill(self) -> None:
        """End it at once, if it runs."""
        pid = self.pid
        if pid is not None:
            kill(pid)

    def terminate(self, timeout: float) -> None:
        """Ask it to end (SIGTERM) and wait; raise TimedOut if it does not."""
        pid = self.pid
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            wait_gone(pid, timeout)

    def wait_for_line(self, text: str, timeout: float) -> None:
        """Wait until its log contains ``text``; raise Refused if it ends before that."""
        deadline = time.monotonic() + timeout
        while text not in self.log.read_text(errors="replace"):
            if self.pid is None or time.monotonic() > deadline:
                raise Refused(f"{self.name} did not start: {self.tail()}", f"See {self.log}.")
            time.sleep(0.02)

    def tail(self, lines: int = 5) -> str:
        """The end of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"
