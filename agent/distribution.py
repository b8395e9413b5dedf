"""Which gateway a new flow of a listener goes to, as nftables rules. Pure.

Two shapes. Where nothing but the flow decides, one rule translates to the
gateway of a slot. Where a client's last gateway or a gateway's room decides
too, the slot leads to a chain of the gateway, see :mod:`agent.gated`.

A slot leads to a seat, and the seat to a gateway. Listeners whose gateways have
the same seats and weights share the first step, a map of 256 elements: with
1000 Virtual Servers of ten gateways the kernel keeps 14,000 elements, not
256,000. ``meta priority`` carries the seat from one map to the other; forwarding
sets it anew, or takes it for nothing, as its lower half is 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from agent.hashing import assign_slots, rotation
from agent.ipversion import ADDRESS, KEYWORD
from protocol.ids import GroupId
from protocol.objects import SLOTS, Gateway, Listener, VirtualServer
from protocol.seats import seats

OPENS = "tcp flags & (fin|syn|rst|ack) == syn"
"""Matches what opens a connection of TCP, not what goes on with one."""
GOES_ON = OPENS.replace("==", "!=")
"""Matches all other packets of TCP."""

GatewayKey = tuple[GroupId, str]
"""(uid of the Virtual Server, name of the gateway)."""


@dataclass(frozen=True)
class Moment:
    """What changes the shares of gateways from moment to moment, as this device sees it."""

    growing: Mapping[GatewayKey, int] = field(default_factory=dict)
    """Per cent of its weight that a gateway has so far, by slow start."""
    leaning: Mapping[GatewayKey, int] = field(default_factory=dict)
    """Per cent of its weight that a gateway has for listeners with least-connections."""
    full: frozenset[GatewayKey] = frozenset()
    """Gateways with as many connections as they may have, by this device's count."""

    def by_server(self) -> Mapping[GroupId, Moment]:
        """What of it concerns each Virtual Server; only those that it concerns."""
        found: dict[GroupId, tuple[dict[GatewayKey, int], dict[GatewayKey, int]]] = {}
        full: dict[GroupId, set[GatewayKey]] = {}
        for index, part in enumerate((self.growing, self.leaning)):
            for key, share in part.items():
                found.setdefault(key[0], ({}, {}))[index][key] = share
        for key in self.full:
            full.setdefault(key[0], set()).add(key)
        return {
            uid: Moment(*found.get(uid, ({}, {})), frozenset(full.get(uid, ())))
            for uid in found.keys() | full.keys()
        }


AT_REST = Moment()


def together(moments: Iterable[Moment]) -> Moment:
    """What several Virtual Servers have of it, in one; undoes :meth:`Moment.by_server`."""
    some = tuple(moments)
    return Moment(
        {key: share for each in some for key, share in each.growing.items()},
        {key: share for each in some for key, share in each.leaning.items()},
        frozenset().union(*(each.full for each in some)),
    )


@dataclass(frozen=True)
class Way:
    """How a rule comes from a packet to one of several things."""

    ahead: str
    """Statements that come first in the rule, or nothing."""
    expression: str
    """What the things are, to nft: one of them, or a map that is asked."""
    sets: Mapping[str, str] = field(default_factory=dict)
    """Declarations of what that takes, by name."""


