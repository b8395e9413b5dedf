"""Table ``netdev halb_direct`` as data, and scripts that make it and change it. Pure.

What it is for is said in :mod:`agent.direct`. A change touches what differs and nothing else. Where
it is not known what the kernel has, as after a start of the agent, all of it is made anew in one
transaction, but for counters and for connections that are known.

The kernel looks at each element of a map when a chain begins to ask it. So of all listeners
that send packets on, only chains that they share ask the maps of all gateways.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent.contents import Contents, additions
from agent.distribution import declared
from agent.ipversion import ADDRESS, KEYWORD, SUFFIX
from agent.quoting import QUOTED, TELLING

TABLE = "halb_direct"
SENT, FIRST = "sent", "sent_first"
"""Sets of listeners and seats, with a counter for each: of the packets that open a connection of
TCP in the second, of all others in the first. Elements come to be with packets."""
COUNTED = (SENT, FIRST)
MAX_COUNTED = 262_144
"""Pairs of listener and gateway that are counted, of one IP version."""
WAYS, ERRORS, GATEWAYS = "ways", "errors", "gateways"
"""Maps to the chains of listeners, for packets and for errors of ICMP about some; and from a VIP
and a seat to the gateway."""
RANGED = "_ranges"
"""Ends the names of the first two for listeners with several ports."""
_SERVICE = "inet_proto . inet_service"
_LEADING = {
    WAYS: (
        f"type {{address}} . {_SERVICE}",
        dict.fromkeys(SUFFIX, ""),
        dict.fromkeys(SUFFIX, "meta l4proto . th dport"),
    ),
    ERRORS: (
        "typeof {ip} daddr . {service}",
        {version: f"{match} " for version, match in TELLING.items()},
        QUOTED,
    ),
}
"""Of the maps to chains: the type of their keys; which packets ask them; and for what, by IP
version, beside the VIP."""
_HOOK = 'filter hook ingress device "{}" priority -400'
KNOWN = "_known"
"""Ends the name of a map from numbers of connections to seats."""


@dataclass(frozen=True)
class Present:
    """What the kernel has of the table."""

    parts: frozenset[str] = frozenset()
    """As nft lists them: ``chain NAME``, ``map NAME``."""
    accounts: Contents = field(default_factory=dict)
    """As in :class:`Ways`, but only those that packets came for; of no gateway where somebody
    took away what leads from the seat to it."""

    def known(self, wanted: Ways) -> Contents:
        """The accounts; what is not known to be another gateway's goes on as what is wanted."""
        return {
            name: {key: to or wanted.accounts.get(name, {}).get(key, "") for key, to in had.items()}
            for name, had in self.accounts.items()
        }


