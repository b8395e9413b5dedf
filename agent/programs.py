"""Checks of type ``exec``: a program of this host says whether a gateway is well.

The Site's configuration names the program, but only one that this host's own
administrator put into the checks directory is run: who may change the
configuration may not thereby run anything on every device. No shell reads the
command. A program gets no capability, limits on what it may take, and a
session of its own; when it ends or its time is up, everything that it started
is killed, also what left the session. A worker starts programs and looks for
what they left, so the loop waits for neither, and neither sees the other half done.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import shutil
import signal
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from agent import child
from agent.probes import GOOD, Answer, Cancel, Done, Verdict
from agent.worker import workers
from protocol.objects import Check

MAX_RUNNING = 16
"""Programs at one time; those that were killed and are not gone yet among them. More wait for
their turn, each for the check's interval at most."""
MAX_WAITING = 112
"""Checks that wait for their turn: half of what the agent has under way at once
(``agent.checks.MAX_IN_FLIGHT``) is left to checks of other types."""
MAX_OUTPUT = 64 * 1024
"""Bytes that a program may write."""
MAX_REASON = 160
"""Characters of its first line that become the reason."""
PROCESSES = 64
"""Processes and threads that the agent's user may have, the agent's own among them."""
LIMITS = {
    "cpu": 30, "fsize": 1 << 20, "nofile": 64, "data": 256 << 20, "core": 0,
}  # fmt: skip
"""As of prlimit(1): seconds of processor, bytes per file, files open, bytes of memory, no
core dumps."""
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SWEEP_S = 0.1
"""What was killed is collected after this time."""

_PR_SET_CHILD_SUBREAPER = 36
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

TOO_MANY = Answer(
    Verdict.UNCLEAR,
    f"{MAX_RUNNING} check programs run on this device already: more come due than end",
)


class Unusable(Exception):
    """The program cannot be run on this host; the message says why."""