@dataclass(frozen=True)
class Selector:
    """How a new flow finds its slot, and which gateway has it."""

    expression: str
    """What the kernel computes, such as ``jhash ip saddr mod 256 seed 0x7``."""
    seats: tuple[int, ...]
    """Seat of the gateway of each slot."""
    addresses: Mapping[int, str]
    """The gateway of each seat."""

    @property
    def slots(self) -> tuple[str, ...]:
        """Address of the gateway of each slot."""
        return tuple(map(self.addresses.__getitem__, self.seats))

    @property
    def only(self) -> str | None:
        """The gateway that has all slots, if there is one."""
        return self.addresses[self.seats[0]] if len(set(self.seats)) == 1 else None

    def gateway(self) -> Way:
        """The way to the gateway's address."""
        if self.only is not None:
            return Way("", self.only)
        if self._written_out:
            return self._of_turns("map", self.addresses)
        way = self.seat()
        name, declared = _leading(tuple(sorted(self.addresses.items())))
        return Way(way.ahead, f"meta priority map @{name}", {**way.sets, name: declared})

    def verdict(self, verdicts: Mapping[str, str]) -> Way:
        """The way to what is to happen with flows of each gateway, by address."""
        ends = {seat: verdicts[at] for seat, at in self.addresses.items()}
        if self._written_out:
            return self._of_turns("vmap", ends)
        table = ", ".join(f"{seat_class(seat)} : {end}" for seat, end in sorted(ends.items()))
        return replace(self.seat(), expression=f"meta priority vmap {{ {table} }}")

    def seat_of(self, slots: Iterable[int]) -> Way:
        """The way of a flow in one of these ``slots`` to its seat, in ``meta priority``."""
        some = ", ".join(f"0:{slot:x}" for slot in slots)
        chosen = f"meta priority set {self.expression} meta priority {{ {some} }} "
        if self.only is not None:
            return Way(f"{chosen}meta priority set {seat_class(self.seats[0])} ", "")
        name, declared = _shared(self.seats)
        return Way(f"{chosen}meta priority set meta priority map @{name} ", "", {name: declared})

    def seat(self) -> Way:
        """The way to the gateway's seat, in ``meta priority``."""
        if self.only is not None:
            return Way(f"meta priority set {seat_class(self.seats[0])} ", "")
        name, declared = _shared(self.seats)
        ahead = f"meta priority set {self.expression} meta priority set meta priority map @{name} "
        return Way(ahead, "", {name: declared})

    @property
    def _written_out(self) -> bool:
        return len(self.seats) <= _WRITTEN_OUT

    def _of_turns(self, kind: str, ends: Mapping[int, str]) -> Way:
        table = ", ".join(f"{slot} : {ends[seat]}" for slot, seat in enumerate(self.seats))
        return Way("", f"{self.expression} {kind} {{ {table} }}")


@lru_cache(maxsize=4096)
def _leading(ends: tuple[tuple[int, str], ...]) -> tuple[str, str]:
    """Name and declaration of the map from seats to addresses.

    It has a name: for one without the kernel looks at all maps there are, to find one.
    """
    table = ", ".join(f"{seat_class(seat)} : {end}" for seat, end in ends)
    address = ADDRESS[6 if ":" in ends[0][1] else 4]
    return _named(SEAT_MAP, f"type classid : {address}", table)


def _named(prefix: str, kind: str, table: str) -> tuple[str, str]:
    """Name and declaration of a map. It is named by what is in it, and never changes: the kernel
    refuses that, while it is in use."""
    digest = hashlib.blake2b(f"{kind} {table}".encode(), digest_size=8).hexdigest()
    name = f"{prefix}{digest}"
    return name, f"map {name} {{ {kind}; flags constant; elements = {{ {table} }}; }}"


_WRITTEN_OUT = 32
"""Turns of so few gateways are not worth a map of their own."""


@lru_cache(maxsize=1024)
def _shared(seats: tuple[int, ...]) -> tuple[str, str]:
    """Name and declaration of the map from slots to seats."""
    table = ", ".join(f"0:{slot:x} : {seat_class(seat)}" for slot, seat in enumerate(seats))
    return _named(SLOT_MAP, "type classid : classid", table)


SLOT_MAP, SEAT_MAP = SHARED_MAPS = ("slots_", "seats_")
"""Begin the names of maps from slots to seats, and from seats to gateways."""


def seat_number(seat: int) -> int:
    """What stands in ``meta priority`` for a seat."""
    return _SEATS + seat << 16


def seat_class(number: int) -> str:
    """A seat as nft writes a priority."""
    return f"{_SEATS + number:x}:0"


_SEATS = 0x7E00


def declared(family: str, table: str, text: str) -> str:
    """The command that adds a set or map of this declaration to a table."""
    kind, _, rest = text.partition(" ")
    return f"add {kind} {family} {table} {rest}"


