"""`scripts/setup`: what it says and does on a machine that lacks something.

The script runs in a copy of its own, in a folder whose name has a space; `apt-get` and the
environment's Python are programs of the tests, which write down what they are asked for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("scripts/setup", "requirements-dev.txt", "pyproject.toml")
TOOL = "a-tool-of-the-tests"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root installs packages")


@dataclass(frozen=True)
class Machine:
    """A checkout, and the programs on its machine's path."""

    checkout: Path
    programs: Path

    @property
    def asked(self) -> list[str]:
        """Calls of the programs of the tests so far."""
        log = self.programs / "log"
        return log.read_text().splitlines() if log.exists() else []

    def program(self, path: Path, script: str = "") -> None:
        """A program that writes down how it is called, and then does as ``script`` says."""
        path.parent.mkdir(parents=True, exist_ok=True)
        log = f'echo "$(basename "$0") $*" >>"{self.programs}/log"'
        path.write_text(f"#!/bin/sh\n{log}\n{script}\n")
        path.chmod(0o755)

    def apt(self, script: str) -> None:
        self.program(self.programs / "apt-get", script)

    def setup(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run the script from a folder that is not the checkout."""
        env = {"PATH": f"{self.programs}:{os.environ['PATH']}"}
        env["HALB_PYTHON"] = str(self.programs / "another-python")
        argv = [str(self.checkout / "scripts/setup"), *args]
        return subprocess.run(
            argv, capture_output=True, check=False, text=True, env=env, cwd=self.programs
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """All is there but the packages of Python."""
    made = Machine(tmp_path / "check out", tmp_path / "programs")
    for name in FILES:
        path = made.checkout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, path)
    for tool in ("nft", "ip"):
        made.program(made.programs / tool)
    made.program(made.programs / "ldconfig", "echo libnftables.so.1")
    made.program(made.checkout / ".venv/bin/python")
    made.program(made.programs / "another-python")
    made.apt("exit 1")
    return made


def test_it_prints_the_environment_alone_and_the_second_time_does_nothing(machine: Machine) -> None:
    venv = f"{machine.checkout}/.venv\n"
    first = machine.setup()
    assert (first.returncode, first.stdout) == (0, venv)
    calls = [call for call in machine.asked if call.startswith("python ")]
    assert len(calls) == 2
    assert all("pip" in call for call in calls)
    assert calls[1].endswith(f"--editable {machine.checkout}")
    second = machine.setup()
    assert (second.returncode, second.stdout, second.stderr) == (0, venv, "")
    assert [call for call in machine.asked if call.startswith("python ")] == calls


def test_an_environment_that_moved_with_its_checkout_is_made_anew(machine: Machine) -> None:
    machine.setup()
    moved = Machine(
        machine.checkout.rename(machine.programs.parent / "else where"), machine.programs
    )
    venv = f"{moved.checkout}/.venv"
    done = moved.setup()
    assert (done.returncode, done.stdout) == (0, f"{venv}\n")
    made = [call for call in moved.asked if "-m venv" in call]
    assert made == [f"another-python -m venv --clear {venv}"]
    assert moved.setup().stderr == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root installs it")
def test_who_may_not_install_is_told_the_command(machine: Machine) -> None:
    told = machine.setup(TOOL)
    assert (told.returncode, told.stdout) == (1, "")
    assert f"missing: {TOOL}. Install it with: sudo sh -c 'apt-get update && " in told.stderr
    assert f" {TOOL}'" in told.stderr
    assert not any(call.startswith("apt-get") for call in machine.asked)


@as_root
def test_what_the_caller_runs_is_installed_though_a_source_of_packages_fails(
    machine: Machine,
) -> None:
    install = f'echo Unpacking; cp "{machine.programs}/ip" "{machine.programs}/{TOOL}"'
    fail = 'echo "E: no such host" >&2; exit 100'
    machine.apt(f'case "$*" in *update*) {fail} ;; *) {install} ;; esac')
    done = machine.setup(TOOL)
    assert (done.returncode, done.stdout) == (0, f"{machine.checkout}/.venv\n")
    assert "E: no such host" in done.stderr
    assert "Unpacking" not in done.stderr
    asked = [call for call in machine.asked if call.startswith("apt-get install")]
    assert len(asked) == 1
    assert f" {TOOL}" in asked[0]


@as_root
def test_a_failed_installation_is_said_to_be_one(machine: Machine) -> None:
    machine.apt("echo 'E: Unable to locate package' >&2; exit 100")
    failed = machine.setup(TOOL)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "E: Unable to locate package" in failed.stderr
    assert "apt-get could not install" in failed.stderr


@as_root
def test_what_is_still_missing_is_named(machine: Machine) -> None:
    machine.apt("exit 0")
    failed = machine.setup(TOOL)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert f"still missing after the installation: {TOOL}" in failed.stderr
