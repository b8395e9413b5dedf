"""What happens to the packets of a listener once their gateway is chosen. Pure.

``snat`` and, for what a device itself opens, all modes translate in the nat
chains of :mod:`agent.ruleset`, and the kernel remembers each flow. This adds
what ``routed`` needs. Where the flow alone decides, it does without memory: the
destination is written into each packet on its way in, and the VIP into each
answer on its way out. Else it remembers, and names the VIP for answers whose
flow this device has not seen, as after a takeover. ``dsr`` is in
:mod:`agent.direct`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from msgspec.structs import replace

from agent.distribution import (
    AT_REST,
    OPENS,
    GatewayKey,
    candidates,
    derivable,
    refusal,
    selector,
)
from agent.ipversion import ADDRESS, KEYWORD, SUFFIX
from protocol.objects import Gateway, Listener, VirtualServer
from protocol.ports import HIGHEST, Ports

FRESH = "10m"
"""A connection that began while a gateway drained is remembered for so long after a packet."""
MAX_FRESH = 65_536
"""Of more, the rest still goes to the gateway that drains."""
EVERY: Ports = (1, HIGHEST)
SERVICES, RANGES = "services", "ranges"
"""Maps from VIPs to the chains that translate: for one port, and for several."""
TRANSLATED = "translated"
"""Set of the VIPs that gateways see as the client's address."""
DIRECT, RETURNS, ANSWERS, REPLIES = "direct", "returns", "answers", "replies"
"""Maps to chains, and a set. By VIP: what goes out without memory. By gateway: what comes
back from there without and with memory; and what comes back without, before it is looked at."""
RANGED = "_ranges"
"""Ends the name of a map for listeners with several ports."""
_KEY = " . inet_proto . inet_service"
MAPS = {
    name + end: f"{_KEY} : verdict;{flags}"
    for name in (DIRECT, RETURNS, ANSWERS)
    for end, flags in (("", ""), (RANGED, " flags interval;"))
} | {SERVICES: f"{_KEY} : verdict;", RANGES: f"{_KEY} : verdict; flags interval;"}
SETS = {TRANSLATED: ";", REPLIES: f"{_KEY};", REPLIES + RANGED: f"{_KEY}; flags interval;"}
"""What follows the type of an address in the declarations of maps and of sets."""
HOOKS = {
    "inbound": "filter hook prerouting priority raw",
    "outbound": "filter hook postrouting priority srcnat + 10",
    "answering": "nat hook postrouting priority srcnat - 10",
}
"""Chains that are there only where a Virtual Server needs them: they meet every packet."""


@dataclass(frozen=True)
class Passage:
    """What one listener has in the table besides the chain that translates."""

    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Rules by name of the chain."""
    maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By name of a map or set, for both IP versions: keys, and what they lead to."""
    sets: Mapping[str, str] = field(default_factory=dict)
    """Declarations of what packets leave behind, by name of the set."""
    ahead: tuple[str, ...] = ()
    """Rules that come before those of the chain that translates."""


def serving(vs: VirtualServer, assigned: tuple[str, ...]) -> tuple[str, ...]:
    """Of the addresses that a lease covers, those that clients use.

    While an inner VIP becomes another one, the lease still covers the former one.
    """
    if vs.forwarding != "routed":
        return assigned
    return tuple(vip for vip in assigned if str(ip_address(vip)) in vs.addresses)


def memoryless(vs: VirtualServer, listener: Listener, vips: tuple[str, ...]) -> bool:
    """Whether packets to ``vips``, of one IP version, pass without a connection entry.

    The answer must tell by itself which VIP it is from, and every device must
    find the same gateway; and a gateway's own connections must not look like answers.
    """
    limits = listener.client_connections or listener.client_rate or vs.slow_start
    return (
        vs.forwarding == "routed"
        and derivable(vs, listener)
        and not limits
        and len(vips) == 1
        and listener.ports != EVERY
    )


def passage(
    name: str,
    vs: VirtualServer,
    listener: Listener,
    version: int,
    vips: tuple[str, ...],
    down: frozenset[GatewayKey],
) -> Passage:
    """What the listener with chain ``name`` needs for its ``vips`` of one IP version."""
    if vs.forwarding == "snat":
        return Passage(maps={TRANSLATED: dict.fromkeys(vips, "")})
    if vs.forwarding == "dsr":
        # What was not sent on before, such as fragments, must not be translated.
        outside = candidates(vs, version, down)
        return Passage(ahead=("fib saddr type != local drop",) if outside else ())
    gateways = [str(ip_address(g.address)) for g in vs.gateways]
    answers = [
        f"{gateway} . {listener.protocol} . {_ports(listener.gateway_ports)}"
        for gateway in gateways
        if ip_address(gateway).version == version
    ]
    ranged = RANGED if listener.last_port else ""
    if not memoryless(vs, listener, vips):
        known = f"{name}_answer"
        return Passage(
            {known: _answer(listener, version, vips)},
            {ANSWERS + ranged: dict.fromkeys(answers, f"goto {known}")},
        )
    out, back = f"{name}_out", f"{name}_back"
    asked = f"{vips[0]} . {listener.protocol} . {_ports(listener.ports)}"
    chains, sets = _Ways(out, vs, listener, version, down).parts()
    return Passage(
        {**chains, back: (_back(listener, version, vips[0]),)},
        {
            DIRECT + ranged: {asked: f"goto {out}"},
            REPLIES + ranged: dict.fromkeys(answers, ""),
            RETURNS + ranged: dict.fromkeys(answers, f"goto {back}"),
        },
        sets,
    )


