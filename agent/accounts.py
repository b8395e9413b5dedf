"""Accounts of the traffic as nftables text: table ``inet halb_count``.

Pure. It stands apart from the table that balances, so that nothing that is done
there, a rule swapped or the whole table made anew, touches a counter; an agent
that starts finds it and goes on counting. Elements with counters come to be by
themselves with the first packet, so the table costs nothing to load.

There are as many as pairs of listener and gateway, whatever clients send: a listener with
several ports has one account of a gateway, under its first port.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from agent.distribution import OPENS
from agent.forwarding import memoryless
from agent.ipversion import ADDRESS, KEYWORD, SUFFIX
from agent.numbers import HASH, MAX_NUMBERED, text_of
from agent.ruleset import Desired, carried
from protocol.addresses import family
from protocol.objects import Listener
from protocol.ports import Ports

TABLE = "halb_count"
MAX_ELEMENTS = 262_144
"""Pairs of listener and gateway, twice (forth and back), of one IP version."""
FORTH, BACK = "passed", "answered"
"""Packets that no flow is remembered of, to and from a gateway: that of `routed` without memory."""
LEFT = "left"
"""Those of both ways that went out again: others of this host dropped the rest."""
BEGUN = "begun"
"""Of what goes out to a gateway of such a listener, packets that open a connection of TCP; of
those that are remembered, too: what is met amid a connection opens none."""
BY_GATEWAY = (FORTH, BACK, LEFT, BEGUN)
GATEWAYS = "gateways"
"""Set of those gateways, which have an account with their first packet."""
RANGED = "_range"
"""Ends the name of a set for listeners with several ports."""
OPENED_BY, CARRIED_BY = "marked_opened", ("marked", "marked_back")
"""The same as in ``opened`` and, forth and back, ``carried``, of flows with an account's number."""
MARKED = (OPENED_BY, *CARRIED_BY)
SETS = (
    "offered", "offered_range", "untracked", "entered",
    *(name + end for name in BY_GATEWAY for end in ("", RANGED)), "opened", "carried",
)  # fmt: skip
"""Sets with counters, in the order of a packet's way."""
DYNAMIC = frozenset({"untracked", "entered", *BY_GATEWAY, "opened", "carried"})
"""Those whose elements come to be with packets, which make none for a range of ports."""

LANES = ("known", "fresh", "opened")
"""Chains that flows of a listener with several ports leave for one of their own, and the
beginning of the names of the maps that lead there."""
_PORT = "ct original proto-dst"
_STATUS = "ct status & (dnat | confirmed) == "
_GO_ON = f"{_STATUS}(dnat | confirmed) goto known"
_ENTERED = (
    f"ct direction original ct mark @{CARRIED_BY[0]} accept",
    f"ct mark @{CARRIED_BY[1]} accept",
    _GO_ON,
    f"{_STATUS}dnat goto fresh",
)
"""On the way to or from a gateway most packets of flows meet but the first of these."""
_LAST = "srcnat - 11; policy accept"
_ALL = tuple((end, version) for end in ("", RANGED) for version in (4, 6))


def _each(rule: str) -> tuple[str, ...]:
    """A rule per IP version and protocol; the port has a type only where that is known."""
    return tuple(
        f"meta l4proto {protocol} {rule.format(ip=KEYWORD[version], suffix=SUFFIX[version])}"
        for version in (4, 6)
        for protocol in ("tcp", "udp")
    )


