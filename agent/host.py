"""What else on this host stands in the way of flows: other firewalls, a full connection table.

Judged by what happened to flows, counted before and behind, not by reading
other people's rules.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import nlargest

from agent import conntrack_limit
from agent.clock import next_round
from agent.conntrack_limit import Alarm
from agent.counters import Service
from agent.firewall import RAW, Chain, foreign_chains, suspects
from agent.lasting import lasting
from agent.meter import Sample
from protocol.effects import Event

LOOK_S = 2.0
"""Seconds between two looks at the connection table."""
KEEP_S = 60.0
"""What was seen is told for so long."""
MAX_OBSTACLES = 16
"""Of a kind, told at a time: those that take most. A range of ports may lose flows on each."""

OnEvent = Callable[[Event], None]
_log = logging.getLogger("halb.host")


@dataclass(frozen=True)
class Obstacle:
    """Somebody else took flows of a listener away."""

    service: Service
    """With the gateway in place of the VIP where its packets were ``stopped``."""
    number: int
    kind: str
    """``dropped`` | ``stopped`` | ``untracked``"""
    where: str
    until: float
    """Loop's clock, seconds."""

    def __str__(self) -> str:
        vip, protocol, port = self.service
        if self.kind == "dropped":
            return (
                f"{protocol}/{port} of {vip}: {self.number} new flows to gateways were dropped by"
                f" other rules of this host in the forward hook; let pass there what has"
                f" `ct status dnat`. Chains there: {self.where}"
            )
        if self.kind == "stopped":
            return (
                f"{protocol}/{port} of gateway {vip}: {self.number} packets of `routed` were"
                f" dropped by other rules of this host in the forward hook; let pass there what"
                f" has `ct state untracked`. Chains there: {self.where}"
            )
        return (
            f"VIP {vip}: {self.number} packets could not be balanced, because other rules of this"
            f" host keep them out of the connection table (notrack). Chains there: {self.where}"
        )


@dataclass
class HostWatch:
    """Looks from time to time, and keeps what it has to say for status."""

    on_event: OnEvent = lambda _: None
    look: Callable[[], Iterable[Chain]] = foreign_chains
    _alarm: Alarm = field(default_factory=Alarm)
    _obstacles: dict[tuple[Service, str], Obstacle] = field(default_factory=dict)
    _before: Sample | None = None
    _task: asyncio.Task[None] | None = None

    def start(self, on_event: OnEvent) -> None:
        self.on_event = on_event
        self._task = asyncio.get_running_loop().create_task(lasting(self._forever), name="host")

    async def _forever(self) -> None:
        while True:
            try:
                news = self._alarm.note(conntrack_limit.room())
            except OSError as error:
                _log.warning("cannot look at the connection table: %s", error)
                news = ""
            if news:
                self.on_event(Event("conntrack", None, news))
            await next_round(LOOK_S)

    def on_sample(self, now: Sample) -> None:
        """The accounts were read: what of it was taken away since the sample before?"""
        before, self._before = self._before, now
        if before is None:
            return
        dropped = _grown(before.reading.dropped, now.reading.dropped)
        stopped = _grown(before.reading.stopped, now.reading.stopped)
        untracked = _grown(
            {(vip, "", 0): n for vip, n in before.reading.untracked.items()},
            {(vip, "", 0): n for vip, n in now.reading.untracked.items()},
        )
        if not dropped and not stopped and not untracked:
            return
        chains = tuple(self.look())
        raw = [c for c in chains if c.priority < RAW]
        self._forget(now.at)
        for kind, found, where in (
            ("dropped", dropped, suspects(chains, "forward")),
            ("stopped", stopped, suspects(chains, "forward")),
            ("untracked", untracked, suspects(raw, "prerouting")),
        ):
            for service in nlargest(MAX_OBSTACLES, found, key=found.__getitem__):
                self._meet(Obstacle(service, found[service], kind, where, now.at + KEEP_S))

    def _meet(self, seen: Obstacle) -> None:
        key = (seen.service, seen.kind)
        if key not in self._obstacles:
            if sum(kind == seen.kind for _, kind in self._obstacles) >= MAX_OBSTACLES:
                return
            self.on_event(Event("obstacle", None, str(seen)))
        self._obstacles[key] = seen

    def _forget(self, now: float) -> None:
        self._obstacles = {k: each for k, each in self._obstacles.items() if each.until > now}

    def warnings(self, now: float) -> Iterator[str]:
        """What status says; ``now`` is the loop's clock, seconds."""
        self._forget(now)
        yield from self._alarm.warnings()
        yield from map(str, self._obstacles.values())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


def _grown(before: Mapping[Service, int], now: Mapping[Service, int]) -> dict[Service, int]:
    return {s: n - before.get(s, 0) for s, n in now.items() if n > before.get(s, 0)}