def hooked(maps: Mapping[str, Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """Rules of the chains in :data:`HOOKS` for maps with these contents."""
    patterns = {
        "inbound": (
            (DIRECT, "{ip} daddr . meta l4proto . th dport vmap @{name}"),
            (
                REPLIES,
                "{ip} saddr . meta l4proto . th sport @{name} fib daddr type != local notrack",
            ),
        ),
        "outbound": (
            (RETURNS, "ct state untracked {ip} saddr . meta l4proto . th sport vmap @{name}"),
        ),
        "answering": ((ANSWERS, "{ip} saddr . meta l4proto . th sport vmap @{name}"),),
    }
    found: dict[str, tuple[str, ...]] = {}
    for chain, rules in patterns.items():
        found[chain] = tuple(
            pattern.format(ip=KEYWORD[version], name=name + SUFFIX[version])
            for base, pattern in rules
            for name in (base, base + RANGED)
            for version in (4, 6)
            if any((":" in key) is (version == 6) for key in maps.get(name, ()))
        )
    return {chain: rules for chain, rules in found.items() if rules}


def _ports(ports: Ports) -> str:
    first, last = ports
    return str(first) if first == last else f"{first}-{last}"


@dataclass(frozen=True)
class _Ways:
    """Chain ``out`` of a listener, which writes the gateway into packets to the VIP.

    While a gateway drains, what opens a connection goes by the slots without it, and is
    remembered for as long as it speaks; all else goes by the slots with it, as before. So what
    a draining gateway has stays there, without a memory of old connections.
    """

    out: str
    vs: VirtualServer
    listener: Listener
    version: int
    down: frozenset[GatewayKey]

    def parts(self) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
        """Rules by name of the chain, and the sets that they need."""
        rules, sets = self._rewrite(self._candidates(draining=False))
        if not self._drains:
            return {self.out: rules}, {**sets}
        key, fresh = f"{KEYWORD[self.version]} saddr . tcp sport", f"@{self.out}_fresh"
        keep = f"update {fresh} {{ {key} timeout {FRESH} }} goto {self.out}_new"
        old, needed = self._rewrite(self._candidates(draining=True))
        chains = {
            self.out: (f"{OPENS} {keep}", f"{key} {fresh} {keep}", *old),
            f"{self.out}_new": rules,
        }
        return chains, {**sets, **needed, **self._memory()}

    def _memory(self) -> dict[str, str]:
        """Connections since the drain began."""
        name, kind = f"{self.out}_fresh", ADDRESS[self.version]
        rest = f"size {MAX_FRESH}; flags dynamic,timeout;"
        return {name: f"set {name} {{ type {kind} . inet_service; {rest} }}"}

    @property
    def _drains(self) -> bool:
        with_them = self._candidates(draining=True)
        return self.listener.protocol == "tcp" and with_them != self._candidates(draining=False)

    def _candidates(self, *, draining: bool) -> tuple[Gateway, ...]:
        if not draining:
            return candidates(self.vs, self.version, self.down)
        asked = tuple(
            replace(g, state="enabled") if g.state == "draining" else g for g in self.vs.gateways
        )
        return candidates(replace(self.vs, gateways=asked), self.version, self.down)

    def _rewrite(self, gateways: tuple[Gateway, ...]) -> tuple[tuple[str, ...], Mapping[str, str]]:
        listener, ip = self.listener, KEYWORD[self.version]
        if not gateways:
            return ("notrack", *refusal(listener)), {}
        way = selector(self.vs, listener, self.version, gateways, AT_REST).gateway()
        after = "meta priority set none " if way.ahead else ""
        port = ""
        if listener.gateway_ports != listener.ports:
            port = f"{listener.protocol} dport set {listener.gateway_port} "
        head = f"notrack {way.ahead}meta l4proto {listener.protocol} {port}"
        return (f"{head}{ip} daddr set {way.expression} {after}accept",), way.sets


def _back(listener: Listener, version: int, vip: str) -> str:
    """Write the VIP and its port into an answer."""
    port = ""
    if listener.gateway_ports != listener.ports:
        port = f" {listener.protocol} sport set {listener.port}"
    return f"meta l4proto {listener.protocol} {KEYWORD[version]} saddr set {vip}{port}"


def _answer(listener: Listener, version: int, vips: tuple[str, ...]) -> tuple[str, ...]:
    """Name the VIP for an answer whose flow is not known here.

    What may be from any of several VIPs must wait until the client has spoken;
    to send it on as it is would make the client end the flow.
    """
    opens = (f"{OPENS} accept",) if listener.protocol == "tcp" else ()
    if len(vips) > 1:
        every = listener.protocol == "udp" and listener.ports == EVERY
        return (*opens, "accept" if every else "drop")
    to = vips[0]
    if listener.gateway_ports != listener.ports:
        to = f"[{to}]:{listener.port}" if version == 6 else f"{to}:{listener.port}"
    return (*opens, f"meta l4proto {listener.protocol} snat {KEYWORD[version]} to {to}")