@dataclass(frozen=True)
class Ways:
    """The table as data, without what packets put into it."""

    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Rules of each listener, and of what they share."""
    sets: Mapping[str, str] = field(default_factory=dict)
    """Declarations of what the rules need, by name."""
    maps: Contents = field(default_factory=dict)
    """What leads to chains and to gateways."""
    accounts: Contents = field(default_factory=dict)
    """The gateway that packets are counted for, also of those that nothing leads to now, as their
    counters stay: by set, and by ``VIP . protocol . port . seat``."""

    def filled(self, new: Ways) -> Iterator[Ways]:
        """On the way to ``new``: with its gateways that nothing leads to yet, some at a time."""
        # An account that is there asks nothing of the kernel: it begins with a packet.
        now = replace(self, accounts=_united(new.accounts, self.accounts))
        for maps in additions(self.maps, new.maps, _of_seats(new.maps)):
            yield replace(now, maps=maps)

    def led(self, new: Ways) -> Ways:
        """With all that leads to chains as in ``new``."""
        seats = _united(_of_seats(self.maps), _of_seats(new.maps))
        accounts = _united(self.accounts, new.accounts)
        return replace(self, maps={**new.maps, **seats}, accounts=accounts)


def _of_seats(maps: Contents) -> Contents:
    """Those that lead from seats to gateways."""
    return {name: each for name, each in maps.items() if name.startswith(GATEWAYS)}


def _united(old: Contents, new: Contents) -> dict[str, Mapping[str, str]]:
    return {**old, **{name: {**old.get(name, {}), **each} for name, each in new.items()}}


def counting_sets() -> tuple[str, ...]:
    """Names of the sets that count."""
    return tuple(f"{name}{suffix}" for suffix in SUFFIX.values() for name in COUNTED)


def plain_maps() -> tuple[str, ...]:
    """Names of the maps to chains and to gateways."""
    names = (GATEWAYS, *(name + end for name in _LEADING for end in ("", RANGED)))
    return tuple(f"{name}{suffix}" for suffix in SUFFIX.values() for name in names)


def load(wanted: Ways, interface: str, present: Present | None = None) -> str:
    """A script that makes the table exactly so.

    ``present`` is what the kernel has of it: then counters stay, and what connections are known
    stays known, where that is still needed. None: nothing stays.
    """
    table = f"table netdev {TABLE}"
    lines = [f"add {table}"]
    if present is None or not wanted.accounts:
        lines.append(f"delete {table}")
        if not wanted.accounts:
            return "\n".join(lines) + "\n"
        lines.append(f"add {table}")
    else:
        lines += _cleared(present.parts, wanted)
    lines += _base(interface)
    old = Ways() if present is None else Ways(accounts=present.known(wanted))
    return "\n".join((*lines, *_changes(old, wanted))) + "\n"


def change(old: Ways, new: Ways, interface: str) -> str:
    """The smallest script that leads from ``old``, which the kernel has, to ``new``."""
    if not (old.accounts and new.accounts):
        return load(new, interface) if old.accounts or new.accounts else ""
    return "".join(f"{line}\n" for line in _changes(old, new))


def _cleared(present: frozenset[str], wanted: Ways) -> Iterator[str]:
    """Commands that leave nothing but counters, and the connections that stay known."""
    yield f"flush table netdev {TABLE}"
    kept = {f"map {name}" for name in wanted.sets if name.endswith(KNOWN)}
    kept |= {f"set {name}" for name in counting_sets()}
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
        kinds = {GATEWAYS: f"type {address} . classid : {address};"}
        for name, (kind, _, service) in _LEADING.items():
            text = kind.format(address=address, ip=KEYWORD[version], service=service[version])
            kinds[name] = f"{text} : verdict;"
            kinds[name + RANGED] = f"{text} : verdict; flags interval;"
        for name, kind in kinds.items():
            yield f"add map netdev {TABLE} {name}{SUFFIX[version]} {{ {kind} }}"
        counted = f"type {address} . {_SERVICE} . classid; size {MAX_COUNTED}; flags dynamic;"
        for name in COUNTED:
            yield f"add set netdev {TABLE} {name}{SUFFIX[version]} {{ {counted} }}"
    ours = f"add rule netdev {TABLE} ingress meta pkttype host "
    for name, (_, match, service) in _LEADING.items():
        for end in ("", RANGED):
            for version, suffix in SUFFIX.items():
                key = f"{match[version]}{KEYWORD[version]} daddr . {service[version]}"
                yield f"{ours}{key} vmap @{name}{end}{suffix}"


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
    for name in {**old.maps, **new.maps}:
        was, will = old.maps.get(name, {}), new.maps.get(name, {})
        if was is will:
            continue
        fresh = [f"{key} : {to}" for key, to in will.items() if was.get(key) != to]
        # Of many that only become more all that are not fresh are as they were.
        stale = _stale(was, will) if len(was) + len(fresh) != len(will) else []
        yield from _elements("delete", name, stale)
        yield from _elements("add", name, fresh)
    for name, was in old.accounts.items():
        stale = _stale(was, new.accounts.get(name, {}))
        if stale and len(was) > MAX_COUNTED:
            # There may be no room for what comes next: all of them begin anew.
            yield f"flush set {table} {name}"
            continue
        # No packet may have come for it yet, and what is not there cannot be deleted.
        yield from _elements("add", name, stale)
        yield from _elements("delete", name, stale)
    gone = [name for name in old.chains if name not in new.chains]
    for verb in ("flush", "delete"):
        yield from (f"{verb} chain {table} {name}" for name in gone)
    yield from (
        f"delete {text.partition(' ')[0]} {table} {name}"
        for name, text in old.sets.items()
        if name not in new.sets
    )


def _stale(was: Mapping[str, str], will: Mapping[str, str]) -> list[str]:
    """Keys of what leads nowhere any more, or elsewhere."""
    return [] if was is will else [key for key, to in was.items() if will.get(key) != to]


def _elements(verb: str, name: str, some: Sequence[str]) -> Iterator[str]:
    if some:
        yield f"{verb} element netdev {TABLE} {name} {{ {', '.join(some)} }}"
