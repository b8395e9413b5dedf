"""Forwarding ``dsr`` as nftables text: table ``netdev halb_direct``. Pure.

A packet to the VIP goes on to its gateway as it is, on the wire that it came
from; the gateway has the VIP too, and answers the client itself. ``fwd`` finds
the gateway's hardware address as the kernel does for its own packets. The chain
stands behind the lease's, so that a device without a lease forwards nothing.

``meta pkttype host`` keeps devices from forwarding frames for another one that a
switch floods to all: the client would get everything several times.

The map that leads from a gateway's seat to its address counts what it is asked for, so a
packet is counted once, and only if it is sent on. Its counters outlive every change of the table.

While slots of a listener move (:mod:`agent.staying`), the connections whose slots
do are remembered in a map of its own. So does that.

Errors of ICMP about a flow, such as that a packet was too large, go where the flow does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from agent import quoting
from agent.distribution import (
    AT_REST,
    OPENS,
    GatewayKey,
    Selector,
    Way,
    candidates,
    declared,
    seat_class,
    seat_map,
    selector,
    slot_of,
)
from agent.ipversion import ADDRESS, KEYWORD, SUFFIX
from agent.quoting import KINDS
from agent.staying import amid, answering, before, earlier
from protocol.objects import Listener, VirtualServer
from protocol.seats import seats
from protocol.settling import STAY_S

TABLE = "halb_direct"
_MAPS = (("ways", ""), ("ways_ranges", " flags interval;"))
SENT, FIRST = "sent", "sent_first"
"""Maps from a listener and a seat to the gateway, with a counter for each: of the packets that
open a connection of TCP in the second, of all others in the first."""
COUNTED = (SENT, FIRST)
_HOOK = 'filter hook ingress device "{}" priority -400'
KNOWN = "_known"
"""Ends the name of a map from numbers of connections to seats."""
_NUMBERS = 0xFFFFFFFF
"""So many connections are told apart. Of two with one number, the second goes where the first
does: with all that are remembered, one in 16,000. nft 1.0.6 takes no longer keys of IPv6."""
_UNMARKED = "meta mark set 0"
KNOWN_MOST = 65_536
"""Connections that a listener remembers while slots move; others go by the slots of before."""
KNOWN_S = STAY_S
"""A connection is remembered for so long after its client's last word: none is forgotten while
one that is older than it may stay where it is."""
ENDED_S = 60
"""The same once the client has closed it; as long as what is left of it usually takes."""

Carried = tuple[str, VirtualServer, Listener, int, tuple[str, ...]]
"""Name for a chain, what it is for, IP version, VIPs of that version."""


def known_map(name: str) -> str:
    """Name of the map of connections of the listener with chain ``name``."""
    return f"{name}{KNOWN}"


Ends = Mapping[str, Mapping[str, str]]
"""Gateways by what leads to them, ``VIP . protocol . port . seat``, by name of the map."""


@dataclass(frozen=True)
class Present:
    """What the kernel has of the table."""

    parts: frozenset[str] = frozenset()
    """As nft lists them: ``chain NAME``, ``map NAME``."""
    ends: Ends = field(default_factory=dict)


@dataclass(frozen=True)
class Ways:
    """The table as data, without what packets put into it."""

    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Rules of each listener."""
    sets: Mapping[str, str] = field(default_factory=dict)
    """Declarations of what the rules need, by name."""
    ways: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What leads to the chains, by name of the map."""
    ends: Ends = field(default_factory=dict)
    """All gateways, also those that nothing leads to now: their counters stay."""

    @property
    def present(self) -> Present:
        """What the kernel then has."""
        if not self.ends:
            return Present()
        maps = (*self.sets, *(name for name, _, _ in _ways_maps()), *ends_maps())
        chains = ("ingress", *self.chains)
        parts = frozenset((*(f"chain {n}" for n in chains), *(f"map {n}" for n in maps)))
        return Present(parts, self.ends)


def compiled(carried: Iterable[Carried], down: frozenset[GatewayKey], interface: str) -> Ways:
    """The table for ``carried``: listeners of Virtual Servers with this mode alone.

    A listener without gateways is left to :mod:`agent.ruleset`, which refuses its flows.
    """
    chains: dict[str, tuple[str, ...]] = {}
    sets: dict[str, str] = {}
    ways: dict[str, tuple[str, ...]] = {}
    errors: dict[int, tuple[str, ...]] = {}
    ends: dict[str, dict[str, str]] = {}
    for name, vs, listener, version, vips in carried:
        lane = _Lane(name, vs, listener, version, interface)
        for counted, leading in lane.ends(vips):
            ends.setdefault(counted, {}).update(leading)
        present, past = _shares(lane, down)
        if not (present or past):
            continue
        chains[name], needed = _rules(lane, present, past, down)
        errors[version] = (*errors.get(version, ()), *_errors(lane, vips, past or present, down))
        sets |= needed
        first, last = listener.ports
        ports = str(first) if first == last else f"{first}-{last}"
        map_name = _MAPS[bool(listener.last_port)][0] + SUFFIX[version]
        elements = (f"{vip} . {listener.protocol} . {ports} : goto {name}" for vip in vips)
        ways[map_name] = (*ways.get(map_name, ()), *elements)
    found = {**chains, **{_errors_of(v): rules for v, rules in errors.items()}}
    return Ways(found, sets, ways, {name: each for name, each in ends.items() if each})


def load(wanted: Ways, interface: str, present: Present | None = None) -> str:
    """A script that makes the table exactly so.

    ``present`` is what the kernel has of it: then counters stay, and what connections are known
    stays known, where that is still needed. None: nothing stays.
    """
    lines = [f"add table netdev {TABLE}"]
    if present is None or not wanted.ends:
        lines.append(f"delete table netdev {TABLE}")
        if not wanted.ends:
            return "\n".join(lines) + "\n"
        lines.append(f"add table netdev {TABLE}")
    else:
        lines += _cleared(present.parts, wanted)
    lines += (declared("netdev", TABLE, text) for text in wanted.sets.values())
    lines += _counting({} if present is None else present.ends, wanted.ends)
    lines += (f"add chain netdev {TABLE} {name}" for name in wanted.chains)
    lines += _base(interface)
    lines += (
        f"add rule netdev {TABLE} ingress meta pkttype host {KINDS[version]} goto {chain}"
        for version in (4, 6)
        if (chain := _errors_of(version)) in wanted.chains
    )
    lines += (
        f"add rule netdev {TABLE} {name} {rule}"
        for name, rules in wanted.chains.items()
        for rule in rules
    )
    lines += (
        f"add element netdev {TABLE} {name} {{ {', '.join(elements)} }}"
        for name, elements in wanted.ways.items()
    )
    return "\n".join(lines) + "\n"


def _cleared(present: frozenset[str], wanted: Ways) -> Iterator[str]:
    """Commands that leave nothing but the connections that stay known."""
    yield f"flush table netdev {TABLE}"
    kept = {f"map {name}" for name in wanted.sets if name.endswith(KNOWN)}
    kept |= {f"map {name}" for name in ends_maps()}
    gone = sorted(present - kept)
    # What is in them refers to chains, which go first.
    maps = {f"map {name}" for name, _, _ in _ways_maps()}
    yield from (f"flush {_placed(part)}" for part in gone if part in maps)
    yield from (f"delete {_placed(part)}" for part in gone)


def _placed(part: str) -> str:
    kind, _, name = part.partition(" ")
    return f"{kind} netdev {TABLE} {name}"


def ends_maps() -> tuple[str, ...]:
    """Names of the maps that lead to gateways."""
    return tuple(f"{name}{suffix}" for suffix in SUFFIX.values() for name in COUNTED)


def _counting(old: Ends, new: Ends) -> Iterator[str]:
    """Commands for the maps that lead to gateways: what stays in them goes on counting."""
    for version, address in ADDRESS.items():
        kind = f"{address} . inet_proto . inet_service . classid : {address}"
        for name in (each + SUFFIX[version] for each in COUNTED):
            yield f"add map netdev {TABLE} {name} {{ type {kind}; counter; }}"
            was, will = old.get(name, {}), new.get(name, {})
            stale = [key for key, to in was.items() if will.get(key) != to]
            fresh = [f"{key} : {to}" for key, to in will.items() if was.get(key) != to]
            for verb, some in (("delete", stale), ("add", fresh)):
                if some:
                    yield f"{verb} element netdev {TABLE} {name} {{ {', '.join(some)} }}"


def _ways_maps() -> Iterator[tuple[str, int, str]]:
    """Name, IP version and flags of each map that leads to chains."""
    for name, flags in _MAPS:
        for version in (4, 6):
            yield name + SUFFIX[version], version, flags


def _base(interface: str) -> Iterable[str]:
    hook = _HOOK.format(interface)
    yield f"add chain netdev {TABLE} ingress {{ type {hook}; policy accept; }}"
    for name, version, flags in _ways_maps():
        key = f"{ADDRESS[version]} . inet_proto . inet_service"
        yield f"add map netdev {TABLE} {name} {{ type {key} : verdict;{flags} }}"
        yield (
            f"add rule netdev {TABLE} ingress meta pkttype host {KEYWORD[version]} daddr "
            f". meta l4proto . th dport vmap @{name}"
        )


@dataclass(frozen=True)
class _Lane:
    """One listener for one IP version."""

    name: str
    vs: VirtualServer
    listener: Listener
    version: int
    interface: str

    def forwarded(self, to: str) -> str:
        """The statement that sends a packet on to the gateway ``to``, or what it is mapped to."""
        return f'fwd {KEYWORD[self.version]} to {to} device "{self.interface}"'

    def sent(self, name: str = SENT) -> str:
        """The statement that sends a packet on to the gateway of the seat in ``meta priority``,
        by way of the map that counts it; the next rule decides where that has no such seat."""
        ip, listener = KEYWORD[self.version], self.listener
        port = "th dport"
        if listener.last_port:
            # All its ports are one account. A map is asked for what has a type, unlike a number.
            port = f"(th dport & 0x0 | {listener.port:#x})"
        key = f"{ip} daddr . meta l4proto . {port} . meta priority"
        to = f"{key} map @{name}{SUFFIX[self.version]}"
        return f"meta l4proto {listener.protocol} {self.forwarded(to)}"

    def by_slot(self, way: Way, ahead: str = "") -> Iterator[str]:
        """Rules that send packets on by their slot."""
        if self.listener.protocol == "tcp":
            yield f"{ahead}{OPENS} {way.ahead}{self.sent(FIRST)}"
        yield f"{ahead}{way.ahead}{self.sent()}"

    def ends(self, vips: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
        """All its gateways, by name of the map."""
        listener, given = self.listener, seats(self.vs.gateways)
        gateways = {
            f"{vip} . {listener.protocol} . {listener.port} . {seat_class(given[g.address])}": (
                g.address
            )
            for vip in vips
            for g in self.vs.gateways
            if (":" in g.address) is (self.version == 6)
        }
        for name in COUNTED if listener.protocol == "tcp" else (SENT,):
            yield name + SUFFIX[self.version], gateways

    @property
    def known(self) -> str:
        """Name of its map of connections."""
        return known_map(self.name)

    def number(self, connection: str) -> str:
        """The statement that gives a packet the number of its connection."""
        return f"meta mark set jhash {connection} mod {_NUMBERS} seed {self.vs.seed:#x}"

    @property
    def looked_up(self) -> str:
        """The statement that finds the seat of the connection with this number."""
        return f"meta priority set meta mark map @{self.known}"

    def there(self, down: frozenset[GatewayKey]) -> Mapping[int, str]:
        """Gateways that answer, by seat."""
        given = seats(self.vs.gateways)
        return {given[g.address]: g.address for g in answering(self.vs, self.version, down)}

    def remembering(self, seconds: int, name: str = SENT) -> str:
        """Remember the seat in ``meta priority``, and send on to what it leads to.

        Without room nothing is done, and the next rule decides.
        """
        update = f"update @{self.known} {{ meta mark timeout {seconds}s : meta priority }}"
        return f"{update} {_UNMARKED} {self.sent(name)}"


def _shares(lane: _Lane, down: frozenset[GatewayKey]) -> tuple[Selector | None, Selector | None]:
    """Who has the slots, if anybody has; and who had them before, while slots move."""
    vs, listener, version = lane.vs, lane.listener, lane.version
    now, former = candidates(vs, version, down), before(vs)
    # What is known stays so while those of before are all down.
    then = (candidates(former, version, down) or now) if amid(vs, listener, version) else ()
    return (
        selector(vs, listener, version, now, AT_REST) if now else None,
        selector(former, earlier(listener), version, then, AT_REST) if then else None,
    )


def _errors_of(version: int) -> str:
    """Name of the chain for errors about flows."""
    return f"errors{SUFFIX[version]}"


def _errors(
    lane: _Lane, vips: tuple[str, ...], shares: Selector | None, down: frozenset[GatewayKey]
) -> Iterator[str]:
    """Rules for errors of ICMP about flows of the listener: they go where these do."""
    assert shares is not None
    listener, version = lane.listener, lane.version
    match = quoting.about(listener, version, vips)
    if amid(lane.vs, listener, version):
        number = lane.number(quoting.connection(version))
        to = lane.forwarded(seat_map(lane.there(down)))
        yield f"{match} {number} {lane.looked_up} {_UNMARKED} {to}"
        match = f"{match} {_UNMARKED}"
    key = quoting.flow_key(earlier(listener), version)
    way = replace(shares, expression=slot_of(lane.vs, key)).gateway()
    yield f"{match} {way.ahead}{lane.forwarded(way.expression)}"


def _rules(
    lane: _Lane, present: Selector | None, past: Selector | None, down: frozenset[GatewayKey]
) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Rules of a listener, and sets that they need."""
    if past is None:
        assert present is not None
        way = present.seat()
        return tuple(lane.by_slot(way)), way.sets
    known = f"map {lane.known} {{ type mark : classid; size {KNOWN_MOST}; flags dynamic,timeout; }}"
    sets = {lane.known: known}
    ip = KEYWORD[lane.version]
    rules = [lane.number(f"{ip} saddr . tcp sport . {ip} daddr . tcp dport")]
    if present is None:
        rules.insert(0, f"{OPENS} accept")
    # An update would leave another gateway in the element of a client that has its port again.
    rules.append(f"{OPENS} delete @{lane.known} {{ meta mark : 0:1 }}")
    if present is not None and (moved := _moved(past, present)):
        way = present.seat_of(moved)
        sets |= way.sets
        rules.append(f"{OPENS} {way.ahead}{lane.remembering(KNOWN_S, FIRST)}")
    there = ", ".join(map(seat_class, sorted(lane.there(down))))
    seat = f"{lane.looked_up} meta priority {{ {there} }}"
    rules.append(f"tcp flags & (fin|rst) != 0 {seat} {lane.remembering(ENDED_S)}")
    # Not what merely acknowledges: one is the last packet of what the client has closed.
    rules.append(f"tcp flags & psh != 0 {seat} {lane.remembering(KNOWN_S)}")
    rules.append(f"{seat} {_UNMARKED} {lane.sent()}")
    way = past.seat()
    rules += lane.by_slot(way, f"{_UNMARKED} ")
    return tuple(rules), {**sets, **way.sets}


def _moved(past: Selector, present: Selector) -> list[int]:
    """Slots of which flows may have another gateway now."""
    otherwise = past.expression != present.expression
    pairs = zip(past.slots, present.slots, strict=True)
    return [n for n, (was, now) in enumerate(pairs) if otherwise or was != now]
