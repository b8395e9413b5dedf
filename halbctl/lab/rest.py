"""What agents cost that have nothing to do, and what asking them costs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from halbctl.lab.plan import Plan
from halbctl.lab.probes import python_environment
from halbctl.lab.processor import shares
from halbctl.lab.site import START_TIMEOUT, Site, all_ok, apply, form

VIRTUAL_SERVERS = 10
REST_S = 20.0
"""Seconds over which the agents' work is counted."""
STATUS_ROUNDS = 20


@dataclass(frozen=True)
class Rest:
    """Agents at rest; all with three devices and ten Virtual Servers."""

    cpu_percent: dict[str, float]
    """Share of one core, per device."""
    rss_mb: dict[str, float]
    """Resident memory, per device."""
    status_ms: float
    """Wall time of ``halbctl status``, median."""
    python_ms: float
    """Wall time of ``python -c pass`` in the same run, median."""
    status_ratio: float
    agent_ms: float
    """The agent's own part of a status, worst."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        cpu = ", ".join(f"{name} {value:.2f} %" for name, value in self.cpu_percent.items())
        rss = ", ".join(f"{name} {value:.0f} MB" for name, value in self.rss_mb.items())
        ratio = f"{self.status_ms:.0f} ms against {self.python_ms:.0f} ms"
        return [
            f"agents at rest, 3 devices, {VIRTUAL_SERVERS} Virtual Servers, {REST_S:g} s",
            f"  processor  {cpu} of one core",
            f"  memory     {rss} resident",
            f"halbctl status / python -c pass: {self.status_ratio:.1f} ({ratio}, medians)",
            f"  the agent's part of it, worst: {self.agent_ms:.2f} ms",
            "",
        ]


def measure_rest(site: Site) -> Rest:
    """Form a Site with ten Virtual Servers and measure it."""
    form(site)
    apply(site, _ten(site.plan))
    first = site.plan.device_hosts[0].name
    site.wait(
        "ten Virtual Servers are in order",
        lambda: all_ok(site, first, VIRTUAL_SERVERS),
        START_TIMEOUT,
    )
    time.sleep(3.0)  # the announcements after an election end within five seconds of it
    names = [host.name for host in site.plan.device_hosts]
    pids = {name: site.agent_pid(name) for name in names}
    computed = shares(pids, REST_S)
    memory = {name: _rss_mb(pid) for name, pid in pids.items()}
    agent_us = max(site.status(first)["took_us"] for _ in range(STATUS_ROUNDS))
    status, python = _status_against_python(site, first)
    return Rest(
        cpu_percent={name: round(share, 2) for name, share in computed.items()},
        rss_mb=memory,
        status_ms=round(status * 1000, 1),
        python_ms=round(python * 1000, 1),
        status_ratio=round(status / python, 2),
        agent_ms=agent_us / 1000,
    )


def _ten(plan: Plan) -> str:
    document = json.loads(plan.document())
    model = document["virtual_servers"][0]
    document["virtual_servers"] = [
        {**model, "name": f"vs{i}", "vips": [f"10.77.0.{100 + i}/24"]}
        for i in range(VIRTUAL_SERVERS)
    ]
    return json.dumps(document)


def _rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return round(int(line.split()[1]) / 1024, 1)


def _status_against_python(site: Site, device: str) -> tuple[float, float]:
    """Median wall times of ``halbctl status`` and ``python -c pass``, in turns, seconds."""
    installed = Path(sys.executable).with_name("halbctl")
    halbctl = [str(installed)] if installed.exists() else [sys.executable, "-m", "halbctl"]
    status = [*halbctl, "--control", str(site.control(device)), "status"]
    nothing = [sys.executable, "-c", "pass"]
    took: dict[str, list[float]] = {"status": [], "python": []}
    for _ in range(STATUS_ROUNDS):
        took["python"].append(_wall(nothing))
        took["status"].append(_wall(status))
    return median(took["status"]), median(took["python"])


def _wall(argv: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(argv, stdout=subprocess.DEVNULL, env=python_environment(), check=True)
    return time.monotonic() - began
