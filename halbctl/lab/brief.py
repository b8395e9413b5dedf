"""Brief connections as fast as they come, and what each costs.

The load is made by ``wrk`` and answered by HAProxy where they are installed (both are
packages of Debian): what they need themselves of the machine is a small part then. Else
:mod:`halbctl.lab.load` does both, in Python.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from halbctl.lab import processor
from halbctl.lab.load import BRIEF, command
from halbctl.lab.probes import python_environment
from halbctl.lab.site import Site
from protocol.errors import Refused

CLIENTS = 64
"""Connections at the same time, with ``wrk``."""
_SERVER = f"""global
  maxconn 8000
  nbthread 1
defaults
  mode http
  timeout client 10s
  timeout http-request 10s
  option httpclose
frontend brief
  bind :{BRIEF} backlog 8192
  bind :::{BRIEF} v6only backlog 8192
  http-request return status 200 content-type text/plain string "!"
"""


@dataclass(frozen=True)
class Turn:
    """One measurement."""

    per_second: float
    cost_us: float
    """Processor time of all that took part, per connection: client, gateways, devices, kernel."""
    agents_us: float
    """Of that the devices' agents."""


def generator() -> str:
    """What makes the load, and what answers it."""
    client = "wrk" if shutil.which("wrk") else "halbctl.lab.load"
    server = "HAProxy" if shutil.which("haproxy") else "halbctl.lab.load"
    missing = [name for name in ("wrk", "haproxy") if not shutil.which(name)]
    advice = f" (apt install {' '.join(missing)} for a stronger one)" if missing else ""
    return f"{client}, answered by {server}{advice}"


def serve(site: Site, gateway: str) -> subprocess.Popen[bytes]:
    """Answer brief connections on a gateway until killed."""
    path: Path = site.folder / "brief.cfg"
    path.write_text(_SERVER)
    argv = (
        ["haproxy", "-db", "-q", "-f", str(path)] if shutil.which("haproxy") else command("brief")
    )
    return subprocess.Popen(
        site.network.within(gateway, argv), env=python_environment(), stderr=subprocess.DEVNULL
    )


def measure(
    site: Site, address: str, seconds: float, hosts: Sequence[str], agents: Sequence[int]
) -> Turn:
    """Open connections to ``address`` for so long; ``hosts`` take part, and ``agents`` on them."""
    pids = [*_processes(site, hosts), *processor.kernel_threads()]
    before, agents_before = processor.seconds(pids), processor.seconds(agents)
    children = _of_children()
    if shutil.which("wrk"):
        count, took = _by_wrk(site, address, seconds)
    else:
        count, took = _by_python(site, address, seconds)
    client_s = _of_children() - children
    cost = processor.seconds(pids) - before + client_s
    agents_s = processor.seconds(agents) - agents_before
    return Turn(count / took, cost / count * 1e6, agents_s / count * 1e6)


def _processes(site: Site, hosts: Sequence[str]) -> list[int]:
    found: list[int] = []
    for host in hosts:
        namespace = site.network.namespace(host)
        found += map(int, site.network.realm.run("ip", "netns", "pids", namespace).split())
    return found


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _by_wrk(site: Site, address: str, seconds: float) -> tuple[int, float]:
    """Connections that were answered, and seconds that passed."""
    length = max(1, round(seconds))
    argv = ["wrk", "-t2", f"-c{CLIENTS}", f"-d{length}s", "-H", "Connection: close"]
    printed = run_load(site, address, [*argv, f"http://{address}:{BRIEF}/"], length)
    done = re.search(r"(\d+) requests in ([\d.]+)s", printed)
    if done is None or int(done[1]) == 0:
        raise Refused(f"wrk measured nothing: {printed[-300:]}")
    return int(done[1]), float(done[2])


def _by_python(site: Site, address: str, seconds: float) -> tuple[int, float]:
    count = int(
        json.loads(run_load(site, address, command("connect", address, str(seconds)), seconds))
    )
    if count == 0:
        raise Refused(f"nobody answers at {address} port {BRIEF}")
    return count, seconds


def run_load(site: Site, address: str, argv: list[str], seconds: float) -> str:
    """What a load on ``address`` printed that the client ran for ``seconds``; raises Refused."""
    done = subprocess.run(
        site.network.within("client", argv),
        capture_output=True,
        text=True,
        env=python_environment(),
        timeout=seconds + 30.0,
        check=False,
    )
    if done.returncode:
        raise Refused(f"the load on {address} failed: {done.stderr.strip()[-300:]}")
    return done.stdout
