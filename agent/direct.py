"""Forwarding ``dsr`` as nftables text: table ``netdev halb_direct``. Pure.

A packet to the VIP goes on to its gateway as it is, on the wire that it came
from; the gateway has the VIP too, and answers the client itself. ``fwd`` finds
the gateway's hardware address as the kernel does for its own packets. The chain
stands behind the lease's, so that a device without a lease forwards nothing.

``meta pkttype host`` keeps devices from forwarding frames for another one that a
switch floods to all: the client would get everything several times.

A packet is counted for its listener and the seat of its gateway, just before it is sent on. The
counters outlive every change of the table, until the seat is another gateway's.

While slots of a listener move (:mod:`agent.staying`), the connections whose slots
do are remembered in a map of its own. So does that.

Errors of ICMP about a flow, such as that a packet was too large, go where the flow does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from agent import quoting
from agent.contents import united
from agent.distribution import (
    AT_REST,
    OPENS,
    GatewayKey,
    Selector,
    candidates,
    seat_class,
    selector,
    slot_of,
)
from agent.ipversion import KEYWORD, SUFFIX
from agent.quoting import NUMBER
from agent.ruleset import Desired, Pieces, carried
from agent.staying import amid, answering, before, earlier
from agent.ways import COUNTED, ERRORS, FIRST, GATEWAYS, KNOWN, RANGED, SENT, WAYS, Ways
from protocol.objects import Listener, VirtualServer
from protocol.seats import seats
from protocol.settling import STAY_S

_NUMBERS = 0xFFFFFFFF
"""So many connections are told apart. Of two with one number, the second goes where the first
does: with all that are remembered, one in 16,000. nft 1.0.6 takes no longer keys of IPv6."""
_UNMARKED = "meta mark set 0"
_ICMP = {4: "icmp", 6: "icmpv6"}
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


class Compiler:
    """Virtual Servers to the table; works anew only on those that changed since the last one."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._pieces = Pieces(self._part)

    def compile(self, desired: Desired) -> Ways:
        """The table for those Virtual Servers that have this mode."""
        some = tuple(vs for vs in desired.virtual_servers if vs.forwarding == "dsr")
        return _together(self._pieces.of(replace(desired, virtual_servers=some)))

    def _part(self, alone: Desired) -> Ways:
        return compiled(carried(alone), alone.down, alone.gone, self._interface)


def _together(parts: Sequence[Ways]) -> Ways:
    """What several Virtual Servers have in one table."""
    return Ways(
        {name: rules for part in parts for name, rules in part.chains.items()},
        {name: text for part in parts for name, text in part.sets.items()},
        united(part.maps for part in parts),
        united(part.accounts for part in parts),
    )


def compiled(
    some: Iterable[Carried],
    down: frozenset[GatewayKey],
    gone: frozenset[GatewayKey],
    interface: str,
) -> Ways:
    """The table for ``some`` listeners of Virtual Servers, all with this mode.

    Of the gateways that are ``down``, nothing is led any more to those in ``gone``. A listener
    without gateways is left to :mod:`agent.ruleset`, which refuses its flows.
    """
    lanes = (_Lane(*each, interface) for each in some)
    return _together([_part(lane, *_shares(lane, down, gone), gone) for lane in lanes])


def _part(
    lane: _Lane, present: Selector | None, past: Selector | None, gone: frozenset[GatewayKey]
) -> Ways:
    """What one listener has in the table."""
    listener, suffix = lane.listener, SUFFIX[lane.version]
    counted = COUNTED if listener.protocol == "tcp" else (SENT,)
    accounts = {f"{name}{suffix}": lane.accounts for name in counted if lane.accounts}
    # Also of those that nothing leads to now: they tell whose the accounts are.
    given = {f"{vip} . {seat}": to for vip in lane.vips for seat, to in lane.seats.items()}
    gateways = {f"{GATEWAYS}{suffix}": given} if given else {}
    if not (present or past):
        return Ways(maps=gateways, accounts=accounts)
    rules, sets = _rules(lane, present, past, gone)
    first, last = listener.ports
    end, ports = ("", str(first)) if first == last else (RANGED, f"{first}-{last}")
    protocol, to = listener.protocol, f"goto {lane.name}"
    maps = {
        WAYS + end: {f"{vip} . {protocol} . {ports}": to for vip in lane.vips},
        ERRORS + end: {f"{vip} . {NUMBER[protocol]} . {ports}": to for vip in lane.vips},
    }
    # An error meets none of the other rules' ports.
    chains = {**lane.shared, lane.name: (*rules, *_errors(lane, past or present, gone))}
    leading = {f"{each}{suffix}": content for each, content in maps.items()}
    return Ways(chains, sets, {**gateways, **leading}, accounts)