def _counted(
    name: str, key: str, then: str = "accept", lane: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Rules that count for an account: where there is one, to look it up is to count.

    ``lane``: rules that come before one is made.
    """
    return (
        *_each(f"{key} @{name}{{suffix}} {then}"),
        *lane,
        *_each(
            f"ct original {{ip}} daddr @vips{{suffix}}"
            f" update @{name}{{suffix}} {{{{ {key} counter }}}} {then}"
        ),
    )


@dataclass(frozen=True)
class Accounts:
    """What is counted; equal accounts are the same kernel state, counters aside."""

    vips: frozenset[str] = frozenset()
    services: frozenset[str] = frozenset()
    """``VIP . protocol . port`` of each listener with one port."""
    ranges: frozenset[str] = frozenset()
    """The same with ``first-last`` of each other listener."""
    gateways: frozenset[str] = frozenset()
    """``gateway . protocol . port`` where no flows are remembered; no two listeners share one."""
    gateway_ranges: frozenset[str] = frozenset()
    """The same with ``first-last``."""
    lanes: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    """Port under which the flows to ``VIP . protocol . first-last`` are counted."""

    @property
    def unremembered(self) -> tuple[tuple[str, int], ...]:
        """Of packets that no flow is remembered of, which are to be counted: of listeners with one
        port or, :data:`RANGED`, with several, and of which IP version."""
        kinds = (("", self.gateways), (RANGED, self.gateway_ranges))
        return tuple(
            (end, version)
            for end, keys in kinds
            for version in (4, 6)
            if any(family(key.partition(" ")[0]) == version for key in keys)
        )


def accounts_of(desired: Desired) -> Accounts:
    """The accounts of the Virtual Servers that a device carries."""
    services, gateways = (set[str](), set[str]()), (set[str](), set[str]())
    singles: dict[tuple[str, str], list[int]] = {}
    several: list[tuple[str, Listener]] = []
    for _, vs, listener, version, vips in carried(desired):
        ranged = listener.last_port > 0
        services[ranged].update(_keys(vips, listener, listener.ports))
        for vip in vips:
            if ranged:
                several.append((vip, listener))
            else:
                singles.setdefault((vip, listener.protocol), []).append(listener.port)
        if memoryless(vs, listener, vips):
            some = (g.address for g in vs.gateways if family(g.address) == version)
            gateways[ranged].update(_keys(some, listener, listener.gateway_ports))
    lanes = {
        key: listener.port
        for vip, listener in several
        for part in _without(listener.ports, singles.get((vip, listener.protocol), ()))
        for key in _keys((vip,), listener, part)
    }
    return Accounts(desired.addresses, *map(frozenset, (*services, *gateways)), lanes=lanes)


def _without(ports: Ports, singles: Iterable[int]) -> Iterator[Ports]:
    """What is left of a range without ports that have a listener of their own."""
    first, last = ports
    for port in sorted(singles):
        if first <= port <= last:
            if first < port:
                yield first, port - 1
            first = port + 1
    if first <= last:
        yield first, last


def _keys(addresses: Iterable[str], listener: Listener, ports: Ports) -> Iterator[str]:
    first, last = ports
    text = str(first) if first == last else f"{first}-{last}"
    return (f"{ip_address(each)} . {listener.protocol} . {text}" for each in addresses)


def table(wanted: Accounts, *, flow_marks: bool = True) -> str:
    """A script that makes the table for accounts like these, which :func:`change` opens;
    counters of one that stands there stay.

    Without ``flow_marks`` no flow is marked any more.
    """
    lines = [f"add table inet {TABLE}"]
    for version in (4, 6):
        suffix, address = SUFFIX[version], ADDRESS[version]
        service = f"{address} . inet_proto . inet_service"
        flow = f"{service} . {address}"
        dynamic = f"size {MAX_ELEMENTS}; flags dynamic;"
        lines += (
            f"add set inet {TABLE} {name}{suffix} {{ {text} }}"
            for name, text in (
                ("vips", f"type {address};"),
                ("offered", f"type {service}; counter;"),
                ("offered_range", f"type {service}; flags interval; counter;"),
                ("untracked", f"type {address}; {dynamic}"),
                ("entered", f"type {service}; {dynamic}"),
                ("opened", f"type {flow}; {dynamic}"),
                ("carried", f"type {flow} . ct_dir; {dynamic}"),
                (GATEWAYS, f"type {service};"),
                *((name, f"type {service}; {dynamic}") for name in BY_GATEWAY),
                *(
                    (name + RANGED, f"type {service}; flags interval; counter;")
                    for name in BY_GATEWAY
                ),
            )
        )
        lanes = [f"{name}{RANGED}{suffix}" for name in LANES]
        lines += (
            f"add map inet {TABLE} {name} {{ type {service} : verdict; flags interval; }}"
            for name in lanes
        )
        # What leads where is said anew: somebody may have altered it.
        lines += (f"flush map inet {TABLE} {name}" for name in lanes)
    lines += (
        f"add set inet {TABLE} {name} {{ type mark; size {MAX_NUMBERED}; counter; }}"
        for name in MARKED
    )
    for chain, (hook, rules) in _chains(flow_marks=flow_marks).items():
        how = f" {{ type {hook}; policy accept; }}" if hook else ""
        lines.append(f"add chain inet {TABLE} {chain}{how}")
        lines.append(f"flush chain inet {TABLE} {chain}")
        lines += (f"add rule inet {TABLE} {chain} {rule}" for rule in rules)
    return "".join(f"{line}\n" for line in (*lines, *_without_memory(wanted)))


def _without_memory(wanted: Accounts) -> Iterator[str]:
    """Commands for the rules that count what no flow is remembered of, from whatever is there:
    every packet of this host meets them, so there are those alone that are needed."""
    some, table = wanted.unremembered, f"inet {TABLE}"
    yield f"add chain {table} leaving {{ type filter hook postrouting priority {_LAST}; }}"
    leaving = _by_gateway(some, (LEFT, "d"), (LEFT, "s"))
    chains = {
        # Asked first: each of the others takes what such a packet has none of.
        "entered": (*(["ct state untracked goto passing"] if some else []), *_ENTERED),
        "passing": _by_gateway(some, (FORTH, "d"), (BACK, "s")),
        "leaving": (f"{OPENS} jump opening", "ct state != untracked accept", *leaving),
    }
    for chain, rules in chains.items():
        yield f"flush chain {table} {chain}"
        if chain != "leaving" or some:
            yield from (f"add rule {table} {chain} {rule}" for rule in rules)
    if not some:
        yield f"delete chain {table} leaving"


def _chains(*, flow_marks: bool) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Hook and rules; one without a hook is led to by those behind it.

    Chains of type nat see the first packet of each flow, and no other.
    """
    offered = tuple(
        f"{KEYWORD[v]} daddr . meta l4proto . th dport @{name}{SUFFIX[v]} accept"
        for name in ("offered", "offered_range")
        for v in (4, 6)
    )
    lane = _lane(_PORT, flow_marks=flow_marks)
    opened = lane.pop("opened")
    return {
        "offered": ("nat hook prerouting priority dstnat - 11", offered),
        "offered_here": ("nat hook output priority -111", offered),
        # What comes here was marked `notrack` by somebody, so that no rule could balance it.
        "untracked": (
            "filter hook input priority -400",
            tuple(
                f"ct state untracked meta l4proto {{ tcp, udp }}"
                f" {KEYWORD[v]} daddr @vips{SUFFIX[v]}"
                f" update @untracked{SUFFIX[v]} {{ {KEYWORD[v]} daddr counter }}"
                for v in (4, 6)
            ),
        ),
        # On its way between a client and a gateway, whose address it has both ways here.
        "passing": ("", ()),
        # On its way to such a gateway, but not if a process of this device asks that itself.
        "opening": (
            "",
            (
                "ct state != untracked ct status & dnat == 0 return",
                *_by_gateway(_ALL, (BEGUN, "d"), then="return"),
            ),
        ),
        **{name: ("", rules) for name, rules in lane.items()},
        # On its way to or from a gateway.
        "entered": ("filter hook forward priority -400", ()),
        "opened": (
            "nat hook postrouting priority srcnat - 11",
            (
                f"ct mark @{OPENED_BY} ct mark @{CARRIED_BY[0]} accept",
                "ct status & dnat == 0 accept",
                *opened,
            ),
        ),
        # From a process of this device.
        "carried": ("filter hook output priority 300", (_GO_ON,)),
    }


def _lane(port: str, end: str = "", *, flow_marks: bool) -> dict[str, tuple[str, ...]]:
    """Rules by chain for flows whose account is under ``port``; ``end`` ends the chains' names."""
    service = f"ct original {{ip}} daddr . meta l4proto . {port}"
    # What a packet says is read quicker than its flow.
    first = service + " . {ip} daddr"
    way = service + " . ct reply {ip} saddr . ct direction"
    number = f"ct mark 0 ct mark set jhash {first} {HASH} accept"
    leave = {
        name: () if end else _each(f"{service} vmap @{name}{RANGED}{{suffix}}") for name in LANES
    }
    return {
        # Of a flow that has passed this host before.
        f"known{end}": _counted("carried", way, lane=leave["known"]),
        f"number{end}": _each(number) if flow_marks else (),
        # Balanced, and not confirmed: it has yet to pass the other firewalls of this host.
        f"fresh{end}": _counted("entered", service, f"goto number{end}", leave["fresh"]),
        f"first{end}": _counted("carried", f"{first} . ct direction"),
        f"opened{end}": _counted("opened", first, f"goto first{end}", leave["opened"]),
    }


def _end(port: int) -> str:
    return f"_{port}"


def _lanes_made(ports: Iterable[int], *, flow_marks: bool) -> Iterator[str]:
    """Commands for the chains of flows that are counted under these ports."""
    for port in ports:
        # A set is asked for an expression that has a type, which a number has not.
        chains = _lane(f"{_PORT} & 0x0 | {port:#x}", _end(port), flow_marks=flow_marks)
        yield from (f"add chain inet {TABLE} {name}" for name in chains)
        for name, rules in chains.items():
            yield f"flush chain inet {TABLE} {name}"
            yield from (f"add rule inet {TABLE} {name} {rule}" for rule in rules)


def _lanes_gone(ports: Iterable[int]) -> Iterator[str]:
    names = [name for port in ports for name in _lane(_PORT, _end(port), flow_marks=True)]
    for verb in ("flush", "delete"):
        yield from (f"{verb} chain inet {TABLE} {name}" for name in names)


def _by_gateway(
    some: Iterable[tuple[str, int]], *sets: tuple[str, str], then: str = "accept"
) -> tuple[str, ...]:
    """Rules that count in the ``sets`` for the gateway at one end of a packet, ``d`` or ``s``.

    Accounts that there are come first: most packets meet nothing else.
    """
    counted, made = [], []
    for base, end in sets:
        for ranged, version in some:
            key = f"{KEYWORD[version]} {end}addr . meta l4proto . th {end}port"
            account = f"@{base}{ranged}{SUFFIX[version]}"
            counted.append(f"{key} {account} {then}")
            if not ranged:
                known = f"{key} @{GATEWAYS}{SUFFIX[version]}"
                made.append(f"{known} update {account} {{ {key} counter }} {then}")
    return (*counted, *made)


def change(old: Accounts, new: Accounts, *, flow_marks: bool = True) -> str:
    """The smallest script that leads from ``old`` to ``new``; empty if they are equal."""
    kinds = (
        (("vips",), old.vips, new.vips),
        (("offered",), old.services, new.services),
        (("offered_range",), old.ranges, new.ranges),
        ((GATEWAYS,), old.gateways, new.gateways),
        (tuple(name + RANGED for name in BY_GATEWAY), old.gateway_ranges, new.gateway_ranges),
        *(((name + RANGED,), _led(old, name), _led(new, name)) for name in LANES),
    )
    before, after = set(old.lanes.values()), set(new.lanes.values())
    lines = [
        *_lanes_made(sorted(after - before), flow_marks=flow_marks),
        *(
            line
            for names, was, will in kinds
            for name in names
            # What goes may overlap with what comes.
            for verb, keys in (("delete", was - will), ("add", will - was))
            for line in _elements(verb, name, keys)
        ),
        *_lanes_gone(sorted(before - after)),
        *(_without_memory(new) if old.unremembered != new.unremembered else ()),
    ]
    return "".join(f"{line}\n" for line in lines)


def _led(accounts: Accounts, name: str) -> frozenset[str]:
    """Elements of the map that leads from chain ``name`` to those of the lanes."""
    return frozenset(f"{key} : goto {name}{_end(port)}" for key, port in accounts.lanes.items())


def _elements(verb: str, name: str, keys: frozenset[str]) -> Iterator[str]:
    for version in (4, 6):
        some = [k for k in sorted(keys) if family(k.partition(" ")[0]) == version]
        if some:
            yield f"{verb} element inet {TABLE} {name}{SUFFIX[version]} {{ {', '.join(some)} }}"


def numbered(marks: Sequence[bytes]) -> str:
    """A script that counts for accounts by their numbers from now on."""
    elements = ", ".join(text_of(mark) for mark in marks)
    return "".join(f"add element inet {TABLE} {name} {{ {elements} }}\n" for name in MARKED)


def sample() -> str:
    """Every statement of this module, to be tried on a kernel: not on what another release left."""
    some = frozenset({"192.0.2.1", "2001:db8::1"})
    ports = (frozenset(f"{vip} . tcp . {each}" for vip in some) for each in ("443", "80-90"))
    accounts = Accounts(some, *ports, *ports, lanes={f"{vip} . tcp . 80-90": 80 for vip in some})
    anew = f"add table inet {TABLE}\ndelete table inet {TABLE}\n"
    return anew + table(accounts) + change(Accounts(), accounts) + numbered([bytes(4)])
