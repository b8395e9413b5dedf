"""Table ``netdev halb_direct`` as data, and scripts that make it and change it. Pure.

What it is for is said in :mod:`agent.direct`. A change touches what differs and nothing else. Where
it is not known what the kernel has, as after a start of the agent, all of it is made anew in one
transaction, but for counters and for connections that are known.

The kernel looks at each element of a map when a chain begins to ask it. So of all listeners
that send packets on, only chains that they share ask the maps of all gateways.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from agent.distribution import declared
from agent.ipversion import ADDRESS, KEYWORD, SUFFIX
from agent.quoting import KINDS

TABLE = "halb_direct"
SENT, FIRST = "sent", "sent_first"
"""Maps from a listener and a seat to the gateway, with a counter for each: of the packets that
open a connection of TCP in the second, of all others in the first."""
COUNTED = (SENT, FIRST)
WAYS, RANGES, ERRORS, GATEWAYS = "ways", "ways_ranges", "errors", "gateways"
"""Maps to the chains of listeners, with one port and with several; from VIPs to the chains for
errors of ICMP; and from a VIP and a seat to the gateway."""
_SERVICE = "inet_proto . inet_service"
_PLAIN = {
    WAYS: f"{{address}} . {_SERVICE} : verdict;",
    RANGES: f"{{address}} . {_SERVICE} : verdict; flags interval;",
    ERRORS: "{address} : verdict;",
    GATEWAYS: "{address} . classid : {address};",
}
"""Types of the maps that count nothing."""
_HOOK = 'filter hook ingress device "{}" priority -400'
KNOWN = "_known"
"""Ends the name of a map from numbers of connections to seats."""
ELEMENTS_AT_ONCE = 4096
"""Elements of one transaction where many are added: the kernel takes some 10 ms."""

Contents = Mapping[str, Mapping[str, str]]
"""What the elements of maps lead to, by name of the map and by key."""


@dataclass(frozen=True)
class Present:
    """What the kernel has of the table."""

    parts: frozenset[str] = frozenset()
    """As nft lists them: ``chain NAME``, ``map NAME``."""
    ends: Contents = field(default_factory=dict)


@dataclass(frozen=True)
class Ways:
    """The table as data, without what packets put into it."""

    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Rules of each listener, and of what they share."""
    sets: Mapping[str, str] = field(default_factory=dict)
    """Declarations of what the rules need, by name."""
    maps: Contents = field(default_factory=dict)
    """Of the maps that count nothing."""
    ends: Contents = field(default_factory=dict)
    """All gateways, also those that nothing leads to now, as their counters stay: what leads to
    them is ``VIP . protocol . port . seat``."""

    def filled(self, new: Ways) -> Iterator[Ways]:
        """On the way to ``new``: with its gateways that nothing leads to yet, some at a time."""
        now, shared = self, {**self.maps, **self.ends}
        for name, content in {**new.ends, **_of_seats(new.maps)}.items():
            had = shared.get(name, {})
            more = iter([(key, to) for key, to in content.items() if key not in had])
            while some := dict(islice(more, ELEMENTS_AT_ONCE)):
                now = now._with(name, some)
                yield now

    def _with(self, name: str, some: Mapping[str, str]) -> Ways:
        if name in ends_maps():
            return replace(self, ends=_united(self.ends, {name: some}))
        return replace(self, maps=_united(self.maps, {name: some}))

    def led(self, new: Ways) -> Ways:
        """With all that leads to chains as in ``new``."""
        seats = _united(_of_seats(self.maps), _of_seats(new.maps))
        return replace(self, maps={**new.maps, **seats}, ends=_united(self.ends, new.ends))


def _of_seats(maps: Contents) -> Contents:
    """Those that lead from seats to gateways."""
    return {name: each for name, each in maps.items() if name.startswith(GATEWAYS)}


def _united(old: Contents, new: Contents) -> dict[str, Mapping[str, str]]:
    return {**old, **{name: {**old.get(name, {}), **each} for name, each in new.items()}}


def ends_maps() -> tuple[str, ...]:
    """Names of the maps that lead to gateways and count."""
    return tuple(f"{name}{suffix}" for suffix in SUFFIX.values() for name in COUNTED)


def plain_maps() -> tuple[str, ...]:
    """Names of the maps that count nothing."""
    return tuple(f"{name}{suffix}" for suffix in SUFFIX.values() for name in _PLAIN)