@dataclass(frozen=True)
class _Lane:
    """One listener for one IP version."""

    name: str
    vs: VirtualServer
    listener: Listener
    version: int
    vips: tuple[str, ...]
    interface: str

    @property
    def sent(self) -> str:
        """The statement that sends a packet on to the gateway of the seat in ``meta priority``,
        and counts it; the next rule decides where the listener has no such seat."""
        port = f"_{self.listener.port}" if self.listener.last_port else ""
        return f"jump sent_{self.listener.protocol}{port}_{KEYWORD[self.version]}"

    @property
    def passed_on(self) -> str:
        """The same for an error, which is not counted."""
        return f"jump {self._onward}"

    @property
    def _onward(self) -> str:
        """Name of the chain that sends a packet on."""
        return f"onward_{KEYWORD[self.version]}"

    @property
    def shared(self) -> Mapping[str, tuple[str, ...]]:
        """The chains that do so, for all listeners alike."""
        ip, listener = KEYWORD[self.version], self.listener
        port = "th dport"
        if listener.last_port:
            # All its ports are one account. A map is asked for what has a type, unlike a number.
            port = f"(th dport & 0x0 | {listener.port:#x})"
        key = f"{ip} daddr . meta l4proto . {port} . meta priority"
        suffix, typed = SUFFIX[self.version], f"meta l4proto {listener.protocol} "
        onward = f"goto {self._onward}"
        counted = f"{{ {key} counter }} {onward}"
        sending = [
            # Where there is an account, to look it up is to count, and takes less.
            f"{typed}{key} @{SENT}{suffix} {onward}",
            f"{typed}update @{SENT}{suffix} {counted}",
            # The set has no room.
            f"{typed}{onward}",
        ]
        if listener.protocol == "tcp":
            sending.insert(0, f"{OPENS} {typed}update @{FIRST}{suffix} {counted}")
        to = f"{ip} daddr . meta priority map @{GATEWAYS}{suffix}"
        forwarded = f'fwd {ip} to {to} device "{self.interface}"'
        return {self.sent.split()[1]: tuple(sending), self._onward: (forwarded,)}

    @cached_property
    def seats(self) -> Mapping[str, str]:
        """All its gateways by seat, also those that nothing leads to now."""
        given = seats(self.vs.gateways)
        some = (g.address for g in self.vs.gateways if (":" in g.address) is (self.version == 6))
        return {seat_class(given[address]): address for address in some}

    @cached_property
    def accounts(self) -> Mapping[str, str]:
        """The same by what packets are counted by."""
        service = f"{self.listener.protocol} . {self.listener.port}"
        return {
            f"{vip} . {service} . {seat}": to
            for vip in self.vips
            for seat, to in self.seats.items()
        }

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

    def known_seat(self, gone: frozenset[GatewayKey]) -> str:
        """The same where the gateway that has the seat answers."""
        given = seats(self.vs.gateways)
        there = sorted(given[g.address] for g in answering(self.vs, self.version, gone))
        return f"{self.looked_up} meta priority {{ {', '.join(map(seat_class, there))} }}"

    def remembering(self, seconds: int) -> str:
        """Remember the seat in ``meta priority``, and send on to what it leads to.

        Without room nothing is done, and the next rule decides.
        """
        update = f"update @{self.known} {{ meta mark timeout {seconds}s : meta priority }}"
        return f"{update} {_UNMARKED} {self.sent}"


def _shares(
    lane: _Lane, down: frozenset[GatewayKey], gone: frozenset[GatewayKey]
) -> tuple[Selector | None, Selector | None]:
    """Who has the slots, if anybody has; and who had them before, while slots move."""
    vs, listener, version = lane.vs, lane.listener, lane.version
    now, former = candidates(vs, version, down), before(vs)
    # What is known stays so while those of before are all down.
    then = (candidates(former, version, gone) or now) if amid(vs, listener, version) else ()
    return (
        selector(vs, listener, version, now, AT_REST) if now else None,
        selector(former, earlier(listener), version, then, AT_REST) if then else None,
    )


def _errors(lane: _Lane, shares: Selector | None, gone: frozenset[GatewayKey]) -> Iterator[str]:
    """Rules for errors of ICMP about flows of the listener: they go where these do."""
    assert shares is not None
    listener, version = lane.listener, lane.version
    match = f"meta l4proto {_ICMP[version]}"
    if amid(lane.vs, listener, version):
        number = lane.number(quoting.connection(version))
        yield f"{match} {number} {lane.known_seat(gone)} {_UNMARKED} {lane.passed_on}"
        match = f"{match} {_UNMARKED}"
    key = quoting.flow_key(earlier(listener), version)
    way = replace(shares, expression=slot_of(lane.vs, key)).seat()
    yield f"{match} {way.ahead}{lane.passed_on}"


def _rules(
    lane: _Lane, present: Selector | None, past: Selector | None, gone: frozenset[GatewayKey]
) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Rules of a listener, and sets that they need."""
    if past is None:
        assert present is not None
        way = present.seat()
        return (f"{way.ahead}{lane.sent}",), way.sets
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
        rules.append(f"{OPENS} {way.ahead}{lane.remembering(KNOWN_S)}")
    seat = lane.known_seat(gone)
    rules.append(f"tcp flags & (fin|rst) != 0 {seat} {lane.remembering(ENDED_S)}")
    # Not what merely acknowledges: one is the last packet of what the client has closed.
    rules.append(f"tcp flags & psh != 0 {seat} {lane.remembering(KNOWN_S)}")
    rules.append(f"{seat} {_UNMARKED} {lane.sent}")
    way = past.seat()
    rules.append(f"{_UNMARKED} {way.ahead}{lane.sent}")
    return tuple(rules), {**sets, **way.sets}


def _moved(past: Selector, present: Selector) -> list[int]:
    """Slots of which flows may have another gateway now."""
    otherwise = past.expression != present.expression
    pairs = zip(past.slots, present.slots, strict=True)
    return [n for n, (was, now) in enumerate(pairs) if otherwise or was != now]
