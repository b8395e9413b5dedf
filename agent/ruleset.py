"""The Virtual Servers as nftables text: table ``inet halb``.

Pure. ``compile_ruleset`` turns objects into a :class:`Ruleset`; ``load`` and
``change`` turn that into scripts. A verdict map (VIP . protocol . port) leads
to one chain per listener and IP version, so the cost of a new flow does not
depend on the number of Virtual Servers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from ipaddress import ip_address
from typing import Generic, TypeVar

from agent.contents import Contents, additions, united
from agent.distribution import AT_REST, GatewayKey, Moment, chain_of, declared, quiet, together
from agent.forwarding import (
    HOOKS,
    MAPS,
    RANGES,
    SERVICES,
    SETS,
    SOURCES,
    TRANSLATED,
    hooked,
    memoryless,
    passage,
    serving,
)
from agent.gate import split
from agent.gated import listener_part
from agent.ipversion import ADDRESS, KEYWORD, SUFFIX
from agent.quoting import OWED
from protocol.addresses import family
from protocol.ids import GroupId
from protocol.objects import Listener, VirtualServer

TABLE = "halb"


@dataclass(frozen=True)
class Desired:
    """What this device's kernel is to do."""

    virtual_servers: tuple[VirtualServer, ...] = ()
    """Those that this device carries, whether primary or not."""
    vips: Mapping[GroupId, tuple[str, ...]] = field(default_factory=dict)
    """Assigned addresses of each, without prefix: what its lease covers."""
    down: frozenset[GatewayKey] = frozenset()
    """(uid, gateway name) of gateways that this device sees down."""
    moment: Moment = AT_REST
    """Shares of gateways that differ from their weights for now."""
    sole: Mapping[GroupId, tuple[str, ...]] = field(default_factory=dict)
    """VIPs that answers without an entry are from, though there are others: :mod:`agent.sole`."""
    brief: frozenset[GatewayKey] = frozenset()
    """Gateways that are down, and may live on: what they had is led there still."""

    @property
    def gone(self) -> frozenset[GatewayKey]:
        """Gateways that are down, and to which nothing is led any more."""
        return self.down - self.brief

    @cached_property
    def addresses(self) -> frozenset[str]:
        """All assigned addresses, in canonical form."""
        carried = (self.vips.get(vs.uid, ()) for vs in self.virtual_servers)
        return frozenset(str(ip_address(vip)) for vips in carried for vip in vips)

    @cached_property
    def macs(self) -> Mapping[str, str]:
        """Virtual MAC of each VIP that has one; gateways' way back has none."""
        return {
            str(ip_address(vip)): vs.virtual_mac
            for vs in self.virtual_servers
            if vs.virtual_mac
            for vip in serving(vs, tuple(self.vips.get(vs.uid, ())))
        }

    def alone(self) -> dict[GroupId, Desired]:
        """What concerns each Virtual Server, apart from the others; :func:`joined` undoes it."""
        down, brief = _by_server(self.down), _by_server(self.brief)
        moments = self.moment.by_server()
        return {
            vs.uid: Desired(
                (vs,),
                {vs.uid: tuple(self.vips.get(vs.uid, ()))},
                down.get(vs.uid, frozenset()),
                moments.get(vs.uid, AT_REST),
                {vs.uid: self.sole[vs.uid]} if vs.uid in self.sole else {},
                brief.get(vs.uid, frozenset()),
            )
            for vs in self.virtual_servers
        }


def _by_server(keys: Iterable[GatewayKey]) -> Mapping[GroupId, frozenset[GatewayKey]]:
    found: dict[GroupId, set[GatewayKey]] = {}
    for key in keys:
        found.setdefault(key[0], set()).add(key)
    return {uid: frozenset(some) for uid, some in found.items()}


def joined(parts: Iterable[Desired]) -> Desired:
    """What several Virtual Servers need together."""
    some = tuple(parts)
    return Desired(
        tuple(vs for part in some for vs in part.virtual_servers),
        {uid: vips for part in some for uid, vips in part.vips.items()},
        frozenset().union(*(part.down for part in some)),
        together(part.moment for part in some),
        {uid: vips for part in some for uid, vips in part.sole.items()},
        frozenset().union(*(part.brief for part in some)),
    )


