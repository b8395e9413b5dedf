"""What happens to the packets of a listener once their gateway is chosen. Pure.

``snat`` and, for what a device itself opens, all modes translate in the nat
chains of :mod:`agent.ruleset`, and the kernel remembers each flow. This adds
what ``routed`` needs. Where the flow alone decides, it does without memory: the
destination is written into each packet on its way in, and the VIP into each
answer on its way out. Else, and while slots move, it remembers, and names the
VIP for answers whose flow this device has not seen, as after a takeover. ``dsr`` is
in :mod:`agent.direct`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from agent import quoting
from agent.contents import Contents
from agent.distribution import (
    AT_REST,
    GOES_ON,
    OPENS,
    GatewayKey,
    candidates,
    refusal,
    selector,
    slot_of,
    slot_rule,
)
from agent.ipversion import KEYWORD, SUFFIX
from agent.staying import amid, before, earlier
from protocol.forwarding import hashed_by
from protocol.objects import Listener, VirtualServer
from protocol.ports import HIGHEST, Ports, overlap

_OWN_PORTS: Ports = (32768, HIGHEST)
"""From which a host speaks for itself, unless a server listens there: Linux, and all that keep to
RFC 6335."""
SERVICES, RANGES = "services", "ranges"
"""Maps from VIPs to the chains that translate: for one port, and for several."""
TRANSLATED = "translated"
"""Set of the VIPs that gateways see as the client's address."""
DIRECT, RETURNS, ANSWERS, REPLIES = "direct", "returns", "answers", "replies"
"""Maps to chains, and a set. By VIP: what goes out without memory. By gateway: what comes
back from there without and with memory; and what comes back without, before it is looked at."""
SOURCES = "sources"
"""Map from gateways to VIPs: what comes back without memory from the port that clients ask. One
look does what a chain of a listener does for other ports."""
EARLIER = "earlier"
"""As ``answers``, from the ports that listeners led to before; whose port it is now goes first."""
ERRORS = "errors"
"""Map from VIPs to the chains for errors of ICMP about what goes without memory."""
RANGED = "_ranges"
"""Ends the name of a map for listeners with several ports."""
_KEY = " . inet_proto . inet_service"
_FROM = "{ip} saddr . meta l4proto . th sport"
MAPS = {
    name + end: f"{_KEY} : verdict;{flags}"
    for name in (DIRECT, RETURNS, ANSWERS, EARLIER)
    for end, flags in (("", ""), (RANGED, " flags interval;"))
} | {
    SERVICES: f"{_KEY} : verdict;",
    RANGES: f"{_KEY} : verdict; flags interval;",
    ERRORS: " : verdict;",
    SOURCES: f"{_KEY} : {{address}};",
    SOURCES + RANGED: f"{_KEY} : {{address}}; flags interval;",
}
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
    maps: Contents = field(default_factory=dict)
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
    While slots move those that are met have entries (:func:`forgets`).
    """
    return (
        vs.forwarding == "routed"
        and hashed_by(vs, listener) != ""
        and len(vips) == 1
        and not _may_be_own(listener)
    )


def _may_be_own(listener: Listener) -> bool:
    """Whether what a gateway sends from these ports may be no answer, but its own question.

    A server does not listen on each port of a range, so the gateway may speak from one.
    """
    return listener.last_port > 0 and overlap(listener.ports, _OWN_PORTS)


def forgets(vs: VirtualServer, listener: Listener, version: int, vips: tuple[str, ...]) -> bool:
    """Whether the rules of now let packets to ``vips``, of one IP version, pass without an entry.

    Not while slots move: only a connection's first packet says that it is newer than that,
    and goes by other slots; its entry says so of the next ones, also on another device. Of
    datagrams none says so.
    """
    return memoryless(vs, listener, vips) and not amid(vs, listener, version)


def passage(
    name: str,
    vs: VirtualServer,
    listener: Listener,
    version: int,
    vips: tuple[str, ...],
    down: frozenset[GatewayKey],
    gone: frozenset[GatewayKey],
    sole: tuple[str, ...] = (),
) -> Passage:
    """What the listener with chain ``name`` needs for its ``vips`` of one IP version.

    Of the gateways that are ``down``, nothing is led any more to those in ``gone``. Of the VIPs,
    answers without an entry are from the one in ``sole``, if there is one.
    """
    if vs.forwarding == "snat":
        return Passage(maps={TRANSLATED: dict.fromkeys(vips, "")})
    if vs.forwarding == "dsr":
        # What was not sent on before, such as fragments, must not be translated.
        outside = candidates(vs, version, down)
        return Passage(ahead=("fib saddr type != local drop",) if outside else ())
    answers = _answers(vs, listener, version)
    ranged = RANGED if listener.last_port else ""
    if not forgets(vs, listener, version, vips):
        known, older = f"{name}_answer", memoryless(vs, listener, vips) or _was_memoryless(listener)
        ahead, sets = _going_on(vs, listener, version, gone) if older else ((), {})
        maps = {ANSWERS + ranged: dict.fromkeys(answers, f"goto {known}")}
        if earlier(listener).gateway_port != listener.gateway_port:
            were = _answers(vs, earlier(listener), version)
            maps[EARLIER] = dict.fromkeys(were, f"goto {known}")
        return Passage(
            {known: _answer(listener, version, tuple(v for v in vips if v in sole) or vips)},
            maps,
            sets,
            ahead,
        )
    out, back, (source,) = f"{name}_out", f"{name}_back", vips
    chains: dict[str, tuple[str, ...]] = {}
    returns = {SOURCES + ranged: dict.fromkeys(answers, source)}
    if listener.gateway_ports != listener.ports:
        chains[back] = _back(listener, version, source)
        returns = {RETURNS + ranged: dict.fromkeys(answers, f"goto {back}")}
    asked = f"{source} . {listener.protocol} . {_ports(listener.ports)}"
    rules, sets = _rewrite(vs, listener, version, down)
    about, needed = _errors(vs, listener, version, source, down)
    errors = f"vs_{vs.uid}_{ERRORS}_{KEYWORD[version]}"
    owing = {quoting.OWED: quoting.owed(g.address for g in vs.gateways)} if version == 4 else {}
    return Passage(
        {**chains, out: rules, errors: about},
        {
            ERRORS: {source: f"goto {errors}"},
            DIRECT + ranged: {asked: f"goto {out}"},
            REPLIES + ranged: dict.fromkeys(answers, ""),
            **returns,
            **owing,
        },
        {**sets, **needed, **dict.fromkeys(owing, quoting.DECLARED)},
    )


def _answers(vs: VirtualServer, listener: Listener, version: int) -> list[str]:
    """Where answers come from: ``gateway . protocol . port``."""
    gateways = [ip_address(g.address) for g in vs.gateways]
    return [
        f"{gateway} . {listener.protocol} . {_ports(listener.gateway_ports)}"
        for gateway in gateways
        if gateway.version == version
    ]


def _was_memoryless(listener: Listener) -> bool:
    return listener.former is not None and listener.former.balance != ""


def _going_on(
    vs: VirtualServer, listener: Listener, version: int, gone: frozenset[GatewayKey]
) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Rules for what began without an entry, and is met while slots move; sets for them.

    It goes by the slots as they were before, or by what was hashed then, to the port of then.
    """
    former, older = before(vs), earlier(listener)
    gateways = candidates(former, version, gone)
    if not gateways:
        return (), {}
    found = selector(former, older, version, gateways, AT_REST)
    rule, sets = slot_rule(older, version, found)
    return (f"{GOES_ON} {rule}",), sets


