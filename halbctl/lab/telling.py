"""What it costs to tell the secondaries of a thousand new connections a second.

Real connections through the VIP: what agents compute while they come is compared with what
they compute at rest, in turns in one lab. And, if wanted, what it takes to tell of many at once.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from halbctl.lab.instep import InStep, entries, measure_in_step
from halbctl.lab.plan import CLIENT, VIP
from halbctl.lab.probes import python_environment
from halbctl.lab.processor import shares
from halbctl.lab.servers import ECHO
from halbctl.lab.site import Site
from protocol.errors import Refused

RATE = 1000
"""Connections that begin each second."""
LASTS_S = 1.0
"""How long each is open: long enough to be told to the secondaries."""
TURN_S = 8.0
"""At rest for so long, then with connections for as long."""
WANTED = 5.0
"""Per cent of a core that they may take on the primary beyond what it takes at rest."""
_PORTS = "1024 65000"
"""For the client: each is used again a minute after its connection."""


@dataclass(frozen=True)
class Turn:
    """One device in one turn, in per cent of a core."""

    rest: float
    busy: float

    @property
    def more(self) -> float:
        return self.busy - self.rest


@dataclass(frozen=True)
class Telling:
    """All turns."""

    primary: list[Turn]
    secondaries: list[Turn]
    """Both of them."""
    per_second: list[float]
    """Connections that were answered."""
    told: list[int]
    """Flows that a secondary knew at the end of a turn."""
    in_step: InStep | None = None

    def _medians(self, turns: list[Turn]) -> dict[str, float]:
        return {
            "rest": round(median(turn.rest for turn in turns), 2),
            "busy": round(median(turn.busy for turn in turns), 2),
            "more": round(median(turn.more for turn in turns), 2),
        }

    def broken(self) -> list[str]:
        """In words, if they take more than is wanted."""
        late = self.in_step.broken() if self.in_step else []
        more = self._medians(self.primary)["more"]
        if more <= WANTED:
            return late
        what = f"{RATE} connections a second take {more:.1f} % of a core on the primary"
        return [f"{what}, wanted at most {WANTED:g} %", *late]

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "medians": {
                "primary": self._medians(self.primary),
                "secondaries": self._medians(self.secondaries),
            },
            "broken": self.broken(),
        }

    def lines(self) -> list[str]:
        """The figures for people."""
        come = f"{median(self.per_second):,.0f} connections a second come, each for {LASTS_S:g} s"
        turns = f"3 devices, medians of {len(self.primary)} turns"
        lines = [f"agents while {come}, and at rest; {turns}"]
        for name, measured in (("primary", self.primary), ("secondary", self.secondaries)):
            found = self._medians(measured)
            lines.append(
                f"  {name:<10} {found['busy']:.2f} % of a core, at rest {found['rest']:.2f} %:"
                f" {found['more']:.2f} % more"
            )
        lines.append(f"  flows that a secondary knew then: {median(self.told):,.0f}")
        if self.in_step:
            lines.append(self.in_step.line())
        return [*lines, *(f"BROKEN {each}" for each in self.broken()), ""]


def measure_telling(site: Site, turns: int, seconds: float = TURN_S, *, flows: int = 0) -> Telling:
    """Measure in a lab of three devices that serves; with ``flows`` at once if there are any."""
    primary = site.primary()
    pids = {host.name: site.agent_pid(host.name) for host in site.plan.device_hosts}
    others = [name for name in pids if name != primary]
    site.network.run(CLIENT.name, "sysctl", "-qw", f"net.ipv4.ip_local_port_range={_PORTS}")
    found = Telling([], [], [], [])
    for _ in range(turns):
        time.sleep(LASTS_S + 1.0)  # until what the last turn began has ended, and was told
        rest = shares(pids, seconds)
        load = _start(site, seconds)
        busy = shares(pids, seconds)
        found.told.append(entries(site, others[0]))
        found.per_second.append(_answered(load) / seconds)
        for name in (primary, *others):
            kept = found.primary if name == primary else found.secondaries
            kept.append(Turn(rest[name], busy[name]))
    return replace(found, in_step=measure_in_step(site, flows)) if flows else found


def _start(site: Site, seconds: float) -> subprocess.Popen[str]:
    numbers = (ECHO, RATE, LASTS_S, seconds)
    argv = [sys.executable, "-m", "halbctl.lab.pace", VIP, *map(str, numbers)]
    return subprocess.Popen(
        site.network.within(CLIENT.name, argv),
        stdout=subprocess.PIPE,
        text=True,
        env=python_environment(),
    )


def _answered(load: subprocess.Popen[str]) -> int:
    printed, _ = load.communicate(timeout=60.0)
    if load.returncode or not int(printed):
        raise Refused(f"no connection to {VIP} was answered")
    return int(printed)
