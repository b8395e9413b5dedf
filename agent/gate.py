"""The lease as nftables text: tables ``netdev``, ``inet`` and ``arp halb_lease``.

Pure. The first drops ARP, neighbour discovery and IP from each VIP in ``vips``
that is not in a timeout set: ``announced`` opens ARP and neighbour discovery,
``accepted`` opens IP. No element, no VIP: nothing has to run for a device to
fall silent. The second, which has an ``accepted`` of its own, drops what would
begin a flow to such a VIP. The third keeps all other interfaces from answering ARP for VIPs:
a host answers on each of them for all its addresses. The chains ``refresh`` renew elements
that still exist when a marked datagram to the VIP comes in on ``lo``; they create none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from agent.ipversion import ADDRESS, KEYWORD, SUFFIX
from protocol.errors import InvalidInput
from protocol.timing import INTERVAL_NS, MILLISECOND, Profile, Timing

TABLE = "halb_lease"
Tables = Sequence[tuple[str, str]]
"""Family and name of each."""
TABLES: Tables = (("netdev", TABLE), ("inet", TABLE))
"""What makes a lease."""
ELSEWHERE = ("arp", TABLE)
"""What keeps other interfaces silent; not every kernel has tables of this family."""
MARK = 0x48414C42
"""Mark of refresh datagrams ("HALB"); setting it takes CAP_NET_ADMIN."""
REFRESH_PORT: dict[Profile, int] = {p: 7990 + i for i, p in enumerate(INTERVAL_NS)}
"""UDP port that renews with the lease of a profile: timeouts differ, so do the rules."""
REFRESH_PORTS = f"{min(REFRESH_PORT.values())}-{max(REFRESH_PORT.values())}"
MAX_VIPS = 65535

_INTERFACE = re.compile(r"[A-Za-z0-9_.@-]{1,15}")
ANNOUNCED, ACCEPTED = RENEWED = ("announced", "accepted")
_SETS = {"netdev": RENEWED, "inet": (ACCEPTED,)}
"""Timeout sets of each table: rules see none of another one."""
_ON_LO = 'filter hook ingress device "lo" priority {}'
_TAKEN = f"meta mark {MARK:#x} udp dport {REFRESH_PORTS} drop"
_DEFAULT_MS = 100
"""Shorter than every lease, and different: the kernel does not list an equal timeout."""


def check_interface(name: str) -> str:
    """Return ``name`` if it may name a network interface; raise InvalidInput otherwise."""
    if not _INTERFACE.fullmatch(name) or name in {".", "..", "lo"}:
        raise InvalidInput(
            f"interface {name!r} is not a usable name",
            "Give the network interface that the VIPs live on, such as eth0 (see `ip link`).",
        )
    return name


def split(vips: Iterable[str]) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """The addresses by IP version, canonical and without the empty ones."""
    parsed = [ip_address(vip) for vip in vips]
    found = [(v, tuple(str(each) for each in parsed if each.version == v)) for v in (4, 6)]
    return tuple((version, some) for version, some in found if some)


def table(interface: str, note: str, *, inward: bool = True) -> str:
    """Both tables whole, in a form that may be loaded again at any time.

    Sets keep their elements, so a lease in force stays in force. ``note`` (letters,
    digits, spaces, names of interfaces; at most 120) is kept as the first table's
    comment. With ``inward`` packets *to* VIPs are looked at, too, wherever they go then.
    """
    assert re.fullmatch(r"[A-Za-z0-9_.@ :+-]{0,120}", note), note
    lines = [f'add table netdev {TABLE} {{ comment "{note}"; }}', f"add table inet {TABLE}"]
    for version in (4, 6):
        kind, suffix = ADDRESS[version], SUFFIX[version]
        for family, names in _SETS.items():
            lines.append(_guarded(family, version))
            # The set's own timeout makes an element without one impossible.
            lines += (
                f"add set {family} {TABLE} {name}{suffix} {{ type {kind}; size {MAX_VIPS}; "
                f"flags dynamic,timeout; timeout {_DEFAULT_MS}ms; }}"
                for name in names
            )
    egress = f'filter hook egress device "{interface}" priority -500'
    lines += _chain("netdev", "egress", egress, _egress())
    # Before the other one, which drops the datagram.
    lines += _chain("inet", "refresh", _ON_LO.format(-501), _refresh("inet"))
    lines += _chain("netdev", "refresh", _ON_LO.format(-500), (*_refresh("netdev"), _TAKEN))
    lines += _chain("inet", "opens", "nat hook prerouting priority dstnat - 12", _opens())
    return "".join(f"{line}\n" for line in lines) + looking_inward(interface, wanted=inward)


def elsewhere(interface: str) -> str:
    """The table that keeps all other interfaces silent, in a form that may be loaded again.

    It has the VIPs of IPv6, too, as the others do: of these a host answers for those of the
    interface alone.
    """
    hook = "filter hook input priority filter"
    lines = [f"add table arp {TABLE}", *(_guarded("arp", version) for version in (4, 6))]
    lines += _chain("arp", "input", hook, [f'iifname != "{interface}" arp daddr ip @vips drop'])
    return "".join(f"{line}\n" for line in lines)


def _guarded(family: str, version: int) -> str:
    return f"add set {family} {TABLE} vips{SUFFIX[version]} {{ type {ADDRESS[version]}; }}"


def looking_inward(interface: str, *, wanted: bool) -> str:
    """Make or remove what looks at packets *to* VIPs as they come in; either may be so already."""
    hook = f'filter hook ingress device "{interface}" priority -500'
    lines = _chain("netdev", "ingress", hook, _ingress() if wanted else ())
    if not wanted:
        lines.append(f"delete chain netdev {TABLE} ingress")
    return "".join(f"{line}\n" for line in lines)


def _chain(family: str, name: str, hook: str, rules: Iterable[str]) -> list[str]:
    where = f"{family} {TABLE} {name}"
    return [
        f"add chain {where} {{ type {hook}; policy accept; }}",
        f"flush chain {where}",
        *(f"add rule {where} {rule}" for rule in rules),
    ]


def replaced(interface: str, note: str, *, inward: bool = True) -> str:
    """As :func:`table`, but instead of whatever stands under this name; closes all leases."""
    return "".join(map(removed, TABLES)) + table(interface, note, inward=inward)


def removed(table: tuple[str, str]) -> str:
    """Leave nothing of a table, whether it is there or not."""
    return "".join(f"{verb} table {' '.join(table)}\n" for verb in ("add", "delete"))


# Each packet that a device forwards meets these, so IPv4 comes first, and what passes there is
# through with one lookup.


def _ingress() -> Iterable[str]:
    yield "ip daddr @accepted accept"
    yield "ip daddr @vips counter drop"
    yield "meta protocol ip accept"
    yield "icmpv6 type nd-neighbor-solicit ip6 daddr @vips6 ip6 daddr != @announced6 counter drop"
    yield "ip6 daddr @accepted6 accept"
    yield "ip6 daddr @vips6 counter drop"
    yield "arp daddr ip @vips arp daddr ip != @announced counter drop"


def _egress() -> Iterable[str]:
    yield "ip saddr @accepted accept"
    yield "ip saddr @vips counter drop"
    yield "meta protocol ip accept"
    # What `send_redirects` is for IPv4: nobody on the same network is told to skip the device.
    yield "icmpv6 type nd-redirect counter drop"
    # A solicitation to the VIP's multicast group comes in; the answer's source is the VIP.
    # So is that of a solicitation for a forwarded packet, which moves the VIP in others' caches.
    yield (
        "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } "
        "ip6 saddr @vips6 ip6 saddr != @announced6 counter drop"
    )
    yield "ip6 saddr @accepted6 accept"
    yield "ip6 saddr @vips6 counter drop"
    yield "arp saddr ip @vips arp saddr ip != @announced counter drop"


def _opens() -> Iterable[str]:
    """Of a flow that leads nowhere not even an entry is made, which would be there later."""
    for version in (4, 6):
        key, suffix = f"{KEYWORD[version]} daddr", SUFFIX[version]
        yield f"{key} @{ACCEPTED}{suffix} accept"
        yield f"{key} @vips{suffix} counter drop"


def _refresh(family: str) -> Iterable[str]:
    names = _SETS[family]
    for profile, port in REFRESH_PORT.items():
        timeout = f"timeout {Timing.of(profile).lease // MILLISECOND}ms"
        for version in (4, 6):
            key, suffix = f"{KEYWORD[version]} daddr", SUFFIX[version]
            held = " ".join(f"{key} @{name}{suffix}" for name in names)
            renew = " ".join(f"update @{name}{suffix} {{ {key} {timeout} }}" for name in names)
            yield f"meta mark {MARK:#x} udp dport {port} {held} {renew}"


def guard(vips: Sequence[str], tables: Tables = TABLES) -> str:
    """Put VIPs behind the gate."""
    return _behind("add", vips, tables)


def unguard(vips: Sequence[str], tables: Tables = TABLES) -> str:
    """Take VIPs that are no longer on the interface out of the gate, and end their leases."""
    return release(vips) + _behind("delete", vips, tables)


def _behind(verb: str, vips: Sequence[str], tables: Tables) -> str:
    return "".join(
        f"{verb} element {family} {table} vips{SUFFIX[version]} {{ {', '.join(some)} }}\n"
        for version, some in split(vips)
        for family, table in tables
    )


def acquire(vips: Sequence[str], lease_ns: int) -> str:
    """Open all sets for ``lease_ns``, whether they hold the VIPs or not."""
    return "".join(_renewed(name, vips, lease_ns) for name in RENEWED)


def release(vips: Sequence[str]) -> str:
    """Close all sets, whether they hold the VIPs or not."""
    return "".join(_removed(name, vips) for name in RENEWED)


def lame(vips: Sequence[str], drain_ns: int) -> str:
    """Close ``announced``; keep ``accepted`` for ``drain_ns``, refused if it ran out already."""
    lines = [_removed(ANNOUNCED, vips)]
    for version, some in split(vips):
        lines.append(_element("delete", ACCEPTED, version, some))
        lines.append(_element("add", ACCEPTED, version, some, drain_ns))
    return "".join(lines)


def _renewed(name: str, vips: Sequence[str], timeout_ns: int) -> str:
    """Adding an element that exists does not renew its timeout, so it is made anew."""
    made = "".join(_element("add", name, v, some, timeout_ns) for v, some in split(vips))
    return _removed(name, vips) + made


def _removed(name: str, vips: Sequence[str]) -> str:
    """Deleting what is not there fails, so it is added first."""
    return "".join(
        _element(verb, name, version, some)
        for version, some in split(vips)
        for verb in ("add", "delete")
    )


def _element(
    verb: str, name: str, version: int, vips: tuple[str, ...], timeout_ns: int | None = None
) -> str:
    timeout = "" if timeout_ns is None else f" timeout {timeout_ns // MILLISECOND}ms"
    elements = ", ".join(f"{vip}{timeout}" for vip in vips)
    return "".join(
        f"{verb} element {family} {TABLE} {name}{SUFFIX[version]} {{ {elements} }}\n"
        for family, names in _SETS.items()
        if name in names
    )
