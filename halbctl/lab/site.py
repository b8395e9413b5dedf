"""A whole Site on one machine: namespaces, real agents, real tokens, real traffic.

Everything about a lab is in one folder below :func:`realm.state_root`, so that
later commands find it; its namespaces carry its name, so that ``down`` finds
those of a lab whose folder was lost.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from halbctl.client import ask
from halbctl.lab.namespaces import INTERFACE, Host, Network
from halbctl.lab.plan import VIRTUAL_SERVER, WITNESS, Plan
from halbctl.lab.probes import python_environment
from halbctl.lab.processes import Service
from protocol.api import DEFAULT_PORT
from protocol.errors import (
    BY_EXIT_CODE,
    ExitCode,
    HalbError,
    InvalidInput,
    Refused,
    TimedOut,
    Unreachable,
)

START_TIMEOUT = 20.0
"""Seconds until an agent must answer, and until a Site must serve."""
COMMAND_TIMEOUT = 60.0
_REPEATABLE = frozenset(("apply", "edit", "set", "drain", "undrain"))


@dataclass(frozen=True)
class Outcome:
    """How a ``halbctl`` command ended."""

    code: int
    output: str
    errors: str

    def check(self) -> str:
        """Its output; raise the error that its exit code stands for, if it failed."""
        if self.code == 0:
            return self.output
        known = self.code in ExitCode.__members__.values()
        kind = BY_EXIT_CODE.get(ExitCode(self.code), HalbError) if known else HalbError
        message, _, remedy = self.errors.strip().partition("\nhint: ")
        message = message.rpartition("halb: error: ")[2]
        raise kind(message or f"halbctl ended with exit code {self.code}", remedy)


@dataclass(frozen=True)
class Site:
    """A lab that exists."""

    plan: Plan
    network: Network
    folder: Path

    def service(self, host: str) -> Service:
        """The agent of a device or the server of a gateway."""
        device = self.plan.host(host) in self.plan.device_hosts
        return Service("agent" if device else "server", self.folder / host)

    def agent_pid(self, device: str) -> int:
        """Process id of a device's agent; raise Refused if it ended."""
        service = self.service(device)
        if (pid := service.pid) is None:
            raise Refused(f"the agent of {device} ended: {service.tail()}", f"See {service.log}.")
        return pid

    def control(self, device: str) -> Path:
        """The control socket of a device's agent."""
        return self.folder / device / "control.sock"

    def halbctl(self, device: str, *args: str) -> Outcome:
        """Run ``halbctl`` against a device's agent, as an operator would."""
        argv = [sys.executable, "-m", "halbctl", "--control", str(self.control(device)), *args]
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=python_environment(),
            timeout=COMMAND_TIMEOUT,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def ask(self, device: str, op: str, timeout: float = 2.0, **more: Any) -> dict[str, Any]:
        """Ask a device's agent over its control socket, in this process: for polling.

        ``more`` are the fields of the question beside its name ``op``.
        """
        if self.service(device).pid is None:
            raise Unreachable(f"the agent of {device} does not run")
        return ask(str(self.control(device)), {"op": op, **more}, timeout)

    def status(self, device: str) -> dict[str, Any]:
        """The Site as a device sees it: the fields of ``halbctl status --output json``."""
        return self.ask(device, "status")

    def virtual_server(self, device: str, name: str = VIRTUAL_SERVER) -> dict[str, Any]:
        """The part of :meth:`status` about one Virtual Server."""
        for entry in self.status(device)["virtual_servers"]:
            if entry["name"] == name:
                found: dict[str, Any] = entry
                return found
        raise Refused(f"{device} knows no Virtual Server {name!r}")

    def primary(self) -> str:
        """The primary, as told by the first device that answers and knows one."""
        for host in self.plan.device_hosts:
            if self.service(host.name).state != "runs":
                continue
            with suppress(Unreachable, Refused):
                name = self.virtual_server(host.name)["primary"]
                if isinstance(name, str):
                    return name
        raise Refused(f"no device knows a primary of {VIRTUAL_SERVER}")

    def answers(self, device: str) -> bool:
        """Whether a device's agent runs and answers."""
        with suppress(Unreachable):
            return bool(self.ask(device, "version", 1.0))
        return False

    def wait(
        self, what: str, condition: Callable[[], bool], timeout: float, every: float = 0.05
    ) -> float:
        """Wait for a condition; return the seconds it took, raise TimedOut naming it."""
        began = time.monotonic()
        while not self._holds(condition):
            if time.monotonic() - began > timeout:
                raise TimedOut(f"waited {timeout:g} s in vain: {what}")
            time.sleep(every)
        return time.monotonic() - began

    @staticmethod
    def _holds(condition: Callable[[], bool]) -> bool:
        try:
            return condition()
        except (Unreachable, TimedOut, Refused):
            return False  # an agent that is just starting or gone: not yet

    def agent_command(self, device: str, *flags: str) -> list[str]:
        """The command that starts a device's agent on its host; later flags win."""
        host = self.plan.device(device)
        argv = [
            *(sys.executable, "-m", "agent", "--name", device),
            *("--state-dir", str(self.folder / device / "state")),
            *("--control", str(self.control(device)), "--interface", INTERFACE),
            *("--address", f"{host.ipv4}:{DEFAULT_PORT}"),
            *(["--witness"] if host == WITNESS else []),
        ]
        return self.network.within(device, [*argv, *flags])

    def start_agent(self, device: str, *flags: str) -> None:
        """Start a device's agent; :meth:`wait_answers` waits until it does."""
        command = self.agent_command(device, *flags)
        self.service(device).start(command, python_environment())

    def wait_answers(self, device: str) -> None:
        """Wait until a device's agent answers; raise with the end of its log if it ends."""
        service = self.service(device)
        self.wait(
            f"agent of {device} answers",
            lambda: service.pid is None or self.answers(device),
            START_TIMEOUT,
        )
        self.agent_pid(device)

    def crash(self, device: str) -> None:
        """Pull the cable, then kill -9 the agent: no dying process says goodbye."""
        self.plan.device(device)
        self.network.unplug(device)
        self.service(device).kill()

    def start(self, device: str) -> None:
        """Bring a crashed device back: cable and agent. What its kernel held is still there."""
        self.network.plug(self.plan.device(device).name)
        self.start_agent(device)
        self.wait_answers(device)

    def freeze(self, device: str) -> None:
        """SIGSTOP the agent: it hangs with everything it holds."""
        self.service(self.plan.device(device).name).signal(signal.SIGSTOP)

    def thaw(self, device: str) -> None:
        """SIGCONT the agent."""
        self.service(self.plan.device(device).name).signal(signal.SIGCONT)

    def cut(self, one: str, other: str | None = None) -> None:
        """Drop all frames between two hosts; without ``other``, unplug the one."""
        self.plan.host(one)
        if other is None:
            self.network.unplug(one)
            return
        if self.plan.host(other).name == one:
            raise InvalidInput(f"cannot cut {one} from itself", "Name two hosts.")
        self.network.cut(one, other)

    def heal(self, one: str | None = None, other: str | None = None) -> None:
        """Undo :meth:`cut`: between two hosts, of one host, or of all."""
        names = [host.name for host in self.plan.hosts]
        if one is not None and other is not None:
            self.network.heal(self.plan.host(one).name, self.plan.host(other).name)
        elif one is not None:
            self.network.plug(self.plan.host(one).name)
            for name in names:
                if name != one:
                    self.network.heal(one, name)
        else:
            for name in names:
                self.network.plug(name)
            self.network.heal_all()

    def cut_devices_from_each_other(self) -> None:
        """Every device loses every other; client, observer and gateways see them all."""
        for one, other in combinations(self.plan.device_hosts, 2):
            self.network.cut(one.name, other.name)

    def describe(self) -> dict[str, Any]:
        """The lab as ``halbctl lab status`` shows it."""
        unplugged, cuts = self.network.unplugged(), self.network.cuts()
        try:
            primary = self.primary()
        except Refused:
            primary = None
        return {
            "name": self.plan.name,
            "vips": list(self.plan.vips),
            "primary": primary,
            "hosts": [self._describe(host, unplugged, cuts) for host in self.plan.hosts],
        }

    def _describe(
        self, host: Host, unplugged: set[str], cuts: set[tuple[str, str]]
    ) -> dict[str, Any]:
        device = host in self.plan.device_hosts
        served = device or host in self.plan.gateway_hosts
        service = self.service(host.name)
        return {
            "name": host.name,
            "kind": "device" if device else "gateway" if served else host.name,
            "address": host.ipv4,
            "namespace": self.network.namespace(host.name),
            "process": service.state if served else "",
            "pid": service.pid if served else None,
            "plugged": host.name not in unplugged,
            "cut_from": sorted(other for one, other in cuts if one == host.name),
            "control": str(self.control(host.name)) if device else "",
        }