def load(wanted: Ways, interface: str, present: Present | None = None) -> str:
    """A script that makes the table exactly so.

    ``present`` is what the kernel has of it: then counters stay, and what connections are known
    stays known, where that is still needed. None: nothing stays.
    """
    table = f"table netdev {TABLE}"
    lines = [f"add {table}"]
    if present is None or not wanted.ends:
        lines.append(f"delete {table}")
        if not wanted.ends:
            return "\n".join(lines) + "\n"
        lines.append(f"add {table}")
    else:
        lines += _cleared(present.parts, wanted)
    lines += _base(interface)
    old = Ways(ends={} if present is None else present.ends)
    return "\n".join((*lines, *_changes(old, wanted))) + "\n"


def change(old: Ways, new: Ways, interface: str) -> str:
    """The smallest script that leads from ``old``, which the kernel has, to ``new``."""
    if not (old.ends and new.ends):
        return load(new, interface) if old.ends or new.ends else ""
    return "".join(f"{line}\n" for line in _changes(old, new))


def _cleared(present: frozenset[str], wanted: Ways) -> Iterator[str]:
    """Commands that leave nothing but counters, and the connections that stay known."""
    yield f"flush table netdev {TABLE}"
    kept = {f"map {name}" for name in wanted.sets if name.endswith(KNOWN)}
    kept |= {f"map {name}" for name in ends_maps()}
    gone = sorted(present - kept)
    # What is in them refers to chains, which go first.
    maps = {f"map {name}" for name in plain_maps()}
    yield from (f"flush {_placed(part)}" for part in gone if part in maps)
    yield from (f"delete {_placed(part)}" for part in gone)


def _placed(part: str) -> str:
    kind, _, name = part.partition(" ")
    return f"{kind} netdev {TABLE} {name}"


def _base(interface: str) -> Iterator[str]:
    """Commands for what is there whatever is served."""
    hook = _HOOK.format(interface)
    yield f"add chain netdev {TABLE} ingress {{ type {hook}; policy accept; }}"
    for version, address in ADDRESS.items():
        counted = f"type {address} . {_SERVICE} . classid : {address}; counter;"
        plain = {name: f"type {kind.format(address=address)}" for name, kind in _PLAIN.items()}
        for name, kind in {**plain, **dict.fromkeys(COUNTED, counted)}.items():
            yield f"add map netdev {TABLE} {name}{SUFFIX[version]} {{ {kind} }}"
    ours = f"add rule netdev {TABLE} ingress meta pkttype host"
    for name in (WAYS, RANGES):
        for version, suffix in SUFFIX.items():
            key = f"{KEYWORD[version]} daddr . meta l4proto . th dport"
            yield f"{ours} {key} vmap @{name}{suffix}"
    for version, suffix in SUFFIX.items():
        yield f"{ours} {KINDS[version]} {KEYWORD[version]} daddr vmap @{ERRORS}{suffix}"


def _changes(old: Ways, new: Ways) -> Iterator[str]:
    """Commands that lead from ``old`` to ``new``, both of which have a table."""
    table = f"netdev {TABLE}"
    yield from (
        declared("netdev", TABLE, text) for name, text in new.sets.items() if name not in old.sets
    )
    changed = {name: rules for name, rules in new.chains.items() if old.chains.get(name) != rules}
    # Rules lead to other chains, which must be there before and may go only after.
    yield from (f"add chain {table} {name}" for name in changed if name not in old.chains)
    for name, rules in changed.items():
        if name in old.chains:
            yield f"flush chain {table} {name}"
        yield from (f"add rule {table} {name} {rule}" for rule in rules)
    before, after = {**old.maps, **old.ends}, {**new.maps, **new.ends}
    for name in {**before, **after}:
        was, will = before.get(name, {}), after.get(name, {})
        if was is will or was == will:
            continue
        stale = [key for key, to in was.items() if will.get(key) != to]
        fresh = [f"{key} : {to}" for key, to in will.items() if was.get(key) != to]
        for verb, some in (("delete", stale), ("add", fresh)):
            if some:
                yield f"{verb} element {table} {name} {{ {', '.join(some)} }}"
    gone = [name for name in old.chains if name not in new.chains]
    for verb in ("flush", "delete"):
        yield from (f"{verb} chain {table} {name}" for name in gone)
    yield from (
        f"delete {text.partition(' ')[0]} {table} {name}"
        for name, text in old.sets.items()
        if name not in new.sets
    )
