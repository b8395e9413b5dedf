"""HALB's data plane against rules written by hand and HAProxy: ``scripts/bench dataplane``.

Three hosts of one lab balance to the same two gateways, each on an address of its own. One
round measures all three, one after the other, so that what disturbs one disturbs all.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from halbctl.lab.load import ASK, CLIENTS, PORTS
from halbctl.lab.namespaces import INTERFACE
from halbctl.lab.plan import CLIENT, VIP, Plan
from halbctl.lab.probes import python_environment
from halbctl.lab.processes import Service
from halbctl.lab.site import START_TIMEOUT, Site, apply
from protocol.errors import Refused, TimedOut

DEVICE, BY_HAND, PROXY = "a", "b", "c"
"""Hosts of the lab: HALB, rules by hand, HAProxy."""
ADDRESS = {DEVICE: VIP, BY_HAND: "10.77.0.101", PROXY: "10.77.0.102"}
TITLES = {DEVICE: "HALB", BY_HAND: "nftables by hand", PROXY: "HAProxy, mode tcp"}
FIGURES = {
    "stream": "Gbit/s, one connection",
    "connect": f"new connections/s, {CLIENTS} clients",
    "ask": "µs, median of small questions",
}
WANTED = {
    BY_HAND: {"stream": 0.95, "connect": 0.95, "ask": 1 / 0.95},
    PROXY: {"stream": 1.5, "connect": 1.5, "ask": 0.7},
}
"""Least ratio of HALB to the other; of ``ask``, a time, the highest."""
GATEWAYS = 2
LOAD = (sys.executable, "-m", "halbctl.lab.load")


@dataclass(frozen=True)
class Comparison:
    """All runs, by host and figure."""

    runs: dict[str, dict[str, list[float]]]
    left_out: str = ""
    """Why there is no HAProxy in it."""

    def medians(self) -> dict[str, dict[str, float]]:
        return {
            host: {figure: median(values) for figure, values in figures.items()}
            for host, figures in self.runs.items()
        }

    def ratios(self) -> dict[str, dict[str, float]]:
        """HALB to each other, of the medians."""
        found = self.medians()
        return {
            host: {figure: found[DEVICE][figure] / value for figure, value in figures.items()}
            for host, figures in found.items()
            if host != DEVICE
        }

    def broken(self) -> list[str]:
        """Ratios that miss what is wanted, in words."""
        found = []
        for host, figures in self.ratios().items():
            for figure, ratio in figures.items():
                wanted = WANTED[host][figure]
                if ratio > wanted if figure == "ask" else ratio < wanted:
                    relation = "at most" if figure == "ask" else "at least"
                    found.append(
                        f"{FIGURES[figure]}: {ratio:.2f} of {TITLES[host]},"
                        f" wanted {relation} {wanted:.2f}"
                    )
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "medians": self.medians(),
            "ratios": self.ratios(),
            "broken": self.broken(),
        }

    def lines(self) -> list[str]:
        """The comparison for people."""
        medians, ratios = self.medians(), self.ratios()
        rounds = len(self.runs[DEVICE]["stream"])
        lines = [
            (
                f"data planes, medians of {rounds} rounds, load by halbctl.lab.load (Python);"
                " in brackets HALB's ratio to it"
            )
        ]
        for figure, title in FIGURES.items():
            parts = []
            for host, found in medians.items():
                ratio = f" ({ratios[host][figure]:.2f})" if host in ratios else ""
                parts.append(f"{TITLES[host]} {found[figure]:,.1f}{ratio}")
            lines.append(f"  {title}: {', '.join(parts)}")
        if self.left_out:
            lines.append(f"  without HAProxy: {self.left_out}")
        return [*lines, *(f"BROKEN {each}" for each in self.broken()), ""]


def compare(
    site: Site, rounds: int, seconds: float, tell: Callable[[str], None] = lambda _: None
) -> Comparison:
    """Measure in a lab of three devices and :data:`GATEWAYS` gateways that is built, not formed."""
    for host in (BY_HAND, PROXY):
        site.service(host).terminate(5.0)
    servers = [_serve(site, host.name) for host in site.plan.gateway_hosts]
    others: list[subprocess.Popen[bytes]] = []
    try:
        _balance_with_halb(site)
        _balance_by_hand(site)
        left_out = "" if shutil.which("haproxy") else "it is not installed (apt install haproxy)"
        hosts = [DEVICE, BY_HAND]
        if not left_out:
            others.append(_balance_with_proxy(site))
            hosts.append(PROXY)
        for host in hosts:
            site.wait(f"{TITLES[host]} answers", lambda host=host: _answers(site, host), 10.0)  # type: ignore[misc]
        return Comparison(_rounds(site, hosts, rounds, seconds, tell), left_out)
    finally:
        for process in others:
            process.kill()
            process.wait()
        for server in servers:
            server.kill()


def _rounds(
    site: Site, hosts: list[str], rounds: int, seconds: float, tell: Callable[[str], None]
) -> dict[str, dict[str, list[float]]]:
    runs: dict[str, dict[str, list[float]]] = {h: {f: [] for f in FIGURES} for h in hosts}
    for number in range(rounds):
        for figure in FIGURES:
            # Another one begins each time, so that none is always the first.
            turn = number % len(hosts)
            for host in hosts[turn:] + hosts[:turn]:
                runs[host][figure].append(_measure(site, figure, host, seconds))
        tell(f"round {number + 1} of {rounds}: {_newest(runs)}")
    return runs


def _newest(runs: Mapping[str, Mapping[str, list[float]]]) -> str:
    return "; ".join(
        f"{TITLES[host]} " + ", ".join(f"{values[-1]:,.1f}" for values in figures.values())
        for host, figures in runs.items()
    )


def _measure(site: Site, figure: str, host: str, seconds: float) -> float:
    argv = [*LOAD, figure, ADDRESS[host], str(seconds)]
    done = subprocess.run(
        site.network.within(CLIENT.name, argv),
        capture_output=True,
        text=True,
        env=python_environment(),
        timeout=seconds + 30.0,
        check=False,
    )
    if done.returncode:
        raise Refused(f"the load on {TITLES[host]} failed: {done.stderr.strip()[-300:]}")
    return float(json.loads(done.stdout))


def _serve(site: Site, gateway: str) -> Service:
    service = Service("load", site.folder / gateway)
    argv = site.network.within(gateway, [*LOAD, "serve"])
    service.start(argv, python_environment())
    return service


def _answers(site: Site, host: str) -> bool:
    with suppress(Refused, subprocess.TimeoutExpired):
        return _measure(site, "ask", host, 0.05) > 0
    return False


def document(plan: Plan) -> str:
    """The Site: one Virtual Server with the ports of the load."""
    gateways = [{"name": host.name, "address": host.ipv4} for host in plan.gateway_hosts]
    check = {"type": "tcp", "interval": 2.0, "timeout": 1.0, "port": ASK}
    server = {
        "name": "bench",
        "vips": [f"{VIP}/24"],
        "gateways": gateways,
        "listeners": [{"protocol": "tcp", "port": port, "check": check} for port in PORTS],
    }
    return json.dumps({"virtual_servers": [server]})


def _balance_with_halb(site: Site) -> None:
    site.halbctl(DEVICE, "init", site.plan.name).check()
    apply(site, document(site.plan))

    def serves() -> bool:
        return bool(site.virtual_server(DEVICE, "bench")["state"] == "ok")

    with suppress(TimedOut):
        # One device alone is no more than degraded.
        site.wait("the Virtual Server is in order", serves, 3.0)
    primary = lambda: site.virtual_server(DEVICE, "bench")["primary"] == DEVICE  # noqa: E731
    site.wait("the device is primary", primary, START_TIMEOUT)


def _balance_by_hand(site: Site) -> None:
    gateways = [host.ipv4 for host in site.plan.gateway_hosts]
    slots = ", ".join(f"{slot} : {address}" for slot, address in enumerate(gateways))
    ports = ", ".join(map(str, PORTS))
    key = f"jhash ip saddr . tcp sport mod {len(gateways)} seed 0x5eed"
    rules = f"""
