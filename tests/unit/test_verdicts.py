"""No test of the kernel is judged by a machine that stood still."""

from __future__ import annotations

import os
import time

import pytest

from tests import verdicts

pytest_plugins = ["pytester"]

PREAMBLE = """
import os, signal, time
import pytest
from tests.verdicts import watch

def stand_still():
    '''As if the machine did: the clocks run again only after 0.2 s.'''
    began = time.monotonic()
    while not watch().still(began):
        os.kill(watch().process.pid, signal.SIGSTOP)
        time.sleep(0.2)
        os.kill(watch().process.pid, signal.SIGCONT)
        time.sleep(0.05)

judged = []
"""
DISTURBED_ONCE = """
@pytest.mark.kernel
def test_disturbed_once():
    judged.append(1)
    if len(judged) == 1:
        stand_still()
        assert False, "too late"
"""
FAULT = """
@pytest.mark.kernel
def test_fault():
    stand_still()
    assert False, "a fault"
"""
ELSEWHERE = """
def test_elsewhere():
    judged.append(1)
    stand_still()
    assert len(judged) > 1
"""
RARE_FAULT = """
@pytest.mark.kernel
def test_rare_fault():
    judged.append(1)
    assert len(judged) > 1
"""
PLAIN_FAULT = """
@pytest.mark.kernel
def test_plain_fault():
    assert False
"""
FIXTURE = """
made = []

@pytest.fixture(scope="module")
def site():
    made.append(1)
    yield len(made)

@pytest.mark.kernel
def test_before(site):
    assert site == 1

@pytest.mark.kernel
def test_disturbed_once(site):
    if site == 1:
        stand_still()
        assert False, "the Site is not as it was"
"""


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "PATIENCE_S", 0.0)


def run(pytester: pytest.Pytester, test: str) -> pytest.RunResult:
    """Run a file of tests with the plugin, which pytest may not rewrite: it is imported here."""
    pytester.makeini("[pytest]\nmarkers = kernel")
    pytester.makepyfile(PREAMBLE + test)
    plugins = ("-p", "tests.verdicts", "-p", "no:cacheprovider", "-p", "no:warnings")
    return pytester.runpytest_inprocess(*plugins, "--timeout", "10")


def test_a_failure_while_the_machine_stood_still_is_judged_again(
    pytester: pytest.Pytester,
) -> None:
    result = run(pytester, DISTURBED_ONCE)
    assert result.parseoutcomes() == {"passed": 1, "judged": 1}
    result.stdout.fnmatch_lines(["*test_disturbed_once: judged again: *stood still for * ms*"])
    assert result.ret == 0


def test_what_the_failed_test_left_does_not_decide_the_next_verdict(
    pytester: pytest.Pytester,
) -> None:
    assert run(pytester, FIXTURE).parseoutcomes() == {"passed": 2, "judged": 1}


def test_a_fault_stays_a_failure(pytester: pytest.Pytester) -> None:
    result = run(pytester, FAULT)
    assert result.parseoutcomes() == {"failed": 1, "judged": 4}
    assert result.ret == 1


def test_tests_that_need_no_real_time_are_judged_once(pytester: pytest.Pytester) -> None:
    assert run(pytester, ELSEWHERE).parseoutcomes() == {"failed": 1}


def test_a_failure_that_does_not_come_again_is_told(pytester: pytest.Pytester) -> None:
    result = run(pytester, RARE_FAULT)
    assert result.parseoutcomes() == {"passed": 1, "judged": 1}
    result.stdout.fnmatch_lines(["*test_rare_fault: judged again: *"])


def test_one_that_comes_again_is_a_failure(pytester: pytest.Pytester) -> None:
    assert run(pytester, PLAIN_FAULT).parseoutcomes()["failed"] == 1


def test_what_the_clocks_say_while_somebody_reads_is_neither_lost_nor_mixed_up() -> None:
    watch = verdicts.Watch()
    now = time.monotonic()
    # From here on they say what the test says, in the file that they were given as their output.
    watch.process.terminate()
    watch.process.wait()
    with open(f"/proc/self/fd/{watch.output}", "rb") as reader:
        for late in (700.5, 600.5):
            os.lseek(watch.output, 0, os.SEEK_SET)
            os.write(watch.output, f"{now} {late}\n".encode())
        os.write(watch.output, f"{now} 8".encode())
        assert reader.read().endswith(f"{now} 700.5\n{now} 600.5\n{now} 8".encode())
    assert watch.still(now) == 700.5
    watch.close()
