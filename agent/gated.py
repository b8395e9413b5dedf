"""The rules of one listener: limits, clients that keep their gateway, gateways with room. Pure.

Where a gateway has a limit or clients are sticky, each gateway has a chain of
its own, which a flow is led to and which sends it back where the gateway has
no room. ``meta priority`` of the first packet of a flow, which forwarding sets
anew anyway, carries the gateway's number from one rule to the next.

Connections are counted by the kernel (``ct count``), for each gateway in one
chain for all listeners. A flow is counted only where it is sent: ``ct count``
also counts a flow that it finds to be one too many, for as long as it lives.
So what fills a gateway shuts it (set ``full``) for a moment before the next
flow is led to it.

A flow whose gateway has no room draws another one, by weight, and again while
that is shut: only so are those with room led shares by their weights, whichever
these are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, pairwise

from agent.distribution import (
    OPENS,
    GatewayKey,
    Moment,
    Selector,
    candidates,
    refusal,
    selector,
    slot_rule,
    translation,
    weights,
)
from agent.ipversion import ADDRESS, KEYWORD
from protocol.ids import GroupId
from protocol.objects import Gateway, Listener, VirtualServer

FULL = "full"
"""Numbers of gateways that have no room, each for a moment."""
COUNTED_MOST = 1000
"""Largest limit of a gateway that the kernel counts: it walks through all its connections, once
per tick of its clock; for larger limits the agent's counts have to do."""
SHUT_MS = 2500
"""For so long a gateway that was filled is led no flow; longer than a pass of the agent."""
MAX_CLIENTS = 65_536
"""Clients that a listener remembers, per kind of memory and IP version."""
RATE_MEMORY_S = 60
OVERFULL = "overfull"

DRAWS = 16
"""So often a flow draws a gateway with room, before it goes to the first one of the list. While
four of five are shut, but not by the agent's count, one flow of 35 does."""

SHARED_SETS = {FULL: "set full { type classid; size 65536; flags dynamic,timeout; }"}
SHARED_CHAINS = {OVERFULL: (f"{OPENS} drop", "meta l4proto udp drop")}
"""Drops what opens a flow: it comes again, and finds the gateway shut."""


@dataclass(frozen=True)
class Part:
    """What one listener has in the table."""

    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Rules by name of the chain."""
    sets: Mapping[str, str] = field(default_factory=dict)
    """Declarations of sets and maps by name; they depend on the configuration alone."""


def listener_part(
    name: str,
    vs: VirtualServer,
    listener: Listener,
    version: int,
    down: frozenset[GatewayKey],
    moment: Moment,
) -> Part:
    """Chain ``name`` of a listener for one IP version, with all that it leads to."""
    gateways = candidates(vs, version, down)
    sets = dict(_sets(name, listener, version))
    counts = _counts(vs, version)
    if counts:
        sets |= SHARED_SETS
    limits = _client_limits(name, listener, version)
    if not gateways:
        return Part({name: refusal(listener), **counts}, sets)
    found = selector(vs, listener, version, gateways, moment)
    limited = any(g.max_connections for g in gateways)
    if not listener.sticky and not limited:
        rule, needed = slot_rule(listener, version, found)
        return Part({name: (*limits, rule), **counts}, {**sets, **needed})
    lanes = _Lanes(name, vs, listener, version, numbers(vs))
    choice, needed = lanes.choice(gateways, found, limited=limited)
    chains = {name: (*limits, *choice), **counts}
    sets.update(needed)
    if limited and len(gateways) > 1:
        shares = weights(vs, listener, gateways, moment)
        chains[lanes.drawing] = lanes.draw(gateways, shares, moment.full)
    for gateway in gateways:
        full = (vs.uid, gateway.name) in moment.full
        chains[lanes.lane_of(gateway)] = lanes.lane(gateway, full=full)
    return Part(chains, sets)


def _counts(vs: VirtualServer, version: int) -> dict[str, tuple[str, ...]]:
    """Chains that count the connections of each gateway which the kernel counts.

    Also while it takes none: a chain that is made anew would begin with none.
    """
    given, shut = numbers(vs), f"update @{FULL} {{ meta priority timeout {SHUT_MS}ms }}"
    chains = {
        _count_of(vs, given[g.address]): (
            f"ct count over {g.max_connections - 1} {shut}",
            f"ct count over {g.max_connections} jump {OVERFULL}",
        )
        for g in vs.gateways
        if (":" in g.address) is (version == 6) and 0 < g.max_connections <= COUNTED_MOST
    }
    return {**SHARED_CHAINS, **chains} if chains else {}


def _count_of(vs: VirtualServer, number: int) -> str:
    """Name of the chain that counts the connections of a gateway."""
    return f"count_{vs.uid}_{number:08x}"


def numbers(vs: VirtualServer) -> dict[str, int]:
    """A number for each gateway by its address, the same on every device."""
    return _numbers(vs.uid, tuple(sorted(g.address for g in vs.gateways)))


@lru_cache(maxsize=1024)
def _numbers(uid: GroupId, addresses: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for address in addresses:
        digest = hashlib.blake2b(f"{uid} {address}".encode(), digest_size=4).digest()
        number = int.from_bytes(digest, "big") % 0xFFFFFFF0 + 1
        while number in found.values():
            number += 1
        found[address] = number
    return found


def class_id(number: int) -> str:
    """A number as nft writes a priority."""
    return f"{number >> 16:x}:{number & 0xFFFF:x}"


def sticky_map(name: str) -> str:
    """Name of the map from clients to numbers of gateways, of the listener's chain ``name``."""
    return f"{name}_sticky"


