"""Accounts of the traffic as nftables text: table ``inet halb_count``.

Pure. It stands apart from the table that balances, so that nothing that is done
there, a rule swapped or the whole table made anew, touches a counter; an agent
that starts finds it and goes on counting. Elements with counters come to be by
themselves with the first packet, so the table costs nothing to load.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import product

from agent.forwarding import serving
from agent.ipversion import ADDRESS, KEYWORD, SUFFIX
from agent.ruleset import Desired

TABLE = "halb_count"
MAX_ELEMENTS = 262_144
"""Pairs of listener and gateway, twice (forth and back), of one IP version."""
SETS = ("offered", "offered_range", "untracked", "entered", "opened", "carried")
"""Sets with counters, in the order of a packet's way."""


@dataclass(frozen=True)
class Accounts:
    """What is counted; equal accounts are the same kernel state, counters aside."""

    vips: frozenset[str] = frozenset()
    services: frozenset[str] = frozenset()
    """``VIP . protocol . port`` of each listener with one port."""
    ranges: frozenset[str] = frozenset()
    """The same with ``first-last`` of each other listener."""


def accounts_of(desired: Desired) -> Accounts:
    """The accounts of the Virtual Servers that a device carries."""
    services, ranges = set(), set()
    for vs in desired.virtual_servers:
        for vip, listener in product(serving(vs, desired.vips.get(vs.uid, ())), vs.listeners):
            (first, last), key = listener.ports, f"{ip_address(vip)} . {listener.protocol}"
            if first == last:
                services.add(f"{key} . {first}")
            else:
                ranges.add(f"{key} . {first}-{last}")
    return Accounts(desired.addresses, frozenset(services), frozenset(ranges))


def table() -> str:
    """A script that makes the table; counters of one that stands there stay."""
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
            )
        )
    for chain, (hook, rules) in _chains().items():
        lines.append(f"add chain inet {TABLE} {chain} {{ type {hook}; policy accept; }}")
        lines.append(f"flush chain inet {TABLE} {chain}")
        lines += (f"add rule inet {TABLE} {chain} {rule}" for rule in rules)
    return "".join(f"{line}\n" for line in lines)


def _chains() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Hook and rules. Chains of type nat see the first packet of each flow, and no other."""
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
        # Balanced, and not yet past the other firewalls of this host: an entry is
        # confirmed behind them.
        "entered": (
            "filter hook forward priority -400",
            ("ct status & (dnat | confirmed) != dnat accept", *_updates("entered", "")),
        ),
        "opened": (
            "nat hook postrouting priority srcnat - 11",
            tuple(_updates("opened", " . ct reply {ip} saddr")),
        ),
        "carried": (
            "filter hook postrouting priority 300",
            tuple(_updates("carried", " . ct reply {ip} saddr . ct direction")),
        ),
    }


def _updates(name: str, more: str) -> Iterator[str]:
    """A rule per IP version and protocol; the port has a type only where that is known."""
    for version in (4, 6):
        ip, suffix = KEYWORD[version], SUFFIX[version]
        for protocol in ("tcp", "udp"):
            key = f"ct original {ip} daddr . meta l4proto . ct original proto-dst"
            key += more.format(ip=ip)
            yield (
                f"meta l4proto {protocol} ct status dnat ct original {ip} daddr @vips{suffix}"
                f" update @{name}{suffix} {{ {key} counter }} accept"
            )


def change(old: Accounts, new: Accounts) -> str:
    """The smallest script that leads from ``old`` to ``new``; empty if they are equal."""
    lines = [
        *_elements("add", "vips", new.vips - old.vips),
        *_elements("delete", "vips", old.vips - new.vips),
        *_elements("add", "offered", new.services - old.services),
        *_elements("delete", "offered", old.services - new.services),
        *_elements("delete", "offered_range", old.ranges - new.ranges),
        *_elements("add", "offered_range", new.ranges - old.ranges),
    ]
    return "".join(f"{line}\n" for line in lines)


def _elements(verb: str, name: str, keys: frozenset[str]) -> Iterator[str]:
    for version in (4, 6):
        some = [k for k in sorted(keys) if ip_address(k.partition(" ")[0]).version == version]
        if some:
            yield f"{verb} element inet {TABLE} {name}{SUFFIX[version]} {{ {', '.join(some)} }}"


def sample() -> str:
    """Every statement of this module, to be tried on a kernel."""
    some = frozenset({"192.0.2.1", "2001:db8::1"})
    ports = (frozenset(f"{vip} . tcp . {each}" for vip in some) for each in ("443", "80-90"))
    accounts = Accounts(some, *ports)
    return table() + change(Accounts(), accounts)