def hooked(maps: Contents) -> dict[str, tuple[str, ...]]:
    """Rules of the chains that all listeners share, for maps with these contents."""
    patterns = {
        "inbound": (
            (DIRECT, "{ip} daddr . meta l4proto . th dport vmap @{name}"),
            (REPLIES, f"{_FROM} @{{name}} fib daddr type != local notrack accept"),
            (ERRORS, "{too_large} {ip} daddr vmap @{name}"),
        ),
        quoting.COPIED: ((ERRORS, "{copied}"),),
        "outbound": (
            # Where somebody set a zone of the connection table, nothing can be `notrack`ed.
            *(
                (base, f"{whose} {what}")
                for base, what in (
                    (SOURCES, f"{{ip}} saddr set {_FROM} map @{{name}} accept"),
                    (RETURNS, f"{_FROM} vmap @{{name}}"),
                )
                for whose in ("ct state untracked", "ct zone != 0 ct status & (snat | dnat) == 0")
            ),
        ),
        "answering": tuple((base, f"{_FROM} vmap @{{name}}") for base in (ANSWERS, EARLIER)),
    }
    found: dict[str, tuple[str, ...]] = {}
    for chain, rules in patterns.items():
        found[chain] = tuple(
            pattern.format(
                ip=KEYWORD[version],
                name=name + SUFFIX[version],
                too_large=quoting.TOO_LARGE[version],
                copied=quoting.copied(version),
            )
            for base, pattern in rules
            for name in (base, base + RANGED)
            for version in (4, 6)
            if any((":" in key) is (version == 6) for key in maps.get(name, ()))
        )
    return {chain: rules for chain, rules in found.items() if rules}


