"""pytest plugin: no verdict on a machine that stood still, and none on one failure.

What HALB promises in milliseconds, it promises to devices whose processors run. Where
the host of a virtual machine takes a processor away for a third of a second, healthy
agents rightly elect another primary, and a test of a whole Site that fails then has
judged the machine. So a clock ticks on each processor beside the tests marked
``kernel``. One that fails is judged again, with all its fixtures made anew and when the
ticks have been in time for a while. It has failed after two failures during which no
tick came :data:`~tests.ticks.LATE_S` late, or after :data:`VERDICTS` in all. The summary
tells each failure that did not count: one on a machine that ran is a fault of the test
or of HALB, to be found.

Load it with ``-p tests.verdicts``, as scripts/test does.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from tests import ticks

VERDICTS, STEADY_VERDICTS = 5, 2
CALM_S = 3.0
"""How long the ticks must have been in time before a test is judged again..."""
PATIENCE_S = 30.0
"""...which is waited for no longer than this."""
AGAIN = "judged again"


class Watch:
    """Clocks in a process of their own, which ends with this one."""

    def __init__(self) -> None:
        self._told = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in `close`
        # Who reads it moves the place in the file, also for the clocks: they write to its end.
        fcntl.fcntl(self._told, fcntl.F_SETFL, os.O_APPEND)
        self.output = self._told.fileno()
        argv = [sys.executable, str(Path(ticks.__file__))]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=self._told)

    def close(self) -> None:
        """Stop the clocks."""
        self.process.communicate()
        self._told.close()

    def still(self, since: float) -> float:
        """For how long, in seconds, a processor stood still at most after ``since`` (monotonic)."""
        self._told.seek(0)
        # Without a line that is being written.
        whole, _, _ = self._told.read().rpartition("\n")
        told = [tuple(map(float, line.split())) for line in whole.splitlines()]
        return max((late for came, late in told if came >= since), default=0.0)

    def wait_calm(self) -> None:
        """Wait until the processors have run for a while, but not for ever."""
        deadline = time.monotonic() + PATIENCE_S
        while self.still(time.monotonic() - CALM_S) and time.monotonic() < deadline:
            time.sleep(0.1)


@cache
def watch() -> Watch:
    """The clocks of this process, started when first asked for."""
    return Watch()


def pytest_unconfigure() -> None:
    """Stop the clocks, if any test asked for them."""
    if watch.cache_info().currsize:
        watch().close()
        watch.cache_clear()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test of the kernel until a verdict counts."""
    if item.get_closest_marker("kernel") is None:
        return None
    clocks = watch()
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    steady = 0
    for left in reversed(range(VERDICTS)):
        began = time.monotonic()
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        still = clocks.still(began)
        failed = next((report for report in reports if report.failed), None)
        steady += not still
        if failed is None or steady == STEADY_VERDICTS or not left:
            break
        _discard(item, failed, still)
        # What the failed test left behind must not decide the next verdict.
        item.session._setupstate.teardown_exact(None)
        clocks.wait_calm()
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _discard(item: pytest.Item, report: pytest.TestReport, still: float) -> None:
    report.outcome = AGAIN  # type: ignore[assignment]
    why = f"a processor stood still for {still * 1000:.0f} ms" if still else "find out why"
    report.sections.append((AGAIN, why))
    item.ihook.pytest_runtest_logreport(report=report)


def pytest_report_teststatus(
    report: pytest.CollectReport | pytest.TestReport,
) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """Show a verdict that did not count as an ``R``."""
    if report.outcome != AGAIN:
        return None
    return AGAIN, "R", (AGAIN.upper(), {"yellow": True})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell each verdict that did not count, and why."""
    for report in terminalreporter.getreports(AGAIN):
        reason = dict(report.sections)[AGAIN]
        terminalreporter.write_sep("_", f"{report.nodeid}: {AGAIN}: {reason}", yellow=True)
        terminalreporter.write_line(report.longreprtext)
