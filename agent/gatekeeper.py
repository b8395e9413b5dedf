"""The gate in this kernel: made, kept, and what stands behind it.

It always looks at what leaves from a VIP by the service interface. At what comes in
for one it looks only where something could get past that: each packet that is forwarded
meets both looks, and the second one would take 2 % of its round trip.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address

from agent import addresses, gate, sysctl, virtual_mac
from agent.listing import blocks, difference, elements
from agent.nft import KernelRefused, Nft
from agent.ruleset import Desired
from protocol.objects import VirtualServer

_DEVICE = re.compile(r'hook \w+ device "([^"]+)"')
_COMMENT = re.compile(r'^\tcomment "(.*)"$', re.MULTILINE)
_VIPS = ("vips", "vips6")
Networks = tuple[IPv4Interface | IPv6Interface, ...]


@dataclass(frozen=True)
class GateSeen:
    """The gate as it is listed."""

    parts: Mapping[str, Mapping[str, str]]
    """Digest of each part, by the family of its table and its name."""
    vips: Mapping[str, frozenset[str]]
    """Behind it in each table, by family."""

    @property
    def guarded(self) -> frozenset[str]:
        """VIPs behind all of it."""
        return behind_all(self.vips)


def behind_all(vips: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """VIPs that are in each table, of those ``vips`` that are in one."""
    return frozenset.intersection(*vips.values())


@dataclass(frozen=True)
class GateDrift:
    """What others changed, in words."""

    words: tuple[str, ...] = ()
    anew: bool = False
    """It cannot be mended in place."""
    made: bool = False
    """It is there again, closed."""


class Gatekeeper:
    """The gate of one service interface; used by one thread only."""

    def __init__(self, nft: Nft, interface: str) -> None:
        self._nft = nft
        self._interface = interface
        self._tables: gate.Tables = (*gate.TABLES, gate.ELSEWHERE)
        self._inward = True
        """Packets to VIPs are looked at, too."""
        self._networks: Networks = ()
        self._by_egress: dict[int, tuple[VirtualServer, bool]] = {}
        """By identity of Virtual Servers, for these networks: see :func:`leaves_by_egress`."""

    def prepare(self, lacking: str) -> None:
        """``lacking``: why this kernel cannot keep other interfaces silent; empty if it can."""
        self._tables = gate.TABLES if lacking else (*gate.TABLES, gate.ELSEWHERE)

    def former_settings(self) -> Mapping[str, int]:
        """The settings before our first change: noted in the kernel, or as they are now."""
        listing = self._list("netdev")
        if listing is None:
            return sysctl.former(self._interface)
        noted = _COMMENT.search(listing)
        return sysctl.from_note(noted[1]) if noted else {}

    def fits(self) -> bool:
        """Whether the gate, if there is one, hangs on the service interface and no other."""
        listing = self._list("netdev")
        return listing is None or set(_DEVICE.findall(listing)) == {self._interface, "lo"}

    def load(self, former: Mapping[str, int], *, anew: bool = False) -> None:
        """Make the gate, with every VIP behind it that a killed agent left on the interface."""
        note, inward = "was " + sysctl.note(former), self._inward
        if not anew:
            try:
                self._nft.run(gate.table(self._interface, note, inward=inward) + self._elsewhere())
            except KernelRefused:
                # A table of another release: its sets have other types.
                anew = True
        left = gate.guard([vip for _, vip in addresses.ours()], self._tables)
        if anew:
            made = gate.replaced(self._interface, note, inward=inward) + self._elsewhere(anew=True)
            self._nft.run(made + left)
        elif left:
            self._nft.run(left)

    def _elsewhere(self, *, anew: bool = False) -> str:
        if gate.ELSEWHERE not in self._tables:
            return ""
        gone = gate.removed(gate.ELSEWHERE) if anew else ""
        return gone + gate.elsewhere(self._interface)

    def look_inward(self, desired: Desired) -> bool:
        """Look at packets to VIPs, too, if that is needed; whether anything had to be changed."""
        return not self._inward and self._needs_inward(desired) and self._turn(inward=True)

    def look_no_more(self, desired: Desired) -> bool:
        """Look at them no more if that is not needed; whether anything had to be changed."""
        return self._inward and not self._needs_inward(desired) and self._turn(inward=False)

    def _turn(self, *, inward: bool) -> bool:
        self._nft.run(gate.looking_inward(self._interface, wanted=inward))
        self._inward = inward
        return True

    def _needs_inward(self, desired: Desired) -> bool:
        networks = addresses.networks(self._interface)
        known = self._by_egress if networks == self._networks else {}
        self._networks, self._by_egress = networks, {}
        for vs in desired.virtual_servers:
            before = known.get(id(vs))
            self._by_egress[id(vs)] = before or (vs, leaves_by_egress(vs, networks))
        return not all(enough for _, enough in self._by_egress.values())

    def guard(self, vips: Sequence[str]) -> None:
        """Put VIPs behind the gate."""
        self._nft.run(gate.guard(vips, self._tables))

    def unguard(self, vips: Sequence[str]) -> None:
        """Take VIPs that are no longer on the interface out of it, and end their leases."""
        self._nft.run(gate.unguard(vips, self._tables))

    def vips(self) -> Mapping[str, frozenset[str]]:
        """What stands behind the gate in each table, by family, as the kernel says."""
        return {
            family: frozenset(
                vip
                for name in _VIPS
                for vip in elements(self._nft.list_timed("set", family, gate.TABLE, name))
            )
            for family, _ in self._tables
        }

    def remove(self) -> None:
        """Leave nothing of it."""
        for table in self._tables:
            self._nft.run(gate.removed(table))

    def missing(self) -> GateDrift:
        """Whether the gate is not there at all any more, or one of its tables."""
        gone = [f"table {family} {name}" for family, name in self._tables if not self._list(family)]
        return GateDrift(tuple(f"{name} was deleted" for name in gone), bool(gone))

    def look(self) -> GateSeen:
        """Read the kernel's state of it."""
        listed = {family: self._list(family) for family, _ in self._tables}
        parts = {family: blocks(listing or "") for family, listing in listed.items()}
        for kind, name in virtual_mac.SETS:
            if f"{kind} {name}" in parts["netdev"]:
                listing = self._nft.list_elements(kind, "netdev", gate.TABLE, name)
                parts["netdev"] |= blocks(listing)
        there = all(listed.values())
        return GateSeen(parts, self.vips() if there else dict.fromkeys(listed, frozenset()))

    def _list(self, family: str) -> str | None:
        return self._nft.list_table(family, gate.TABLE, elements=False)


def drift(before: GateSeen, now: GateSeen) -> GateDrift:
    """What others changed since."""
    words: list[str] = []
    anew = False
    for family, was in before.parts.items():
        name = f"table {family} {gate.TABLE}"
        found = difference(name, was, now.parts[family])
        if not found and now.vips[family] != before.vips[family]:
            found = (f"{name}: its VIPs were altered",)
        words += found
        kept = now.parts[family].keys() - virtual_mac.PARTS == was.keys() - virtual_mac.PARTS
        anew = anew or (bool(found) and not kept)
    return GateDrift(tuple(words), anew)


def leaves_by_egress(vs: VirtualServer, networks: Networks) -> bool:
    """Whether all that a device does with packets to a Virtual Server's VIPs shows in packets
    that leave from these by the service interface, which has ``networks``.

    So a gateway must see the VIP as the source, and lie there. A virtual MAC is taken behind
    what looks at packets that come in.
    """
    return (
        vs.forwarding == "snat"
        and not vs.virtual_mac
        and all(any(ip_address(g.address) in n.network for n in networks) for g in vs.gateways)
    )
