"""Accounts of the traffic as nftables text: table ``inet halb_count``.

Pure. It stands apart from the table that balances, so that nothing that is done
there, a rule swapped or the whole table made anew, touches a counter; an agent
that starts finds it and goes on counting. Elements with counters come to be by
themselves with the first packet, so the table costs nothing to load.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

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
RANGED = "_range"
"""Ends the name of a set for listeners with several ports."""
OPENED_BY, CARRIED_BY = "marked_opened", ("marked", "marked_back")
"""The same as in ``opened`` and, forth and back, ``carried``, of flows with an account's number."""
MARKED = (OPENED_BY, *CARRIED_BY)
SETS = (
    "offered", "offered_range", "untracked", "entered",
    *(name + end for name in (FORTH, BACK) for end in ("", RANGED)), "opened", "carried",
)  # fmt: skip
"""Sets with counters, in the order of a packet's way."""
DYNAMIC = frozenset({"untracked", "entered", "opened", "carried"})
"""Those whose elements come to be with packets."""

_SERVICE = "ct original {ip} daddr . meta l4proto . ct original proto-dst"
_WAY = _SERVICE + " . ct reply {ip} saddr . ct direction"
_FIRST = _SERVICE + " . {ip} daddr"
"""The account of a flow's first packet: what a packet says is read quicker than its flow."""
_NUMBER = f"ct mark 0 ct mark set jhash {_FIRST} {HASH} accept"
_STATUS = "ct status & (dnat | confirmed) == "
_GO_ON = f"{_STATUS}(dnat | confirmed) goto known"


def _each(rule: str) -> tuple[str, ...]:
    """A rule per IP version and protocol; the port has a type only where that is known."""
    return tuple(
        f"meta l4proto {protocol} {rule.format(ip=KEYWORD[version], suffix=SUFFIX[version])}"
        for version in (4, 6)
        for protocol in ("tcp", "udp")
    )


def _counted(name: str, key: str, then: str = "accept") -> tuple[str, ...]:
    """Rules that count for an account: where there is one, to look it up is to count."""
    return (
        *_each(f"{key} @{name}{{suffix}} {then}"),
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


def accounts_of(desired: Desired) -> Accounts:
    """The accounts of the Virtual Servers that a device carries."""
    services, gateways = (set[str](), set[str]()), (set[str](), set[str]())
    for _, vs, listener, version, vips in carried(desired):
        ranged = listener.last_port > 0
        services[ranged].update(_keys(vips, listener, listener.ports))
        if memoryless(vs, listener, vips):
            some = (g.address for g in vs.gateways if family(g.address) == version)
            gateways[ranged].update(_keys(some, listener, listener.gateway_ports))
    return Accounts(desired.addresses, *map(frozenset, (*services, *gateways)))


def _keys(addresses: Iterable[str], listener: Listener, ports: Ports) -> Iterator[str]:
    first, last = ports
    text = str(first) if first == last else f"{first}-{last}"
    return (f"{ip_address(each)} . {listener.protocol} . {text}" for each in addresses)


def table(*, flow_marks: bool = True) -> str:
    """A script that makes the table; counters of one that stands there stay.

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
                *((name, f"type {service}; counter;") for name in (FORTH, BACK)),
                *(
                    (name + RANGED, f"type {service}; flags interval; counter;")
                    for name in (FORTH, BACK)
                ),
            )
        )
    lines += (
        f"add set inet {TABLE} {name} {{ type mark; size {MAX_NUMBERED}; counter; }}"
        for name in MARKED
    )
    for chain, (hook, rules) in _chains(flow_marks=flow_marks).items():
        how = f" {{ type {hook}; policy accept; }}" if hook else ""
        lines.append(f"add chain inet {TABLE} {chain}{how}")
        lines.append(f"flush chain inet {TABLE} {chain}")
        lines += (f"add rule inet {TABLE} {chain} {rule}" for rule in rules)
    return "".join(f"{line}\n" for line in lines)


def _chains(*, flow_marks: bool) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Hook and rules; one without a hook is led to by those behind it.

    Chains of type nat see the first packet of each flow, and no other.
    """
    offered = tuple(
        f"{KEYWORD[v]} daddr . meta l4proto . th dport @{name}{SUFFIX[v]} accept"
        for name in ("offered", "offered_range")
        for v in (4, 6)
    )
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
        "passing": ("", _passing()),
        # Of a flow that has passed this host before.
        "known": ("", _counted("carried", _WAY)),
        "number": ("", _each(_NUMBER) if flow_marks else ()),
        # Balanced, and not confirmed: it has yet to pass the other firewalls of this host.
        "fresh": ("", _counted("entered", _SERVICE, "goto number")),
        # On its way to or from a gateway. Most packets meet but the first rules.
        "entered": (
            "filter hook forward priority -400",
            (
                f"ct direction original ct mark @{CARRIED_BY[0]} accept",
                f"ct mark @{CARRIED_BY[1]} accept",
                _GO_ON,
                f"{_STATUS}dnat goto fresh",
                "ct state untracked goto passing",
            ),
        ),
        "first": ("", _counted("carried", f"{_FIRST} . ct direction")),
        "opened": (
            "nat hook postrouting priority srcnat - 11",
            (
                f"ct mark @{OPENED_BY} ct mark @{CARRIED_BY[0]} accept",
                "ct status & dnat == 0 accept",
                *_counted("opened", _FIRST, "goto first"),
            ),
        ),
        # From a process of this device.
        "carried": ("filter hook output priority 300", (_GO_ON,)),
    }


def _passing() -> tuple[str, ...]:
    return tuple(
        f"{KEYWORD[v]} {end}addr . meta l4proto . th {end}port @{name}{SUFFIX[v]} accept"
        for base, end in ((FORTH, "d"), (BACK, "s"))
        for name in (base, base + RANGED)
        for v in (4, 6)
    )


def change(old: Accounts, new: Accounts) -> str:
    """The smallest script that leads from ``old`` to ``new``; empty if they are equal."""
    kinds = (
        (("vips",), old.vips, new.vips),
        (("offered",), old.services, new.services),
        (("offered_range",), old.ranges, new.ranges),
        ((FORTH, BACK), old.gateways, new.gateways),
        ((FORTH + RANGED, BACK + RANGED), old.gateway_ranges, new.gateway_ranges),
    )
    lines = [
        line
        for names, was, will in kinds
        for name in names
        # What goes may overlap with what comes.
        for verb, keys in (("delete", was - will), ("add", will - was))
        for line in _elements(verb, name, keys)
    ]
    return "".join(f"{line}\n" for line in lines)


def _elements(verb: str, name: str, keys: frozenset[str]) -> Iterator[str]:
    for version in (4, 6):
        some = [k for k in sorted(keys) if ip_address(k.partition(" ")[0]).version == version]
        if some:
            yield f"{verb} element inet {TABLE} {name}{SUFFIX[version]} {{ {', '.join(some)} }}"


def numbered(marks: Sequence[bytes]) -> str:
    """A script that counts for accounts by their numbers from now on."""
    elements = ", ".join(text_of(mark) for mark in marks)
    return "".join(f"add element inet {TABLE} {name} {{ {elements} }}\n" for name in MARKED)


def sample() -> str:
    """Every statement of this module, to be tried on a kernel."""
    some = frozenset({"192.0.2.1", "2001:db8::1"})
    ports = (frozenset(f"{vip} . tcp . {each}" for vip in some) for each in ("443", "80-90"))
    accounts = Accounts(some, *ports, *ports)
    return table() + change(Accounts(), accounts) + numbered([bytes(4)])