@dataclass(frozen=True)
class Ruleset:
    """Table ``inet halb`` as data; equal rulesets are the same kernel state."""

    vips: frozenset[str] = frozenset()
    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Rules of each listener chain."""
    services: Mapping[str, str] = field(default_factory=dict)
    """``VIP . protocol . port`` to the name of its chain."""
    sets: Mapping[str, str] = field(default_factory=dict)
    """Declarations of what listeners remember, by name of the set or map."""
    ranges: Mapping[str, str] = field(default_factory=dict)
    """The same for listeners with several ports, ``first-last``."""
    maps: Contents = field(default_factory=dict)
    """Contents of the maps and sets of :mod:`agent.forwarding`, for both IP versions."""

    def filled(self, new: Ruleset) -> Iterator[Ruleset]:
        """On the way to ``new``: with what only packets ask for that are led to its chains, some
        at a time."""
        declared = {name: new.sets[name] for name in _ASKED_LAST if name in new.sets}
        for maps in additions(self.maps, new.maps, _ASKED_LAST):
            yield replace(self, maps=maps, sets={**self.sets, **declared})

    def led(self, new: Ruleset) -> Ruleset:
        """With all that leads to chains as in ``new``."""
        return replace(
            self,
            vips=self.vips | new.vips,
            services=new.services,
            ranges=new.ranges,
            maps=new.maps,
        )


_ASKED_LAST = (SOURCES, OWED)
"""Maps from gateways that nothing asks of which a packet has not been sent to one."""


Piece = TypeVar("Piece")


class Pieces(Generic[Piece]):
    """What each Virtual Server comes to; works anew only on those that changed since the last
    time."""

    def __init__(self, work_out: Callable[[Desired], Piece]) -> None:
        self._work_out = work_out
        self._known: dict[GroupId, tuple[Desired, Piece]] = {}

    def of(self, desired: Desired) -> list[Piece]:
        """One for each Virtual Server, in their order."""
        before, self._known = self._known, {}
        for uid, alone in desired.alone().items():
            known = before.get(uid)
            if not known or known[0] != alone:
                known = alone, self._work_out(alone)
            self._known[uid] = known
        return [piece for _, piece in self._known.values()]


class Compiler:
    """Virtual Servers to rulesets; works anew only on those that changed since the last one."""

    def __init__(self, *, quiet: bool = False) -> None:
        """``quiet``: for a kernel that can refuse nobody; what it would refuse it drops."""
        self._quiet = quiet
        self._pieces = Pieces(self._part)

    def compile(self, desired: Desired) -> Ruleset:
        """The ruleset of the Virtual Servers, for the gateways that take flows now."""
        found = self._pieces.of(desired)
        maps = united(part.maps for part in found)
        return Ruleset(
            desired.addresses,
            {k: v for part in found for k, v in part.chains.items()} | hooked(maps),
            {k: v for part in found for k, v in part.services.items()},
            {k: v for part in found for k, v in part.sets.items()},
            {k: v for part in found for k, v in part.ranges.items()},
            maps,
        )

    def _part(self, desired: Desired) -> Ruleset:
        found = _part(desired)
        if not self._quiet:
            return found
        return replace(found, chains={n: tuple(map(quiet, r)) for n, r in found.chains.items()})


def compile_ruleset(desired: Desired) -> Ruleset:
    """The ruleset of the Virtual Servers, all of it worked out now."""
    return Compiler().compile(desired)


def _part(desired: Desired) -> Ruleset:
    """What one Virtual Server has in the table."""
    chains: dict[str, tuple[str, ...]] = {}
    services: dict[str, str] = {}
    sets: dict[str, str] = {}
    ranges: dict[str, str] = {}
    maps: dict[str, dict[str, str]] = {}
    for name, vs, listener, version, vips in carried(desired):
        part = listener_part(name, vs, listener, version, desired.down, desired.moment)
        sole = desired.sole.get(vs.uid, ())
        way = passage(name, vs, listener, version, vips, desired.down, desired.gone, sole)
        chains |= part.chains
        chains[name] = (*way.ahead, *chains[name])
        for each, rules in way.chains.items():
            chains[each] = (*chains.get(each, ()), *rules)
        sets |= {**part.sets, **way.sets}
        for each, content in way.maps.items():
            maps.setdefault(each, {}).update(content)
        first, last = listener.ports
        for vip in vips:
            key = f"{vip} . {listener.protocol} . {first}"
            if first == last:
                services[key] = name
            else:
                ranges[f"{key}-{last}"] = name
    return Ruleset(desired.addresses, chains, services, sets, ranges, maps)


def carried(
    desired: Desired,
) -> Iterator[tuple[str, VirtualServer, Listener, int, tuple[str, ...]]]:
    """Each listener and IP version, with the name of its chain and its VIPs."""
    for vs in desired.virtual_servers:
        assigned = split(serving(vs, desired.vips.get(vs.uid, ())))
        for listener in vs.listeners:
            for version, vips in assigned:
                yield chain_of(vs, listener, version), vs, listener, version, vips


def unremembered(desired: Desired) -> frozenset[GroupId]:
    """Virtual Servers of which no listener's flows are known to the kernel."""
    known: dict[GroupId, bool] = {}
    for _, vs, listener, _, vips in carried(desired):
        known[vs.uid] = known.get(vs.uid, False) or _remembered(vs, listener, vips)
    return frozenset(uid for uid, some in known.items() if not some)


