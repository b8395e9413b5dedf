"""What the doctor asks of the host, also where a sandbox refuses the answer."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "packaging" / "halb-agent.service"
CALLS = {"x86_64": (159, 305), "aarch64": (171, 266)}
"""Numbers of adjtimex and clock_adjtime."""

ASK = """
import ctypes, struct, sys
from agent.host_check import clock
allow, refuse = 0x7FFF0000, 0x00050001  # EPERM
first, second = map(int, sys.argv[1:])
steps = [(0x20, 0, 0, 0), (0x15, 2, 0, first), (0x15, 1, 0, second), (6, 0, 0, allow)]
code = b"".join(struct.pack("=HBBI", *each) for each in [*steps, (6, 0, 0, refuse)])
held = ctypes.create_string_buffer(code, len(code))
program = struct.pack("@HP", len(steps) + 1, ctypes.addressof(held))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
assert libc.prctl(22, 2, program, 0, 0) == 0  # seccomp, filter
for finding in clock(""):
    print(finding.state, finding.text)
"""


@pytest.mark.skipif(platform.machine() not in CALLS, reason="numbers of its calls are not known")
def test_a_sandbox_that_refuses_the_question_is_no_synchronised_clock() -> None:
    numbers = map(str, CALLS[platform.machine()])
    done = subprocess.run(
        [sys.executable, "-c", ASK, *numbers], capture_output=True, text=True, check=True
    )
    text = "this process may not ask whether the clock is synchronised: Operation not permitted"
    assert done.stdout == f"warning {text}\n"


def test_the_unit_tries_again_however_often_the_agent_failed() -> None:
    """By default systemd gives up after five starts within ten seconds."""
    unit, service = UNIT.read_text().split("[Service]")
    assert "StartLimitIntervalSec=0" in unit.splitlines()
    assert "Restart=always" in service.splitlines()


def test_the_unit_lets_the_doctor_ask_for_the_clock() -> None:
    """`@system-service` ends a process that calls what it does not name."""
    lines = UNIT.read_text().splitlines()
    assert "SystemCallFilter=adjtimex clock_adjtime" in lines
    assert not [line for line in lines if line.startswith("ProtectClock=")]