def _sets(name: str, listener: Listener, version: int) -> Mapping[str, str]:
    """Memories of a listener. A limit is part of the name: elements keep the one they began with"""
    kind, size = ADDRESS[version], f"size {MAX_CLIENTS};"
    found = {}
    if listener.client_connections:
        connections = f"{name}_c{listener.client_connections}"
        found[connections] = f"set {connections} {{ type {kind}; {size} flags dynamic; }}"
    if listener.client_rate:
        rate = f"{name}_r{listener.client_rate}"
        found[rate] = f"set {rate} {{ type {kind}; {size} flags dynamic,timeout; }}"
    if listener.sticky:
        sticky = sticky_map(name)
        found[sticky] = f"map {sticky} {{ type {kind} : classid; {size} flags dynamic,timeout; }}"
    return found


def _client_limits(name: str, listener: Listener, version: int) -> tuple[str, ...]:
    """Rules that stop what a client opens beyond its limits.

    Flows that merely go on, after a takeover, are counted but never stopped.
    """
    source = f"{KEYWORD[version]} saddr"
    tcp = listener.protocol == "tcp"
    rules = []
    if rate := listener.client_rate:
        opens = OPENS if tcp else "meta l4proto udp"
        limit = f"limit rate over {rate}/second burst {rate} packets"
        rules.append(
            f"{opens} update @{name}_r{rate} {{ {source} timeout {RATE_MEMORY_S}s {limit} }} drop"
        )
    if most := listener.client_connections:
        verdict = refusal(listener)[0]
        rules.append(f"add @{name}_c{most} {{ {source} ct count over {most} }} {verdict}")
    return tuple(rules)


@dataclass(frozen=True)
class _Lanes:
    """Chains of the gateways of one listener, and the rules that lead to them."""

    name: str
    vs: VirtualServer
    listener: Listener
    version: int
    numbers: Mapping[str, int]

    def choice(
        self, gateways: tuple[Gateway, ...], found: Selector, *, limited: bool
    ) -> tuple[tuple[str, ...], Mapping[str, str]]:
        """A sticky client's gateway, then the slot's, then any with room, then nobody.

        Rules, and sets that they need.
        """
        lanes = {g.address: self.lane_of(g) for g in gateways}
        rules: list[str] = []
        sets: Mapping[str, str] = {}
        if self.listener.sticky:
            source = f"{KEYWORD[self.version]} saddr"
            rules.append(
                f"meta priority set {source} map @{sticky_map(self.name)} {self._led(gateways)}"
            )
            # An update would leave another gateway in the client's element.
            rules.append(f"delete @{sticky_map(self.name)} {{ {source} : {class_id(1)} }}")
        if found.only is None:
            way = found.verdict({address: f"jump {lane}" for address, lane in lanes.items()})
            rules.append(way.ahead + way.expression)
            sets = way.sets
        else:
            rules.append(f"jump {lanes[found.only]}")
        if limited and len(lanes) > 1:
            rules.append(f"jump {self.drawing}")
            if any(0 < g.max_connections <= COUNTED_MOST for g in gateways):
                rules += [f"meta priority @{FULL} jump {self.drawing}"] * (DRAWS - 1)
            rules.append(self._led(gateways))
            rules += (f"jump {lane}" for lane in lanes.values())
        return (*rules, *refusal(self.listener)), sets

    def _led(self, gateways: tuple[Gateway, ...]) -> str:
        """Leads to the gateway whose number stands in ``meta priority``."""
        table = ", ".join(
            f"{class_id(self.numbers[g.address])} : jump {self.lane_of(g)}" for g in gateways
        )
        return f"meta priority vmap {{ {table} }}"

    @property
    def drawing(self) -> str:
        """Name of the chain that draws a gateway for a flow whose own has no room."""
        return f"{self.name}_draw"

    def draw(
        self,
        gateways: tuple[Gateway, ...],
        shares: Mapping[str, int],
        full: frozenset[GatewayKey],
    ) -> tuple[str, ...]:
        """Sets ``meta priority`` to the number of a gateway, by the shares of those not ``full``.

        A chain of its own: what the agent counts changes it, and no turn begins anew.
        """
        room = tuple(g for g in gateways if (self.vs.uid, g.name) not in full) or gateways
        ends = list(accumulate((shares[g.address] for g in room), initial=0))
        table = ", ".join(
            f"{first}-{end - 1} : {class_id(self.numbers[g.address])}"
            for g, (first, end) in zip(room, pairwise(ends), strict=True)
        )
        return (f"meta priority set numgen random mod {ends[-1]} map {{ {table} }}",)

    def lane_of(self, gateway: Gateway) -> str:
        """Name of the gateway's chain."""
        return f"{self.name}_{self.numbers[gateway.address]:08x}"

    def lane(self, gateway: Gateway, *, full: bool) -> tuple[str, ...]:
        """The rules of the gateway's chain, which returns where it has no room."""
        number = self.numbers[gateway.address]
        most = gateway.max_connections
        if most and full:
            return ("return",)
        rules = [f"meta priority set {class_id(number)}"]
        if 0 < most <= COUNTED_MOST:
            rules += (f"meta priority @{FULL} return", f"jump {_count_of(self.vs, number)}")
        if self.listener.sticky:
            client = f"@{sticky_map(self.name)} {{ {KEYWORD[self.version]} saddr"
            rules.append(f"update {client} timeout {self.listener.sticky}s : {class_id(number)} }}")
        rules.append("meta priority set none")
        rules.append(translation(self.listener, self.version, gateway.address))
        return tuple(rules)
