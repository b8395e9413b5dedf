"""Virtual MACs as nftables text: chains of the lease's table, behind the gate. Pure.

Whoever holds the lease sends from its VIPs with their virtual MAC, and takes
frames to it as to its own; caches of others then stay right when the primary
changes, and the first frame from there tells the switch. The gate comes first:
a device without a lease has nothing of this. One that hands over, and announces
no more, forwards with its own address, or switches would look for the new one there.

ARP has no checksum. In neighbour discovery the kernel's own messages are altered as
well. nftables knows no link-layer options by name, so the option is written as raw
bytes, and type and code pay what the checksum then owes (:mod:`agent.checksums`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from agent.checksums import due
from agent.gate import TABLE
from agent.ipversion import ADDRESS, SUFFIX
from agent.neighbour import ADVERT, SOLICIT, mac_of

Pair = tuple[str, str]
"""(MAC, VIP)."""

_WAYS, _OF, _OPTION, _ADVERT, _SOLICIT = (
    "mac_ways", "mac_of", "mac_option6", "mac_advert6", "mac_solicit6"
)  # fmt: skip
_HEAD, _KIND, _MAC = "@th,192,16", "@th,0,16", "@th,208,48"
"""Of a neighbour solicitation or advertisement: type and length of its first option; its own
type and code; the address in the option."""
_DECLARED: dict[tuple[str, str], str] = {
    **{("set", _WAYS + SUFFIX[v]): f"type ether_addr . {ADDRESS[v]};" for v in (4, 6)},
    **{("map", _OF + SUFFIX[v]): f"type {ADDRESS[v]} : ether_addr;" for v in (4, 6)},
    ("map", _OPTION): f"typeof ip6 saddr : {_MAC};",
    ("map", _ADVERT): f"typeof ip6 saddr : {_KIND};",
    ("map", _SOLICIT): f"typeof ip6 saddr : {_KIND};",
}
SETS = tuple(_DECLARED)
"""Kind and name of the sets and maps, which commands alone put something into."""
_HOOK = '{{ type filter hook {} device "{}" priority -450; policy accept; }}'
_CHAINS = {"mac_ingress": "ingress", "mac_egress": "egress"}
PARTS = frozenset((*(f"chain {name}" for name in _CHAINS), *map(" ".join, SETS)))
"""How nft lists all this."""


@dataclass(frozen=True)
class Content:
    """What the kernel is to know of virtual MACs; equal ones are the same kernel state."""

    own: bytes
    """Address of the interface, which the kernel writes. Should that change, no VIP is advertised
    at all until this is loaded anew."""
    elements: Mapping[str, frozenset[str]]
    """Of each set and map."""

    def __bool__(self) -> bool:
        return any(self.elements.values())


def content_of(macs: Mapping[str, str], former: Iterable[Pair], own: bytes) -> Content:
    """For these MACs by VIP, in canonical form; frames to the ``former`` ones are taken, too."""
    found: dict[str, set[str]] = {name: set() for _, name in SETS}
    for mac, vip in {*((mac, vip) for vip, mac in macs.items()), *former}:
        found[_WAYS + _suffix(vip)].add(f"{mac} . {vip}")
    for vip, mac in macs.items():
        found[_OF + _suffix(vip)].add(f"{vip} : {mac}")
        if _suffix(vip) == SUFFIX[6]:
            new = mac_of(mac)
            found[_OPTION].add(f"{vip} : 0x{new.hex()}")
            found[_ADVERT].add(f"{vip} : {due(ADVERT << 8, own, new):#06x}")
            found[_SOLICIT].add(f"{vip} : {due(SOLICIT << 8, own, new):#06x}")
    return Content(own, {name: frozenset(each) for name, each in found.items()})


def _suffix(vip: str) -> str:
    return SUFFIX[6 if ":" in vip else 4]


def load(content: Content, interface: str) -> str:
    """A script that makes it exactly so, whatever is there; leaves nothing where it is empty."""
    lines = [
        f"add {kind} netdev {TABLE} {name} {{ {spec} }}" for (kind, name), spec in _DECLARED.items()
    ]
    for name, hook in _CHAINS.items():
        lines.append(f"add chain netdev {TABLE} {name} {_HOOK.format(hook, interface)}")
        lines.append(f"flush chain netdev {TABLE} {name}")
    if content:
        for chain, rules in (("mac_ingress", _ingress()), ("mac_egress", _egress(content.own))):
            lines += (f"add rule netdev {TABLE} {chain} {rule}" for rule in rules)
        lines += (f"flush {kind} netdev {TABLE} {name}" for kind, name in SETS)
        lines += _elements("add", content.elements)
    else:
        lines += (f"delete chain netdev {TABLE} {name}" for name in _CHAINS)
        lines += (f"delete {kind} netdev {TABLE} {name}" for kind, name in SETS)
    return "".join(f"{line}\n" for line in lines)


def change(old: Content, new: Content, interface: str) -> str:
    """The smallest script that leads from ``old`` to ``new``; empty if they are equal."""
    if old == new or not (old or new):
        return ""
    if old.own != new.own or not (old and new):
        return load(new, interface)
    gone = {name: old.elements[name] - new.elements[name] for _, name in SETS}
    made = {name: new.elements[name] - old.elements[name] for _, name in SETS}
    lines = (*_elements("delete", gone), *_elements("add", made))
    return "".join(f"{line}\n" for line in lines)


def _elements(verb: str, elements: Mapping[str, Iterable[str]]) -> Iterator[str]:
    for name, some in elements.items():
        if listed := ", ".join(sorted(some)):
            yield f"{verb} element netdev {TABLE} {name} {{ {listed} }}"


def sample(interface: str) -> str:
    """Every statement that this module writes, to be tried on a kernel."""
    mac = "02:00:00:00:00:01"
    macs = {"192.0.2.1": mac, "2001:db8::1": mac}
    return load(content_of(macs, (), bytes(6)), interface)


def _ingress() -> Iterator[str]:
    """The gate has let through what is for a VIP; the kernel takes it for somebody else's."""
    yield "meta pkttype != other accept"
    for destination, version in (("ip daddr", 4), ("arp daddr ip", 4), ("ip6 daddr", 6)):
        ways = f"@{_WAYS}{SUFFIX[version]}"
        yield f"ether daddr . {destination} {ways} meta pkttype set host"


def _egress(own: bytes) -> Iterator[str]:
    yield f"ip saddr @announced ether saddr set ip saddr map @{_OF}"
    yield "meta protocol ip accept"
    # What is told of a VIP has passed the gate, so it is announced.
    of = f"arp saddr ip map @{_OF}"
    yield f"arp saddr ether set {of} ether saddr set {of}"
    of = f"ether saddr set ip6 saddr map @{_OF}6"
    for kind, option, owed in (
        ("nd-neighbor-advert", "0x0201", _ADVERT),
        ("nd-neighbor-solicit", "0x0101", _SOLICIT),
    ):
        yield (
            f"icmpv6 type {kind} {_HEAD} {option} {_MAC} 0x{own.hex()} "
            f"{_MAC} set ip6 saddr map @{_OPTION} {_KIND} set ip6 saddr map @{owed} "
            f"icmpv6 type set {kind} icmpv6 code set 0 {of} accept"
        )
    # Any other address in the option would be a wrong one.
    kinds = "{ nd-neighbor-solicit, nd-neighbor-advert }"
    yield f"icmpv6 type {kinds} {_HEAD} {{ 0x0101, 0x0201 }} {of} drop"
    yield f"ip6 saddr @announced6 {of}"