class Programs:
    """Starts the programs of one directory; used by the loop's thread only."""

    def __init__(self, directory: Path, processes: int = PROCESSES) -> None:
        self._directory = directory
        self._limits = {"nproc": processes, **LIMITS}
        self._worker = workers("halb-programs")
        self._processes: set[int] = set()
        """Programs that the worker has started, until they are collected."""
        self._waiting: dict[_Turn, None] = {}
        """In the order in which they came."""
        self._prepared = False
        self._sweeping = False
        self.running = 0
        """Programs that are to be started, or were and are not gone yet with what they left."""

    def start(
        self, loop: asyncio.AbstractEventLoop, address: str, port: int, check: Check, done: Done
    ) -> Cancel:
        """In the form of :data:`agent.probes.Start`."""
        run = partial(self._run, loop, address, port, check, done)
        if self.running < MAX_RUNNING:
            return run()
        if len(self._waiting) >= MAX_WAITING:
            return loop.call_soon(done, TOO_MANY).cancel
        turn = _Turn(self._waiting, run)
        turn.wait(loop, check.interval, done)
        return turn.cancel

    def _run(
        self, loop: asyncio.AbstractEventLoop, address: str, port: int, check: Check, done: Done
    ) -> Cancel:
        try:
            argv = self._command(check.command)
            run = _Run(loop, check, done, self)
        except Unusable as error:
            answer = Answer(Verdict.UNCLEAR, str(error))
            return loop.call_soon(done, answer).cancel
        except OSError as error:
            return loop.call_soon(done, _unclear(check, error)).cancel
        self._adopt_orphans()
        self.running += 1
        job = partial(self._begin, run, argv, _environment(address, port, check))
        loop.run_in_executor(self._worker, job).add_done_callback(run.begun)
        return run.cancel

    def _begin(self, run: _Run, argv: list[str], environment: Mapping[str, str]) -> int | None:
        """In the worker: no look at what programs left comes in between."""
        pid = run.begin(argv, environment)
        if pid is not None:
            self._processes.add(pid)
        return pid

    def _command(self, command: tuple[str, ...]) -> list[str]:
        program = self._directory / command[0]
        parts = {"directory of check programs": self._directory, "check program": program}
        for what, path in parts.items():
            try:
                found = path.stat()
            except OSError as error:
                raise Unusable(f"{what} {path}: {(error.strerror or '').lower()}") from None
            if found.st_uid not in (0, os.geteuid()) or found.st_mode & _WRITABLE_BY_OTHERS:
                raise Unusable(f"{what} {path}: others than its owner may write it")
        if not os.access(program, os.X_OK) or not program.is_file():
            raise Unusable(f"check program {program}: not executable")
        return [*_confinement(self._limits), str(program), *command[1:]]

    def _adopt_orphans(self) -> None:
        """Become the parent of what a program leaves behind, to be able to end it."""
        if not self._prepared:
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            self._prepared = True

    def ended(self, loop: asyncio.AbstractEventLoop, pid: int | None) -> None:
        """The process ``pid`` was collected, if one was started; look for what it left."""
        if pid is None:
            self._gone()
            return
        self._processes.discard(pid)

        def swept(left: asyncio.Future[bool]) -> None:
            self._gone()
            self._swept(loop, left)

        loop.run_in_executor(self._worker, self._kill_orphans).add_done_callback(swept)

    def _gone(self) -> None:
        self.running -= 1
        while self._waiting and self.running < MAX_RUNNING:
            next(iter(self._waiting)).take()

    def _swept(self, loop: asyncio.AbstractEventLoop, left: asyncio.Future[bool]) -> None:
        """Done again until nothing is left: the end of one makes orphans of its children."""
        if not left.cancelled() and left.result() and not self._sweeping:
            self._sweeping = True
            loop.call_later(SWEEP_S, self._sweep_again, loop)

    def _sweep_again(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweeping = False
        swept = loop.run_in_executor(self._worker, self._kill_orphans)
        swept.add_done_callback(partial(self._swept, loop))

    def _kill_orphans(self) -> bool:
        """In the worker: kill children of ours that are in a session which is not ours; whether
        there were any."""
        own, left = os.getsid(0), False
        for pid in _children() - self._processes:
            with suppress(ProcessLookupError, ChildProcessError):
                if os.getsid(pid) == own:
                    continue  # started by another part of the agent
                left = True
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
        return left


class _Turn:
    """One check that waits until fewer programs run."""

    def __init__(self, waiting: dict[_Turn, None], run: Callable[[], Cancel]) -> None:
        self._waiting, self._run = waiting, run
        self._cancel: Cancel = lambda: None

    def wait(self, loop: asyncio.AbstractEventLoop, seconds: float, done: Done) -> None:
        """For so long at most; then ``done`` is told that there are too many."""

        def give_up() -> None:
            del self._waiting[self]
            done(TOO_MANY)

        self._waiting[self] = None
        self._cancel = loop.call_later(seconds, give_up).cancel

    def take(self) -> None:
        """It is here."""
        self.cancel()
        self._cancel = self._run()

    def cancel(self) -> None:
        """Of the turn, or of the program that has it."""
        self._waiting.pop(self, None)
        self._cancel()


def _children() -> set[int]:
    """Children of all threads of this process; none where the kernel does not list them."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            found.update(map(int, (task / "children").read_text().split()))
    return found


def _confinement(limits: Mapping[str, int]) -> list[str]:
    """The words before a command that take from it what it does not need."""
    setpriv, prlimit = shutil.which("setpriv"), shutil.which("prlimit")
    if setpriv is None or prlimit is None:
        raise Unusable("check programs need setpriv and prlimit of util-linux on this device")
    words = [setpriv, "--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all"]
    if os.geteuid() == 0:
        words.append("--bounding-set=-all")  # root would have them all again
    words += [prlimit]
    for name, most in limits.items():
        hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
        words.append(f"--{name}={most if hard == resource.RLIM_INFINITY else min(most, hard)}")
    return words


def _environment(address: str, port: int, check: Check) -> dict[str, str]:
    """All that a program is told beside its arguments."""
    return {
        "PATH": SEARCH_PATH,
        "LANG": "C.UTF-8",
        "HALB_ADDRESS": address,
        "HALB_PORT": str(port),
        "HALB_TIMEOUT": f"{check.timeout:g}",
    }


def _name_of(number: int) -> str:
    """What a signal is called; most of the real-time ones have no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _unclear(check: Check, error: OSError) -> Answer:
    reason = f"check program {check.command[0]}: {(error.strerror or 'failed').lower()}"
    return Answer(Verdict.UNCLEAR, reason)


class _Run:
    """One program under way: its process, its output, its time."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, check: Check, done: Done, programs: Programs
    ) -> None:
        """Raises OSError where no descriptor is left."""
        self._loop, self._check, self._programs = loop, check, programs
        self._done: Done | None = done
        self._output = b""
        self._pid: int | None = None
        """Of the process, from its start until it is collected."""
        self._handle = -1
        reader, self._writer = os.pipe()
        self._pipe = os.fdopen(reader, "rb", 0)
        os.set_blocking(reader, False)
        loop.add_reader(self._pipe, self._read)
        self._timer = loop.call_later(check.timeout, self._late)

    def begin(self, argv: list[str], environment: Mapping[str, str]) -> int | None:
        """In the worker: its process, or None if that is not wanted any more."""
        try:
            if self._done is None:
                return None
            with open(os.devnull, "rb") as nothing:
                files = (nothing.fileno(), self._writer, self._writer)
                pid = child.start(argv, files, environment)
        finally:
            os.close(self._writer)
        try:
            self._handle = os.pidfd_open(pid)
        except OSError:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        return pid

    def begun(self, started: asyncio.Future[int | None]) -> None:
        """It runs, or does not."""
        if started.cancelled():
            return
        error = started.exception()
        if isinstance(error, OSError):
            self._finish(_unclear(self._check, error))
        elif error is not None:
            raise error
        elif (pid := started.result()) is not None:
            self._pid = pid
            self._loop.add_reader(self._handle, self._ended)
            if self._done is None:
                self._kill()
            return
        self._programs.ended(self._loop, None)

    def _read(self) -> None:
        try:
            data = os.read(self._pipe.fileno(), MAX_OUTPUT)
        except BlockingIOError:
            return
        self._output += data
        if not data:
            self._loop.remove_reader(self._pipe)
        elif len(self._output) > MAX_OUTPUT:
            self._finish(Answer(Verdict.BAD, f"wrote more than {MAX_OUTPUT // 1024} KiB"))

    def _late(self) -> None:
        self._finish(Answer(Verdict.BAD, f"no answer in {self._check.timeout:g} s: killed"))

    def _ended(self) -> None:
        """The program itself is gone: collect it, end the rest of its session."""
        if self._done is not None:
            self._read()
        self._kill()
        pid, self._pid = self._pid, None
        assert pid is not None
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._loop.remove_reader(self._handle)
        os.close(self._handle)
        self._finish(GOOD if code == 0 else Answer(Verdict.BAD, self._reason(code)))
        self._programs.ended(self._loop, pid)

    def _reason(self, code: int) -> str:
        line = self._output.decode("utf-8", "replace").strip().partition("\n")[0]
        said = "".join(c if c.isprintable() else "?" for c in line)[:MAX_REASON]
        how = f"exit code {code}" if code > 0 else f"ended by {_name_of(-code)}"
        return f"{how}: {said}" if said else how

    def _finish(self, answer: Answer) -> None:
        done, self._done = self._done, None
        self._stop()
        if done is not None:
            done(answer)

    def cancel(self) -> None:
        """End it without an answer; harmless after the end."""
        self._done = None
        self._stop()

    def _stop(self) -> None:
        self._timer.cancel()
        if not self._pipe.closed:
            self._loop.remove_reader(self._pipe)
            self._pipe.close()
        self._kill()

    def _kill(self) -> None:
        """End the whole session; its number is ours until the program is collected."""
        if self._pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
