"""``halbctl lab`` as an operator uses it, and the demonstration when it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from halbctl.lab.lifecycle import down, find, labs
from halbctl.lab.namespaces import namespaces_of_this_host
from halbctl.lab.probes import python_environment
from halbctl.lab.realm import state_root
from tests.kernel.sites import new_name

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


def lab(*args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "halbctl", "lab", *args],
        env=python_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done
    return done


def test_a_lab_is_made_broken_healed_and_removed() -> None:
    name = new_name()
    named = ("--name", name)
    try:
        lab("up", "--devices", "1", "--gateways", "1", "--ipv6", *named)
        assert name in labs()
        lab("up", *named, code=1)  # exists

        status = json.loads(lab("status", "--output", "json", *named).stdout)
        assert status["primary"] == "a"
        assert "a " in lab("status", *named).stdout

        inside = ("exec", *named, "a", "--")
        assert "10.77.0.11" in lab(*inside, "ip", "address").stdout
        seen = lab(*inside, sys.executable, "-m", "halbctl", "-o", "json", "status").stdout
        assert json.loads(seen)["device"] == "a"
        path = lab(*inside, "printenv", "PATH").stdout.strip()
        assert str(Path(sys.executable).parent) in path.split(":"), "`halbctl` is found there"
        lab("exec", *named, "zz", "--", "true", code=2)
        lab("exec", "a", *named, "--", "true", code=2)
        for command in ("crash", "start", "stop", "cont"):
            for host in ("zz", "gw1"):
                refused = lab(command, *named, host, code=2).stderr
                assert repr(host) in refused
                assert "hint:" in refused

        site = find(name)
        lab("stop", *named, "a")
        site.wait("the agent hangs", lambda: site.service("a").state == "stopped", 5)
        lab("cont", *named, "a")
        site.wait("the agent goes on", lambda: site.service("a").state == "runs", 5)

        lab("cut", *named, "a", "gw1")
        lab("cut", *named, "client")
        status = json.loads(lab("status", "--output", "json", *named).stdout)
        hosts = {host["name"]: host for host in status["hosts"]}
        assert hosts["a"]["cut_from"] == ["gw1"]
        assert not hosts["client"]["plugged"]
        lab("heal", *named)
        status = json.loads(lab("status", "--output", "json", *named).stdout)
        assert all(host["plugged"] and not host["cut_from"] for host in status["hosts"])

        assert f"lab start --name {name} a`" in lab("crash", *named, "a").stderr
        assert site.service("a").state == "ended"
        lab("start", *named, "a")
        assert site.service("a").state == "runs"

        lab("down", *named)
        lab("down", *named)  # again: no error
        assert name not in labs()
    finally:
        down(name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [0.4, 3.0])
def test_an_interrupted_demonstration_leaves_nothing(number: signal.Signals, after: float) -> None:
    name = new_name()
    # A shell starts what runs in the background with SIGINT ignored, the tests perhaps too.
    demo = subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "halbctl.lab.demo", "--name", name],
        env=python_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        folder = state_root() / name
        deadline = time.monotonic() + 30
        while not folder.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(after)  # somewhere in the middle: that is what is tested
        demo.send_signal(number)
        output, _ = demo.communicate(timeout=60)
        assert demo.returncode in (130, 128 + number), output
        assert b"Traceback" not in output
        assert not folder.exists()
        assert not any(f".{name}." in each for each in namespaces_of_this_host())
        assert not _processes_that_name(name)
    finally:
        demo.kill()
        demo.wait()
        down(name)


def _processes_that_name(name: str) -> list[str]:
    """Command lines of running processes that contain a lab's name."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"/{name}/" in line:
            found.append(line)
    return found
