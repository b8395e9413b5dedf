"""Looks at the Site all the time: two owners, agents that end, tracebacks, counters, memory."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from protocol.errors import HalbError
from tests.soak.stage import Stage, owners

FLUSHED_S = 1.0
"""After all rules of a device were lost it may answer beside another, until they are made anew."""
LARGEST_MB = 160
"""Resident memory of an agent with a handful of Virtual Servers: three times what it is at rest."""
EARLY_S = 0.45
"""A sample that waits for replies when its window ends is told as so much older than it is."""
_LOOK_S = 1.0
_TALLIES_S = 4.0
_BAD = re.compile(r"Traceback|\bCRITICAL\b|\bAssertionError\b|Segmentation|never awaited")


class Watch:
    """Two threads: one asks who owns the VIPs, one looks at the agents."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._read: dict[str, int] = {}
        self._told: set[tuple[str, int | None]] = set()
        self._counters: dict[str, tuple[int | None, dict[str, int]]] = {}
        self._owners: dict[str, str] = {}
        self.memory: dict[str, list[int]] = {}
        """Resident megabytes of each device's agent, at each look."""
        self.samples = 0
        self.late_ms = 0.0
        self._threads = [
            threading.Thread(target=self._guarded, args=(what,), daemon=True)
            for what in (self._who_owns, self._look_at_agents)
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until both have seen that it is over."""
        for thread in self._threads:
            thread.join(15)

    def _guarded(self, what: Any) -> None:
        try:
            what()
        except Exception as error:  # noqa: BLE001 - a watch that ended would find nothing more: say so
            self._stage.journal.violation("instruments", f"{what.__name__}: {error!r}")

    def _who_owns(self) -> None:
        probe = owners(self._stage)
        try:
            probe.begin()
            while not self._stage.over.wait(_LOOK_S):
                found = probe.end()
                probe.begin()
                self.late_ms = max(self.late_ms, found["late_ms"])
                for vip, tally in found["vips"].items():
                    self._judge_owners(vip, tally)
        finally:
            probe.close()

    def _judge_owners(self, vip: str, tally: Mapping[str, Any]) -> None:
        journal, plan = self._stage.journal, self._stage.site.plan
        self.samples += tally["samples"]
        for at, macs in tally["changes"]:
            names = "+".join(map(plan.owner, macs))
            if self._owners.get(vip) != names:
                self._owners[vip] = names
                journal.note("saw", "owner", vip, names, at)
            if len(macs) < 2:
                continue
            flushed = list(journal.find("flush", since=at - FLUSHED_S, until=at + EARLY_S))
            if not any(entry.subject in names.split("+") for entry in flushed):
                detail = f"{vip}: {names}, {tally['two_owners_ms']:g} ms within a second"
                journal.violation("two owners", detail, at)

    def _look_at_agents(self) -> None:
        asked = 0.0
        while not self._stage.over.wait(_LOOK_S):
            for device in self._stage.devices:
                self._look_at(device)
            if time.monotonic() - asked > _TALLIES_S:
                asked = time.monotonic()
                for device in self._stage.running():
                    with suppress(HalbError):
                        self._count(device)

    def _look_at(self, device: str) -> None:
        service = self._stage.site.service(device)
        pid = service.pid
        if pid is None and device not in self._stage.ended:
            time.sleep(0.2)
            if service.pid is None and device not in self._stage.ended:
                self._once(device, None, "agent ended", f"{device}: {service.tail(20)}")
        elif pid is not None:
            self._told.discard((device, None))
            megabytes = resident(pid)
            if megabytes:
                self.memory.setdefault(device, []).append(megabytes)
            if megabytes > LARGEST_MB:
                self._once(device, pid, "memory", f"agent of {device}: {megabytes} MB")
        for line in self._news(device, service.log):
            if _BAD.search(line):
                self._stage.journal.violation("log", f"{device}: {line.strip()}")

    def _once(self, device: str, pid: int | None, rule: str, detail: str) -> None:
        if (device, pid) not in self._told:
            self._told.add((device, pid))
            self._stage.journal.violation(rule, detail)

    def _news(self, device: str, log: Path) -> Iterator[str]:
        with log.open("rb") as file:
            file.seek(self._read.get(device, 0))
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read[device] = self._read.get(device, 0) + len(whole) + len(newline)
        yield from whole.decode(errors="replace").splitlines()

    def _count(self, device: str) -> None:
        """Totals of one agent never go down, whatever happens to the kernel's tables."""
        pid = self._stage.site.service(device).pid
        servers = self._stage.site.ask(device, "counters")["virtual_servers"]
        now = dict(_totals(servers))
        before_pid, before = self._counters.get(device, (None, {}))
        if pid == before_pid:
            for key, value in now.items():
                if 0 <= value < before.get(key, 0):
                    detail = f"{device}: {key} was {before[key]}, is {value}"
                    self._stage.journal.violation("counters", detail)
        self._counters[device] = (pid, now)


def _totals(servers: list[dict[str, Any]]) -> Iterator[tuple[str, int]]:
    for server in servers:
        for listener in server["listeners"]:
            for gateway in listener["gateways"]:
                for what, value in gateway["traffic"].items():
                    if what not in ("active", "rate"):
                        name = f"{server['name']} {listener['listener']} {gateway['name']} {what}"
                        yield name, value


def resident(pid: int) -> int:
    """Megabytes of a process; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(found[1]) // 1024 if found else 0