table ip by_hand {{
  chain pre {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr {ADDRESS[BY_HAND]} tcp dport {{ {ports} }} dnat to {key} map {{ {slots} }}
  }}
  chain post {{
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat snat to {ADDRESS[BY_HAND]}
  }}
}}
"""
    site.network.run(BY_HAND, "ip", "address", "add", f"{ADDRESS[BY_HAND]}/32", "dev", INTERFACE)
    site.network.run(
        BY_HAND, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0"
    )
    site.network.run(BY_HAND, "sysctl", "-qw", f"net.ipv4.conf.{INTERFACE}.send_redirects=0")
    site.network.run(BY_HAND, "nft", "-f", "-", text=rules)


def _balance_with_proxy(site: Site) -> subprocess.Popen[bytes]:
    address = ADDRESS[PROXY]
    site.network.run(PROXY, "ip", "address", "add", f"{address}/32", "dev", INTERFACE)
    sections = [
        (
            "global\n  maxconn 4000\ndefaults\n  mode tcp\n  balance roundrobin\n"
            "  timeout connect 5s\n  timeout client 60s\n  timeout server 60s"
        )
    ]
    for port in PORTS:
        servers = "\n".join(
            f"  server {host.name} {host.ipv4}:{port}" for host in site.plan.gateway_hosts
        )
        sections.append(f"listen p{port}\n  bind {address}:{port}\n{servers}")
    path = site.folder / "haproxy.cfg"
    path.write_text("\n".join(sections) + "\n")
    argv = ["haproxy", "-db", "-q", "-f", str(path)]
    checked = subprocess.run([*argv, "-c"], capture_output=True, text=True, check=False)
    if checked.returncode:
        raise Refused(f"haproxy refuses {path}: {checked.stderr.strip()[-300:]}")
    return subprocess.Popen(site.network.within(PROXY, argv), stderr=subprocess.DEVNULL)
