"""How long a secondary that knows no flow takes until it has all of the primary's.

Real flows through the VIP, in a lab of three devices: one has no agent while they begin, so
neither it nor its kernel has met any.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

from halbctl.lab.crowd import MOST
from halbctl.lab.plan import CLIENT, VIP
from halbctl.lab.probes import python_environment
from halbctl.lab.processor import seconds_of
from halbctl.lab.servers import ECHO
from halbctl.lab.site import Site
from protocol.errors import InvalidInput, Refused

WANTED_S = 3.0
"""Seconds within which a secondary has 50,000 flows."""
_PATIENCE_S = 60.0
_LOOK_S = 0.02
_SILENT = """table inet crowd {
  chain output {
    type filter hook output priority 0;
    icmp type destination-unreachable drop
  }
}
"""
"""For the client, on whose ports nobody listens."""


@dataclass(frozen=True)
class InStep:
    """A secondary that started with nothing."""

    flows: int
    seconds: float
    """From when it knew its primary until its kernel had all flows, and it said so."""
    primary_s: float
    """Processor time of the primary's agent meanwhile, and for the start of the other one."""
    secondary_s: float
    """The same of the secondary's, from its start."""

    def broken(self) -> list[str]:
        """In words, if it takes longer than is wanted."""
        if self.seconds <= WANTED_S:
            return []
        what = f"a secondary has {self.flows:,} flows after {self.seconds:.1f} s"
        return [f"{what}, wanted at most {WANTED_S:g} s"]

    def line(self) -> str:
        """The figures for people."""
        return (
            f"a secondary that starts has {self.flows:,} flows after {self.seconds:.2f} s;"
            f" processor time: {self.primary_s:.2f} s on the primary,"
            f" {self.secondary_s:.2f} s on it, with its start"
        )


def check_flows(flows: int) -> int:
    """Return ``flows`` if one host can have so many; raise InvalidInput otherwise."""
    if not 0 <= flows <= MOST:
        raise InvalidInput(f"--flows {flows} is out of range", f"Use 0 to {MOST}.")
    return flows


def measure_in_step(site: Site, flows: int) -> InStep:
    """Measure in a lab of three devices that serves, once: its kernels have the flows then."""
    primary = site.primary()
    other, late = (host.name for host in site.plan.device_hosts if host.name != primary)
    site.service(late).kill()
    _open(site, flows)
    site.wait(f"{other} has the flows", lambda: entries(site, other) >= flows, _PATIENCE_S)
    pid = site.agent_pid(primary)
    before = seconds_of(pid)
    site.start_agent(late)
    site.wait_answers(late)
    knows = f"{late} knows its primary"
    site.wait(knows, lambda: bool(site.virtual_server(late)["primary"]), _PATIENCE_S, _LOOK_S)
    took = site.wait(f"{late} is in step", lambda: _has(site, late, flows), _PATIENCE_S, _LOOK_S)
    mine = seconds_of(site.agent_pid(late))
    return InStep(flows, round(took, 2), round(seconds_of(pid) - before, 2), round(mine, 2))


def entries(site: Site, device: str) -> int:
    """Entries in a device's connection table."""
    path = "/proc/sys/net/netfilter/nf_conntrack_count"
    return int(site.network.run(device, "cat", path))


def _has(site: Site, device: str, flows: int) -> bool:
    """Whether a device has so many flows, and may be handed the Virtual Server."""
    if entries(site, device) < flows:
        return False
    told = site.virtual_server(device)["devices"]
    return any(each["name"] == device and each["eligible"] for each in told)


def _open(site: Site, flows: int) -> None:
    site.network.run(CLIENT.name, "nft", "-f", "-", text=_SILENT)
    argv = [sys.executable, "-m", "halbctl.lab.crowd", VIP, str(ECHO), str(flows)]
    done = subprocess.run(
        site.network.within(CLIENT.name, argv),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=python_environment(),
        timeout=2 * _PATIENCE_S,
        check=False,
    )
    if done.returncode:
        raise Refused(f"flows to {VIP} could not be opened: {done.stderr.strip()}")
