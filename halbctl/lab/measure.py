"""Events in a lab, each measured live: what survived, for how long nobody was served.

A window opens with everything in place, the event happens, and the window
closes when the dust has settled. The figures are those of the instruments
(:mod:`established`, :mod:`datagrams`, :mod:`newcomers`, :mod:`owners`).
Here are the failures and moves; what operators change is in :mod:`changes`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from halbctl.lab.kinds import IDLE
from halbctl.lab.plan import SNAT, VIRTUAL_SERVER
from halbctl.lab.probes import Probes
from halbctl.lab.servers import ECHO, PUSH
from halbctl.lab.site import START_TIMEOUT, Site, agreed, start_server
from protocol.errors import TimedOut

HANG_S = 10.0
"""Seconds that a frozen agent stays frozen."""
CUT_S = 5.0
"""Seconds that devices are cut from each other."""
IDLE_S = 60.0
"""Seconds for which connections of kind ``idle`` are silent."""
AGE_S = 1.0
"""Seconds that connections live before something happens to them, so that all devices know
them; but for a planned move, which has to wait for that itself."""
SETTLE_S = 2.5
"""Seconds that a window stays open after its event: longer than any stall that TCP makes of it."""


@dataclass(frozen=True)
class Held:
    """What one event did to the connections of one kind."""

    connections: int
    """Open when the window opened."""
    survivors: int
    lost: dict[str, int]
    """How the others ended: ``ECONNRESET``, ``closed``, ``silent``, ...; with their number."""
    stall_ms: float
    """Longest time without a message of a survivor, beyond its pace of 100 ms."""


@dataclass(frozen=True)
class Measured:
    """What one event did, to connections of all kinds together. Times are milliseconds."""

    event: str
    wanted: int
    """Connections that were to be open."""
    connections: int
    """Connections that were open when the window opened."""
    doomed: int
    """Those of them that ended with a gateway that died; nothing can save them."""
    survivors: int
    lost: dict[str, int]
    stall_ms: float
    outage_ms: float
    """Longest time in which no new connection was served."""
    failed: int
    """New connections that were not served."""
    two_owners_ms: float
    """Samples in which two devices answered for one VIP, times 10 ms."""
    samples: int
    """How often it was asked who owns the VIPs."""
    late_ms: float
    """How late the instruments themselves were, at worst: what the figures are uncertain by."""
    before: str
    """The primary before the event."""
    after: str
    owners: tuple[tuple[float, str], ...]
    """Who answered for the first VIP, each time it changed: (seconds since the start, device)."""
    kinds: dict[str, Held] = field(default_factory=dict)
    """The same by kind of connection."""
    mode: str = SNAT
    """How packets were forwarded: one of :data:`halbctl.lab.plan.MODES`."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Stage:
    """A lab that serves, with its instruments running."""

    site: Site
    probes: Probes
    hang_s: float = HANG_S
    cut_s: float = CUT_S
    settle_s: float = SETTLE_S
    idle_s: float = IDLE_S

    def measure(
        self,
        event: str,
        act: Callable[[], object],
        doomed: Callable[[], int] = lambda: 0,
        *,
        renew: bool = False,
    ) -> Measured:
        """Measure what ``act`` does; ``doomed`` counts the connections that cannot survive it.

        With ``renew`` no device but the primary has ever seen one of the connections.
        """
        before = self.site.primary()
        self.probes.begin(renew=renew)
        if not renew:
            time.sleep(AGE_S)
        lost_anyway = doomed()
        began = time.monotonic()
        act()
        time.sleep(self.settle_s)
        if IDLE in self.probes.kinds:
            time.sleep(max(0.0, began + self.idle_s - time.monotonic()))
        found = self.probes.end()
        kinds = {kind: _held(found[kind]) for kind in self.probes.kinds}
        newcomers, vips = found["newcomers"], found["owners"]["vips"]
        first = vips[self.site.plan.vips[0]]
        return Measured(
            event=event,
            wanted=self.probes.connections * len(kinds),
            connections=sum(held.connections for held in kinds.values()),
            doomed=lost_anyway,
            survivors=sum(held.survivors for held in kinds.values()),
            lost=dict(sum((Counter(held.lost) for held in kinds.values()), Counter())),
            stall_ms=max(held.stall_ms for held in kinds.values()),
            outage_ms=newcomers["outage_ms"],
            failed=sum(newcomers["failed"].values()),
            two_owners_ms=sum(tally["two_owners_ms"] for tally in vips.values()),
            samples=sum(tally["samples"] for tally in vips.values()),
            late_ms=max(result["late_ms"] for result in found.values()),
            before=before,
            after=self.site.primary(),
            owners=tuple(
                (round(at - began, 3), "+".join(map(self.site.plan.owner, macs)))
                for at, macs in first["changes"]
            ),
            kinds=kinds,
            mode=self.site.plan.mode,
        )

    def crash(self) -> Measured:
        """Power loss of the primary."""
        primary = self.site.primary()
        return self.measure("crash", lambda: self._lose(primary, self.site.crash))

    def come_back(self, device: str) -> Measured:
        """Return of a crashed device: nothing may move."""
        return self.measure("return", lambda: self._back(device, self.site.start))

    def promote(self, to: str, event: str = "promote") -> Measured:
        """Planned move, to a device that has never seen any of the connections."""
        command = ("promote", VIRTUAL_SERVER, "--to", to, "--wait")

        def move() -> None:
            # On a busy machine a thousand new flows at once may be told anew, and moves refused.
            self.wait_agreed()
            self.site.halbctl(to, *command).check()

        return self.measure(event, move, renew=True)

    def hang(self) -> Measured:
        """SIGSTOP of the primary's agent for a while, then SIGCONT."""
        primary = self.site.primary()

        def act() -> None:
            self.site.freeze(primary)
            time.sleep(self.hang_s)
            self.site.thaw(primary)
            self.wait_agreed()

        return self.measure("hang", act)

    def kill(self) -> Measured:
        """Kill -9 of the primary's agent; the device lives on."""
        primary = self.site.primary()
        return self.measure(
            "kill", lambda: self._lose(primary, lambda name: self.site.service(name).kill())
        )

    def revive(self, device: str) -> Measured:
        """Start a killed agent again: it finds its own left-overs."""

        def start(name: str) -> None:
            self.site.start_agent(name)
            self.site.wait_answers(name)

        return self.measure("restart", lambda: self._back(device, start))

    def partition(self) -> Measured:
        """The primary loses all other devices, and they it; clients see all of them."""
        primary = self.site.primary()
        others = [host.name for host in self.site.plan.device_hosts if host.name != primary]

        def act() -> None:
            for other in others:
                self.site.cut(primary, other)
            self._wait_moved(primary)
            time.sleep(self.cut_s)
            self.site.heal()
            self.wait_agreed()

        return self.measure("partition", act)

    def shatter(self) -> Measured:
        """Every device loses every other: no majority, so nobody may own the VIP."""

        def act() -> None:
            self.site.cut_devices_from_each_other()
            time.sleep(self.cut_s)
            self.site.heal()
            self.wait_agreed()

        return self.measure("shatter", act)

    def lose_gateway(self, gateway: str) -> Measured:
        """Power loss of a gateway; connections through it end with it."""

        def act() -> None:
            self.site.network.unplug(gateway)
            self.site.service(gateway).kill()
            self.wait_gateway(gateway, "down")

        return self.measure("gateway", act, lambda: self.connections_of(gateway))

    def recover_gateway(self, gateway: str) -> None:
        """Bring a gateway back and wait until it is used again."""
        self.site.network.plug(gateway)
        start_server(self.site, gateway)
        self.wait_gateway(gateway, "up")

    def connections_of(self, gateway: str) -> int:
        """Established connections that stay, as a gateway's own kernel counts them."""
        ports = f"( sport = :{ECHO} or sport = :{PUSH} )"
        query = ("ss", "-Htn", "state", "established", ports)
        return len(self.site.network.run(gateway, *query).splitlines())

    def wait_gateway(self, gateway: str, state: str) -> None:
        """Wait until the primary shows a gateway in a state; "" is absent."""
        self.site.wait(
            f"{gateway} is {state or 'gone'}",
            lambda: self._gateway_state(gateway) == state,
            START_TIMEOUT,
        )

    def _gateway_state(self, gateway: str) -> str:
        for entry in self.site.virtual_server(self.site.primary())["gateways"]:
            if entry["name"] == gateway:
                return str(entry["state"])
        return ""

    def wait_agreed(self) -> None:
        """Wait until all devices are fit and agree on the primary."""
        self.site.wait("the devices agree", lambda: agreed(self.site), START_TIMEOUT)

    def _lose(self, primary: str, lose: Callable[[str], None]) -> None:
        lose(primary)
        self._wait_moved(primary)

    def _wait_moved(self, former: str) -> None:
        others = [host.name for host in self.site.plan.device_hosts if host.name != former]

        def moved() -> bool:
            return self.site.virtual_server(others[0])["primary"] in others

        self.site.wait(f"somebody takes over from {former}", moved, START_TIMEOUT)

    def _back(self, device: str, start: Callable[[str], None]) -> None:
        start(device)
        self.wait_fit(device)

    def wait_fit(self, device: str) -> None:
        """Wait until a device may carry the Virtual Server again, and all agree."""

        def fit() -> bool:
            devices = self.site.virtual_server(self.site.primary())["devices"]
            return any(entry["name"] == device and entry["eligible"] for entry in devices)

        self.site.wait(f"{device} is fit again", fit, START_TIMEOUT)
        self.wait_agreed()


def _held(found: dict[str, Any]) -> Held:
    silent = found["silent"]
    return Held(
        connections=found["connections"],
        survivors=found["survivors"],
        lost={**found["lost"], **({"silent": silent} if silent else {})},
        stall_ms=found["stall_ms"] or 0.0,
    )


def next_device(site: Site) -> str:
    """A device that could be promoted: the first that is not the primary."""
    primary = site.primary()
    for entry in site.virtual_server(primary)["devices"]:
        if entry["role"] == "secondary" and entry["eligible"]:
            return str(entry["name"])
    raise TimedOut("no secondary is fit")