def chain_of(vs: VirtualServer, listener: Listener, version: int) -> str:
    """Name of the chain that a listener has for an IP version."""
    ports = listener.key.partition("/")[2].replace("-", "_")
    return f"vs_{vs.uid}_{listener.protocol}_{ports}_{KEYWORD[version]}"


def takes_flows(vs: VirtualServer, gateway: Gateway, down: frozenset[GatewayKey]) -> bool:
    """Whether new flows may go to ``gateway`` now."""
    return gateway.state == "enabled" and gateway.weight > 0 and (vs.uid, gateway.name) not in down


def candidates(vs: VirtualServer, version: int, down: frozenset[GatewayKey]) -> tuple[Gateway, ...]:
    """Gateways of an IP version that take flows now; a backup only where no other does."""
    able = [
        g for g in vs.gateways if (":" in g.address) is (version == 6) and takes_flows(vs, g, down)
    ]
    return tuple(g for g in able if not g.backup) or tuple(able)


def selector(
    vs: VirtualServer,
    listener: Listener,
    version: int,
    gateways: tuple[Gateway, ...],
    moment: Moment,
) -> Selector:
    """Slots of a listener, shared among ``gateways``, of which there is at least one."""
    given = seats(vs.gateways)
    now = weights(vs, listener, gateways, moment)
    by_seat = {given[address]: weight for address, weight in now.items()}
    match listener.balance:
        case "round-robin" | "random":
            turns = rotation(by_seat)
            mode = "inc" if listener.balance == "round-robin" else "random"
            expression = f"numgen {mode} mod {len(turns)}"
        case _:
            turns = assign_slots(by_seat, vs.seed)
            expression = slot_of(vs, flow_key(listener, version))
    return Selector(expression, turns, {given[address]: address for address in now})


def slot_of(vs: VirtualServer, key: str) -> str:
    """What the kernel computes of ``key``."""
    return f"jhash {key} mod {SLOTS} seed {vs.seed:#x}"


def flow_key(listener: Listener, version: int) -> str:
    """What of a packet is hashed: the same for all packets of a flow."""
    source = f"{KEYWORD[version]} saddr"
    return source if listener.balance == "source-hash" else f"{source} . {listener.protocol} sport"


def weights(
    vs: VirtualServer, listener: Listener, gateways: tuple[Gateway, ...], moment: Moment
) -> dict[str, int]:
    """The weight of each gateway for now; whole numbers, and as configured at rest."""
    leaning = moment.leaning if listener.balance == "least-connections" else {}
    parts = {
        g.name: (moment.growing.get((vs.uid, g.name), 100), leaning.get((vs.uid, g.name), 100))
        for g in gateways
    }
    at_rest = all(of == (100, 100) for of in parts.values())
    return {
        g.address: g.weight if at_rest else max(1, g.weight * parts[g.name][0] * parts[g.name][1])
        for g in gateways
    }


def translation(listener: Listener, version: int, to: str, *, mapped: bool = False) -> str:
    """The statement that sends a flow to the address ``to``, or what it is ``mapped`` to."""
    port = "" if listener.gateway_port == listener.port else f":{listener.gateway_port}"
    address = f"[{to}]" if version == 6 and port and not mapped else to
    return f"meta l4proto {listener.protocol} dnat {KEYWORD[version]} to {address}{port}"


def refusal(listener: Listener) -> tuple[str, ...]:
    """Only what opens a flow is refused: older flows outlive a moment without gateways."""
    if listener.protocol == "tcp":
        return (f"{OPENS} {_RESET}", "drop")
    return (_UNREACHABLE,)


def quiet(rule: str) -> str:
    """The same rule for a kernel that can refuse nobody: it gives no answer."""
    return rule.replace(_RESET, "drop").replace(_UNREACHABLE, "drop")


_RESET, _UNREACHABLE = "reject with tcp reset", "reject with icmpx type port-unreachable"


def slot_rule(listener: Listener, version: int, found: Selector) -> tuple[str, Mapping[str, str]]:
    """The one rule of a listener for which nothing but the flow decides, and sets that it needs."""
    way, mapped = found.gateway(), found.only is None
    return way.ahead + translation(listener, version, way.expression, mapped=mapped), way.sets