def remembers_all(server: VirtualServer) -> bool:
    """Whether the kernel knows the flows of every listener, so that they can be counted."""
    desired = Desired((server,), {server.uid: tuple(server.addresses)})
    return all(_remembered(vs, listener, vips) for _, vs, listener, _, vips in carried(desired))


def _remembered(vs: VirtualServer, listener: Listener, vips: tuple[str, ...]) -> bool:
    return vs.forwarding != "dsr" and not memoryless(vs, listener, vips)


def _lookups() -> tuple[str, ...]:
    """Rules that lead a new flow to the chain of its listener."""
    return tuple(
        f"{KEYWORD[v]} daddr . meta l4proto . th dport vmap @{name}{SUFFIX[v]}"
        for name in (SERVICES, RANGES)
        for v in (4, 6)
    )


def base_chains() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Hook and rules of the chains that all Virtual Servers share."""
    return {
        # Before other firewalls of the host, whose chains stand at the plain priorities:
        # a container's published port or a masquerade must not take a flow of a VIP.
        "distribute": ("nat hook prerouting priority dstnat - 10", _lookups()),
        # What a process of this very device sends to a VIP never comes in from outside.
        "local": ("nat hook output priority -110", _lookups()),
        # From the VIP, and from the client's port if it is free: the next primary
        # then makes the same entry out of any packet of the flow.
        "source": (
            "nat hook postrouting priority srcnat - 10",
            tuple(
                f"{whose}ct status dnat ct original {KEYWORD[v]} daddr @{name}{SUFFIX[v]} {how}"
                for v in (4, 6)
                # A process of this device talks from the VIP, which may be another device's.
                # Its packets came in nowhere, which is quicker to ask than the table of routes.
                for whose, name, how in (
                    ("meta iif 0 ", "vips", "fib saddr type local masquerade"),
                    ("", TRANSLATED, f"snat {KEYWORD[v]} to ct original {KEYWORD[v]} daddr"),
                    # As it is, before somebody else's masquerade gets hold of it.
                    ("", "vips", f"snat {KEYWORD[v]} to {KEYWORD[v]} saddr"),
                )
            ),
        ),
        # A packet of a flow that is not known here must neither meet the local
        # stack, which would reset the flow, nor leave a connection entry behind.
        "guard": (
            "filter hook input priority filter",
            (
                "ct status dnat accept",
                *(
                    f"{KEYWORD[v]} daddr @vips{SUFFIX[v]} meta l4proto {{ tcp, udp }} counter drop"
                    for v in (4, 6)
                ),
            ),
        ),
    }


def load(ruleset: Ruleset) -> str:
    """A script that makes the table exactly so, whatever stands there, in one transaction."""
    lines = [f"add table inet {TABLE}", f"delete table inet {TABLE}", f"add table inet {TABLE}"]
    for version in (4, 6):
        kind, suffix = ADDRESS[version], SUFFIX[version]
        lines.append(f"add set inet {TABLE} vips{suffix} {{ type {kind}; }}")
        lines += (
            f"add map inet {TABLE} {name}{suffix} {{ type {kind}{rest.format(address=kind)} }}"
            for name, rest in MAPS.items()
        )
        lines += (
            f"add set inet {TABLE} {name}{suffix} {{ type {kind}{rest} }}"
            for name, rest in SETS.items()
        )
    for chain, (hook, rules) in base_chains().items():
        lines.append(f"add chain inet {TABLE} {chain} {{ type {hook}; policy accept; }}")
        lines += (f"add rule inet {TABLE} {chain} {rule}" for rule in rules)
    return "\n".join(lines) + "\n" + change(Ruleset(), ruleset)


def change(old: Ruleset, new: Ruleset) -> str:
    """The smallest script that leads from ``old`` to ``new``; empty if they are equal."""
    table = f"inet {TABLE}"
    lines = [
        declared("inet", TABLE, text) for name, text in new.sets.items() if name not in old.sets
    ]
    changed = {n: rules for n, rules in new.chains.items() if old.chains.get(n) != rules}
    # Rules lead to other chains, which must be there before and may go only after.
    made = (name for name in changed if name not in old.chains)
    lines += (f"add chain {table} {name}{_hook(name)}" for name in made)
    for name, rules in changed.items():
        if name in old.chains:
            lines.append(f"flush chain {table} {name}")
        lines += (f"add rule {table} {name} {rule}" for rule in rules)
    before, after = _contents(old), _contents(new)
    for name in {**before, **after}:
        was, will = before.get(name, {}), after.get(name, {})
        if was is will:
            continue
        stale = {k: _written(name, k, to) for k, to in was.items() if will.get(k) != to}
        fresh = {k: _written(name, k, to) for k, to in will.items() if was.get(k) != to}
        lines += (*_elements("delete", name, stale), *_elements("add", name, fresh))
    lines += _elements("add", "vips", {v: v for v in sorted(new.vips - old.vips)})
    lines += _elements("delete", "vips", {v: v for v in sorted(old.vips - new.vips)})
    gone = [name for name in old.chains if name not in new.chains]
    lines += (f"flush chain {table} {name}" for name in gone)
    lines += (f"delete chain {table} {name}" for name in gone)
    for name, text in old.sets.items():
        if name not in new.sets:
            lines.append(f"delete {text.partition(' ')[0]} {table} {name}")
    return "".join(f"{line}\n" for line in lines)


def _hook(chain: str) -> str:
    """Where a chain meets packets, if it is not led to by others."""
    return f" {{ type {HOOKS[chain]}; policy accept; }}" if chain in HOOKS else ""


def _contents(ruleset: Ruleset) -> Contents:
    """What the keys of all maps and sets lead to, but of the VIPs."""
    return {SERVICES: ruleset.services, RANGES: ruleset.ranges, **ruleset.maps}


def _written(name: str, key: str, to: str) -> str:
    """An element as nft takes it."""
    if name in (SERVICES, RANGES):
        return f"{key} : goto {to}"
    return f"{key} : {to}" if to else key


def _elements(verb: str, name: str, elements: Mapping[str, str]) -> Iterator[str]:
    """Commands for set or map elements; each key begins with an address."""
    for version in (4, 6):
        some = [t for key, t in elements.items() if family(key.partition(" ")[0]) == version]
        if some:
            yield f"{verb} element inet {TABLE} {name}{SUFFIX[version]} {{ {', '.join(some)} }}"
