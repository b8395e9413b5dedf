"""Forwarding ``dsr`` as nftables text: table ``netdev halb_direct``. Pure.

A packet to the VIP goes on to its gateway as it is, on the wire that it came
from; the gateway has the VIP too, and answers the client itself. ``fwd`` finds
the gateway's hardware address as the kernel does for its own packets. The chain
stands behind the lease's, so that a device without a lease forwards nothing.

``meta pkttype host`` keeps devices from forwarding frames for another one that a
switch floods to all: the client would get everything several times.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.distribution import (
    AT_REST,
    GatewayKey,
    Way,
    candidates,
    declared,
    selector,
)
from agent.ipversion import ADDRESS, KEYWORD, SUFFIX
from protocol.objects import Listener, VirtualServer

TABLE = "halb_direct"
_MAPS = (("ways", ""), ("ways_ranges", " flags interval;"))
_HOOK = 'filter hook ingress device "{}" priority -400'

Carried = tuple[str, VirtualServer, Listener, int, tuple[str, ...]]
"""Name for a chain, what it is for, IP version, VIPs of that version."""


def nothing() -> str:
    """A script that leaves no table."""
    return f"add table netdev {TABLE}\ndelete table netdev {TABLE}\n"


def load(carried: Iterable[Carried], down: frozenset[GatewayKey], interface: str) -> str:
    """A script that makes the table exactly so; that of :func:`nothing` where all is empty.

    ``carried`` are listeners of Virtual Servers with this mode alone.
    A listener without gateways is left to :mod:`agent.ruleset`, which refuses its flows.
    """
    chains: list[str] = []
    sets: dict[str, str] = {}
    ways: dict[str, list[str]] = {}
    for name, vs, listener, version, vips in carried:
        gateways = candidates(vs, version, down)
        if not gateways:
            continue
        way = selector(vs, listener, version, gateways, AT_REST).gateway()
        sets |= way.sets
        chains.append(f"add chain netdev {TABLE} {name}")
        chains.append(f"add rule netdev {TABLE} {name} {_rule(listener, version, way, interface)}")
        first, last = listener.ports
        ports = str(first) if first == last else f"{first}-{last}"
        map_name = _MAPS[bool(listener.last_port)][0] + SUFFIX[version]
        ways.setdefault(map_name, []).extend(
            f"{vip} . {listener.protocol} . {ports} : goto {name}" for vip in vips
        )
    if not chains:
        return nothing()
    lines = [f"add table netdev {TABLE}", f"delete table netdev {TABLE}"]
    lines += [f"add table netdev {TABLE}", *_base(interface)]
    lines += (declared("netdev", TABLE, text) for text in sets.values())
    lines += chains
    lines += (
        f"add element netdev {TABLE} {name} {{ {', '.join(elements)} }}"
        for name, elements in ways.items()
    )
    return "\n".join(lines) + "\n"


def _base(interface: str) -> Iterable[str]:
    hook = _HOOK.format(interface)
    yield f"add chain netdev {TABLE} ingress {{ type {hook}; policy accept; }}"
    for name, flags in _MAPS:
        for version in (4, 6):
            key = f"{ADDRESS[version]} . inet_proto . inet_service"
            spec = f"{{ type {key} : verdict;{flags} }}"
            yield f"add map netdev {TABLE} {name}{SUFFIX[version]} {spec}"
            yield (
                f"add rule netdev {TABLE} ingress meta pkttype host {KEYWORD[version]} daddr "
                f". meta l4proto . th dport vmap @{name}{SUFFIX[version]}"
            )


def _rule(listener: Listener, version: int, way: Way, interface: str) -> str:
    head = f"{way.ahead}meta l4proto {listener.protocol} fwd {KEYWORD[version]} to"
    return f'{head} {way.expression} device "{interface}"'
