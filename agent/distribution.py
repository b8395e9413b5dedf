"""Which gateway a new flow of a listener goes to, as nftables rules. Pure.

Two shapes. Where nothing but the flow decides, one rule translates to the
gateway of a slot. Where a client's last gateway or a gateway's room decides
too, the slot leads to a chain of the gateway, see :mod:`agent.gated`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from agent.hashing import assign_slots, rotation
from agent.ipversion import KEYWORD
from protocol.ids import GroupId
from protocol.objects import PURE, SLOTS, Gateway, Listener, VirtualServer

OPENS = "tcp flags & (fin|syn|rst|ack) == syn"
"""Matches what opens a connection of TCP, not what goes on with one."""

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
class Selector:
    """How a new flow finds its slot, and which gateway has it."""

    expression: str
    """What the kernel computes, such as ``jhash ip saddr mod 256 seed 0x7``."""
    slots: tuple[str, ...]
    """Address of the gateway of each slot."""

    @property
    def only(self) -> str | None:
        """The gateway that has all slots, if there is one."""
        return self.slots[0] if len(set(self.slots)) == 1 else None


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
    weights = _weights(vs, listener, gateways, moment)
    match listener.balance:
        case "round-robin" | "random":
            slots = rotation(weights)
            mode = "inc" if listener.balance == "round-robin" else "random"
            return Selector(f"numgen {mode} mod {len(slots)}", slots)
        case _:
            return Selector(
                f"jhash {flow_key(listener, version)} mod {SLOTS} seed {vs.seed:#x}",
                assign_slots(weights, vs.seed),
            )


def flow_key(listener: Listener, version: int) -> str:
    """What of a packet is hashed: the same for all packets of a flow."""
    source = f"{KEYWORD[version]} saddr"
    return source if listener.balance == "source-hash" else f"{source} . {listener.protocol} sport"


def _weights(
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
        str(ip_address(g.address)): g.weight
        if at_rest
        else max(1, g.weight * parts[g.name][0] * parts[g.name][1])
        for g in gateways
    }


def derivable(vs: VirtualServer, listener: Listener) -> bool:
    """Whether every device finds the same gateway from a packet of the flow alone.

    Only such a listener can do without connection entries.
    """
    limited = any(g.max_connections for g in vs.gateways)
    return listener.balance in PURE and not listener.sticky and not limited


def translation(listener: Listener, version: int, to: str, *, mapped: bool = False) -> str:
    """The statement that sends a flow to the address ``to``, or what it is ``mapped`` to."""
    port = "" if listener.gateway_port == listener.port else f":{listener.gateway_port}"
    address = f"[{to}]" if version == 6 and port and not mapped else to
    return f"meta l4proto {listener.protocol} dnat {KEYWORD[version]} to {address}{port}"


def refusal(listener: Listener) -> tuple[str, ...]:
    """Only what opens a flow is refused: older flows outlive a moment without gateways."""
    if listener.protocol == "tcp":
        return (f"{OPENS} reject with tcp reset", "drop")
    return ("reject with icmpx type port-unreachable",)


def slot_rule(listener: Listener, version: int, found: Selector) -> str:
    """The one rule of a listener for which nothing but the flow decides."""
    if found.only is not None:
        return translation(listener, version, found.only)
    table = ", ".join(f"{slot} : {gateway}" for slot, gateway in enumerate(found.slots))
    return translation(listener, version, f"{found.expression} map {{ {table} }}", mapped=True)
