"""The lease as nftables text: table ``netdev halb_lease``.

Pure. The table drops ARP, neighbour discovery and IP of each VIP in ``vips``
that is not in a timeout set: ``announced`` opens ARP and neighbour discovery,
``accepted`` opens IP. No element, no VIP: nothing has to run for a device to
fall silent. The chain ``refresh`` renews elements that still exist when a
marked datagram to the VIP comes in on ``lo``; it creates none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from agent.ipversion import ADDRESS, KEYWORD, SUFFIX
from protocol.errors import InvalidInput
from protocol.timing import INTERVAL_NS, MILLISECOND, Profile, Timing

TABLE = "halb_lease"
MARK = 0x48414C42
"""Mark of refresh datagrams ("HALB"); setting it takes CAP_NET_ADMIN."""
REFRESH_PORT: dict[Profile, int] = {p: 7990 + i for i, p in enumerate(INTERVAL_NS)}
"""UDP port that renews with the lease of a profile: timeouts differ, so do the rules."""
REFRESH_PORTS = f"{min(REFRESH_PORT.values())}-{max(REFRESH_PORT.values())}"
MAX_VIPS = 65535

_INTERFACE = re.compile(r"[A-Za-z0-9_.@-]{1,15}")
RENEWED = ("announced", "accepted")
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


def table(interface: str, note: str) -> str:
    """The whole table, in a form that may be loaded again at any time.

    Sets keep their elements, so a lease in force stays in force. ``note``
    (letters, digits, spaces, at most 120) is kept as the table's comment.
    """
    assert re.fullmatch(r"[a-z0-9 :-]{0,120}", note), note
    hooks = {
        "ingress": f'filter hook ingress device "{interface}" priority -500',
        "egress": f'filter hook egress device "{interface}" priority -500',
        "refresh": 'filter hook ingress device "lo" priority -500',
    }
    rules = {"ingress": _ingress(), "egress": _egress(), "refresh": _refresh()}
    lines = [f'add table netdev {TABLE} {{ comment "{note}"; }}']
    for version in (4, 6):
        kind, suffix = ADDRESS[version], SUFFIX[version]
        lines.append(f"add set netdev {TABLE} vips{suffix} {{ type {kind}; }}")
        # The set's own timeout makes an element without one impossible.
        lines += (
            f"add set netdev {TABLE} {name}{suffix} {{ type {kind}; size {MAX_VIPS}; "
            f"flags dynamic,timeout; timeout {_DEFAULT_MS}ms; }}"
            for name in RENEWED
        )
    for chain, hook in hooks.items():
        lines.append(f"add chain netdev {TABLE} {chain} {{ type {hook}; policy accept; }}")
        lines.append(f"flush chain netdev {TABLE} {chain}")
        lines += (f"add rule netdev {TABLE} {chain} {rule}" for rule in rules[chain])
    return "\n".join(lines) + "\n"


def replaced(interface: str, note: str) -> str:
    """As :func:`table`, but instead of whatever stands under this name; closes all leases."""
    return f"add table netdev {TABLE}\ndelete table netdev {TABLE}\n" + table(interface, note)


# Each packet that a device forwards meets both chains, so IPv4 comes first, and what passes
# there is through with one lookup.


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


def _refresh() -> Iterable[str]:
    for profile, port in REFRESH_PORT.items():
        timeout = f"timeout {Timing.of(profile).lease // MILLISECOND}ms"
        for version in (4, 6):
            key, suffix = f"{KEYWORD[version]} daddr", SUFFIX[version]
            held = f"{key} @announced{suffix} {key} @accepted{suffix}"
            renew = " ".join(f"update @{name}{suffix} {{ {key} {timeout} }}" for name in RENEWED)
            yield f"meta mark {MARK:#x} udp dport {port} {held} {renew}"
    yield f"meta mark {MARK:#x} udp dport {REFRESH_PORTS} drop"


def guard(vips: Sequence[str]) -> str:
    """Put VIPs behind the gate."""
    return "".join(_element("add", "vips", v, some) for v, some in split(vips))


def unguard(vips: Sequence[str]) -> str:
    """Take VIPs that are no longer on the interface out of the gate, and end their leases."""
    gone = "".join(_element("delete", "vips", v, some) for v, some in split(vips))
    return release(vips) + gone


def acquire(vips: Sequence[str], lease_ns: int) -> str:
    """Open both sets for ``lease_ns``, whether they hold the VIPs or not."""
    return _renewed("announced", vips, lease_ns) + _renewed("accepted", vips, lease_ns)


def release(vips: Sequence[str]) -> str:
    """Close both sets, whether they hold the VIPs or not."""
    return _removed("announced", vips) + _removed("accepted", vips)


def lame(vips: Sequence[str], drain_ns: int) -> str:
    """Close ``announced``; keep ``accepted`` for ``drain_ns``, refused if it ran out already."""
    lines = [_removed("announced", vips)]
    for version, some in split(vips):
        lines.append(_element("delete", "accepted", version, some))
        lines.append(_element("add", "accepted", version, some, drain_ns))
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
    return f"{verb} element netdev {TABLE} {name}{SUFFIX[version]} {{ {elements} }}\n"
