"""Shares of gateways that follow what happens: slow start, room, connections. Pure.

Each device does this by itself, from what its own kernel counts. As flows of
the policies concerned are replicated as connection entries, devices count much
the same, and where their slots differ by a few, an entry decides, not the slot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from agent.distribution import AT_REST, GatewayKey, Moment, candidates, takes_flows
from agent.gated import COUNTED_MOST
from protocol.ids import GroupId
from protocol.objects import Gateway, VirtualServer

GROWTH_STEP = 5
"""Per cent by which a gateway grows at a time, as in HAProxy."""
COUNT_EVERY_S = 2.0
COUNT_SHARE = 0.05
"""Counting takes at most this share of the time: the more flows, the rarer."""
LEAST_HORIZON = 32
"""New flows within which connections are to be even, at least; half of them where that is more."""
MAX_MOVED = 1 / 8
"""Share of the slots of a listener that change gateways in one pass, at most."""
STEP = 1 / 4
"""Part of the way that is gone in one pass. What ends before the next count shows the shares of
now in full: whoever went all the way would swing past it, to and fro for ever."""
MIN_MOVED = 1 / 64
"""A step of less than this share is not worth a change of rules."""
LEAST_SHARE = 0.05
"""A gateway with too many connections keeps this part of its share, so that none starves."""


def lean(
    weights: Mapping[str, int], connections: Mapping[str, int], before: Mapping[str, int]
) -> dict[str, int]:
    """Per cent of its weight that each gateway should have, so that connections become even.

    What each would need of the next flows to have its part of all connections
    is its share of them; of the way there :data:`STEP` is made, :data:`MAX_MOVED` at most.
    ``before`` is the answer of the last pass; empty at the first.
    """
    total = sum(weights.values())
    live = sum(connections.get(name, 0) for name in weights)
    soon = live + max(LEAST_HORIZON, live // 2)
    fair = {name: weight / total for name, weight in weights.items()}
    needed = {
        name: max(part * soon - connections.get(name, 0), part * (soon - live) * LEAST_SHARE)
        for name, part in fair.items()
    }
    now = _shares({name: part * before.get(name, 100) for name, part in fair.items()})
    steps = {name: share - now[name] for name, share in _shares(needed).items()}
    way = sum(map(abs, steps.values())) / 2
    if way * STEP < MIN_MOVED:
        return {name: before.get(name, 100) for name in weights}
    scale = min(STEP, MAX_MOVED / way)
    return {
        name: max(1, round(100 * (now[name] + scale * steps[name]) / fair[name]))
        for name in weights
    }


def _shares(parts: Mapping[str, float]) -> dict[str, float]:
    whole = sum(parts.values())
    return {name: part / whole for name, part in parts.items()}


class Balancer:
    """What one device knows of its gateways beyond up and down. ``now`` is in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._servers: tuple[VirtualServer, ...] = ()
        self._down: frozenset[GatewayKey] = frozenset()
        self._able: dict[GroupId, dict[str, str]] = {}
        """Names of the gateways that took flows when last seen, by address: a host that has
        another one's name is new, and one that was renamed is not."""
        self._since: dict[tuple[GroupId, str], float] = {}
        """When each address came back that still grows."""
        self._leaning: dict[GatewayKey, int] = {}
        self._full: frozenset[GatewayKey] = frozenset()
        self._counts: Mapping[GatewayKey, int] = {}
        """Of the newest count."""
        self._soon: Mapping[GatewayKey, int] = {}
        """By the next one; empty where nobody counts."""
        self._count_at = 0.0

    def observe(self, servers: Iterable[VirtualServer], down: frozenset[GatewayKey]) -> None:
        """What is served now, and whom this device sees down."""
        self._servers, self._down = tuple(servers), down
        for vs in self._servers:
            able = {g.address: g.name for g in vs.gateways if takes_flows(vs, g, down)}
            for address in able.keys() - self._able.get(vs.uid, able):
                self._since[vs.uid, address] = self._now()
            self._able[vs.uid] = able
        served = {vs.uid for vs in self._servers}
        self._able = {uid: able for uid, able in self._able.items() if uid in served}
        for key in [k for k in self._since if k[1] not in self._able.get(k[0], ())]:
            del self._since[key]
        for key in [k for k in self._leaning if k[1] not in self._able.get(k[0], {}).values()]:
            del self._leaning[key]
        if not any(map(_needs_counts, self._servers)):
            self._soon = {}
        self._fill()

    @property
    def moment(self) -> Moment:
        """Shares as they are to be now; :data:`AT_REST` where there is nothing to it."""
        growing = dict(self._growing())
        leaning = {key: part for key, part in self._leaning.items() if part != 100}
        return Moment(growing, leaning, self._full) if growing or leaning or self._full else AT_REST

    def _growing(self) -> Iterable[tuple[GatewayKey, int]]:
        now = self._now()
        for vs in self._servers:
            for gateway in vs.gateways:
                since = self._since.get((vs.uid, gateway.address))
                if since is None or not vs.slow_start:
                    continue
                steps = int((now - since) * 100 / GROWTH_STEP / vs.slow_start) + 1
                if steps * GROWTH_STEP < 100:
                    yield (vs.uid, gateway.name), steps * GROWTH_STEP

    @property
    def needed(self) -> bool:
        """Whether shares may have to follow something, as configured."""
        return any(vs.slow_start or _needs_counts(vs) for vs in self._servers)

    @property
    def count_is_due(self) -> bool:
        """Whether connections should be counted now."""
        return self._now() >= self._count_at and any(map(_needs_counts, self._servers))

    def count(self, counts: Mapping[GatewayKey, int], took_s: float) -> None:
        """Connections by gateway, and how long it took to count them."""
        self._count_at = self._now() + max(COUNT_EVERY_S, took_s / COUNT_SHARE) - 0.1
        gateways = [((vs.uid, g.name), g) for vs in self._servers for g in vs.gateways]
        self._soon = {key: self._expected(key, gateway, counts) for key, gateway in gateways}
        self._fill()
        self._counts = counts
        for vs in self._servers:
            if any(each.balance == "least-connections" for each in vs.listeners):
                for version in (4, 6):
                    self._lean(vs, candidates(vs, version, self._down), counts)

    def _fill(self) -> None:
        """Compare what was counted with the limits of now, whose count in the kernel may be new."""
        self._full = frozenset(
            (vs.uid, g.name)
            for vs in self._servers
            for g in vs.gateways
            if g.max_connections and self._soon.get((vs.uid, g.name), 0) >= g.max_connections
        )

    def _expected(self, key: GatewayKey, gateway: Gateway, counts: Mapping[GatewayKey, int]) -> int:
        """Connections by the next count, where the kernel does not see to the limit itself."""
        live = counts.get(key, 0)
        if gateway.max_connections <= COUNTED_MOST:
            return live
        return live + max(0, live - self._counts.get(key, live))

    def _lean(
        self, vs: VirtualServer, gateways: tuple[Gateway, ...], counts: Mapping[GatewayKey, int]
    ) -> None:
        if len(gateways) < 2:
            return
        keys = [(vs.uid, g.name) for g in gateways]
        before = {name: self._leaning.get((uid, name), 100) for uid, name in keys}
        weights = {g.name: g.weight for g in gateways}
        found = lean(weights, {name: counts.get((uid, name), 0) for uid, name in keys}, before)
        self._leaning |= {(vs.uid, name): part for name, part in found.items()}

    def notes(self) -> dict[GatewayKey, str]:
        """Why gateways that are up take nothing, or less than their weight says."""
        growing = dict(self._growing())
        found = {}
        for vs in self._servers:
            chosen = {g.name for v in (4, 6) for g in candidates(vs, v, self._down)}
            for gateway in vs.gateways:
                key = (vs.uid, gateway.name)
                if gateway.backup and gateway.name not in chosen:
                    found[key] = "backup: takes connections while no other can"
                elif key in self._full:
                    found[key] = f"full: may have {gateway.max_connections} connections"
                elif key in growing:
                    found[key] = f"slow start: {growing[key]} % of its weight"
                elif gateway.backup:
                    found[key] = "backup: no other can take connections"
        return found


def _needs_counts(vs: VirtualServer) -> bool:
    return any(g.max_connections for g in vs.gateways) or any(
        listener.balance == "least-connections" for listener in vs.listeners
    )