def _ports(ports: Ports) -> str:
    first, last = ports
    return str(first) if first == last else f"{first}-{last}"


def _rewrite(
    vs: VirtualServer, listener: Listener, version: int, down: frozenset[GatewayKey]
) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Write the gateway into a packet to the VIP."""
    gateways, ip = candidates(vs, version, down), KEYWORD[version]
    if not gateways:
        return ("notrack", *refusal(listener)), {}
    way = selector(vs, listener, version, gateways, AT_REST).gateway()
    # Of IPv4 forwarding itself sets it anew.
    after = "meta priority set none " if way.ahead and version == 6 else ""
    rules = (
        f"{which}notrack {way.ahead}{port}{ip} daddr set {way.expression} {after}accept"
        for which, port in _writings(listener, "dport", listener.gateway_port)
    )
    return tuple(rules), way.sets


def _back(listener: Listener, version: int, vip: str) -> tuple[str, ...]:
    """Write the VIP and its port into an answer."""
    head = f"meta l4proto {listener.protocol} "
    return tuple(
        f"{which}{head}{KEYWORD[version]} saddr set {vip} {port}accept"
        for which, port in _writings(listener, "sport", listener.port)
    )


def _errors(
    vs: VirtualServer, listener: Listener, version: int, vip: str, down: frozenset[GatewayKey]
) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Send an error about a packet of the listener to the gateway that wrote it."""
    gateways = candidates(vs, version, down)
    if not gateways:
        return (), {}
    shares = selector(vs, listener, version, gateways, AT_REST)
    way = replace(shares, expression=slot_of(vs, quoting.flow_key(listener, version))).gateway()
    match = quoting.about(listener, version)
    written = quoting.rewritten(listener, version, vip, way.expression)
    return (f"{match} notrack {way.ahead}{written}",), way.sets


def _writings(listener: Listener, end: str, port: int) -> Iterator[tuple[str, str]]:
    """What selects packets, and writes the port into them if that is another one.

    A datagram of UDP may have no checksum, which is 0. To the kernel that is one that it has to
    correct, so it is made 0 again.
    """
    if listener.gateway_ports == listener.ports:
        yield "", ""
        return
    write = f"{listener.protocol} {end} set {port} "
    if listener.protocol == "udp":
        yield "udp checksum 0 ", f"{write}udp checksum set 0 "
    yield "", write


def _answer(listener: Listener, version: int, vips: tuple[str, ...]) -> tuple[str, ...]:
    """Name the VIP for an answer whose flow is not known here.

    What may be from any of several VIPs must wait until the client has spoken;
    to send it on as it is would make the client end the flow.
    """
    opens = (f"{OPENS} accept",) if listener.protocol == "tcp" else ()
    if len(vips) > 1:
        own = listener.protocol == "udp" and _may_be_own(listener)
        return (*opens, "accept" if own else "drop")
    to = vips[0]
    if {listener.gateway_ports, earlier(listener).gateway_ports} != {listener.ports}:
        to = f"[{to}]:{listener.port}" if version == 6 else f"{to}:{listener.port}"
    return (*opens, f"meta l4proto {listener.protocol} snat {KEYWORD[version]} to {to}")