def start_server(site: Site, gateway: str) -> None:
    """Start the servers of a gateway."""
    argv = [sys.executable, "-m", "halbctl.lab.servers", gateway]
    site.service(gateway).start(site.network.within(gateway, argv), python_environment())


def form(site: Site) -> None:
    """Found the Site on the first device and join all others with a token."""
    first, *others = (host.name for host in site.plan.device_hosts)
    site.halbctl(first, "init", site.plan.name).check()
    if not others:
        return
    token = create_token(site, first, uses=len(others))
    for name in others:
        site.halbctl(name, "join", token).check()


def create_token(site: Site, device: str, uses: int = 1, *more: str) -> str:
    """A join token of the Site."""
    command = ["--output", "json", "token", "create", "--uses", str(uses), *more]
    token = json.loads(site.halbctl(device, *command).check())["token"]
    assert isinstance(token, str)
    return token


def apply(site: Site, document: str, device: str = "") -> str:
    """Apply a document on a device, as a rule the first; return what halbctl said."""
    path = site.folder / "site.yaml"
    path.write_text(document)
    return change(site, device or site.plan.device_hosts[0].name, "apply", "-f", str(path))


def change(site: Site, device: str, *command: str) -> str:
    """Run a command that changes the Site, again while no coordinator can be reached.

    On a machine that is busy with more than the lab the coordinator may move at any time.
    What is the same done twice is also repeated where it was not confirmed in time.
    Returns what halbctl said; raises what it failed with otherwise.
    """
    outcomes: list[Outcome] = []
    again = {ExitCode.NO_QUORUM}
    if not _REPEATABLE.isdisjoint(command):
        again |= {ExitCode.NOT_COMMITTED, ExitCode.TIMED_OUT}

    def taken() -> bool:
        outcomes.append(site.halbctl(device, *command))
        return outcomes[-1].code not in again

    with suppress(TimedOut):  # the command's own reason says more
        site.wait("a coordinator is there", taken, START_TIMEOUT)
    return outcomes[-1].check()


def wait_serving(site: Site) -> float:
    """Wait until the Virtual Server is in order and all devices are; return the seconds."""
    return site.wait("the Virtual Server is in order", lambda: in_order(site), START_TIMEOUT)


def in_order(site: Site) -> bool:
    """Whether the devices are :func:`agreed` and every gateway is up."""
    gateways = site.virtual_server(site.primary())["gateways"]
    return agreed(site) and all(gateway["state"] == "up" for gateway in gateways)


def agreed(site: Site) -> bool:
    """Whether all agents that run name the same primary and find every device fit."""
    running = [h.name for h in site.plan.device_hosts if site.service(h.name).pid is not None]
    entries = [site.virtual_server(name) for name in running]
    devices = [device for entry in entries for device in entry["devices"]]
    fit = all(device["eligible"] or device["role"] == "witness" for device in devices)
    return fit and len({entry["primary"] for entry in entries} - {None}) == 1


def all_ok(site: Site, device: str, number: int) -> bool:
    """Whether a device finds so many Virtual Servers, each of them in order."""
    entries = site.status(device)["virtual_servers"]
    return len(entries) == number and all(entry["state"] == "ok" for entry in entries)
