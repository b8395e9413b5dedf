"""Sticky clients in the kernel: read, entered, carried over when the table is made anew.

Packets put them there (:mod:`agent.gated`). So they do with connections whose slots move
(:mod:`agent.direct`): these have a number of 32 bits in place of a client's address, which is
written as an address here. Elements cannot be changed in
place, and a command that deletes one that has just timed out is refused as a
whole; so what is entered is compared with what is there first, and that is
tried once more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

from agent.gated import class_id
from agent.ipversion import KEYWORD
from agent.nft import KernelRefused, Nft
from agent.ruleset import TABLE, Ruleset
from agent.ways import KNOWN
from agent.ways import TABLE as DIRECT
from protocol.clients import MAX_LEFT_MS, Client

SOON_MS = 2000
"""A client with less time left is not worth an element."""
_SUFFIX = "_sticky"
_ELEMENT = re.compile(r"([0-9a-f.:]+) timeout \w+ expires (\w+) : ([0-9a-f]*):([0-9a-f]*)")
_NUMBERED = re.compile(r"0x([0-9a-f]+) timeout \w+ expires (\w+) : ([0-9a-f]*):([0-9a-f]*)")
_PART = re.compile(r"(\d+)(ms|[dhms])")
_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}

Clients = Mapping[str, Client]
"""By address."""


def parse(listing: str, name: str = "") -> dict[str, Client]:
    """Clients in ``nft list map`` of the map ``name``."""
    found = {}
    shape = _NUMBERED if name.endswith(KNOWN) else _ELEMENT
    for key, expires, major, minor in shape.findall(listing):
        address = key
        if name.endswith(KNOWN):
            number = int(key, 16)
            address = str(IPv6Address(number) if _of_ipv6(name) else IPv4Address(number))
        left = sum(int(amount) * _MS[unit] for amount, unit in _PART.findall(expires))
        found[address] = Client(address, int(major or "0", 16) << 16 | int(minor or "0", 16), left)
    return found


def elements(name: str, clients: Iterable[Client]) -> str:
    """The command that adds clients to a map, each for the time it has left."""
    some = [
        f"{_key(name, each.address)} timeout {min(each.left_ms, MAX_LEFT_MS)}ms"
        f" : {class_id(each.number)}"
        for each in clients
    ]
    return f"add element {_place(name)} {{ {', '.join(some)} }}\n" if some else ""


def _place(name: str) -> str:
    return " ".join((*_table(name), name))


def _key(name: str, address: str) -> str:
    """What a client is in the map ``name``, as nft writes it."""
    return f"{int(ip_address(address)):#x}" if name.endswith(KNOWN) else address


def _table(name: str) -> tuple[str, str]:
    """Family and table of the map ``name``."""
    return ("netdev", DIRECT) if name.endswith(KNOWN) else ("inet", TABLE)


def _of_ipv6(name: str) -> bool:
    return name.removesuffix(KNOWN).endswith(KEYWORD[6])


class StickyMaps:
    """The maps of sticky clients in this kernel; used by one thread only."""

    def __init__(self, nft: Nft) -> None:
        self._nft = nft

    def read(self, name: str) -> dict[str, Client]:
        """Clients in a map; none where there is no such map."""
        try:
            return parse(self._nft.list_timed("map", *_table(name), name), name)
        except KernelRefused:
            return {}

    def enter(self, name: str, told: Iterable[Client]) -> int:
        """Take over what a primary told; how many clients were entered.

        Raises :class:`KernelRefused` if the kernel takes none of them.
        """
        wanted = [each for each in told if each.left_ms > SOON_MS]
        for last in (False, True):
            script, number = _entering(name, self.read(name), wanted)
            try:
                if script:
                    self._nft.run(script)
                return number
            except KernelRefused:
                if last:
                    raise
        return 0

    def kept(self, wanted: Ruleset) -> str:
        """Commands that put back what is remembered now, after the table was made anew."""
        names = [name for name in wanted.sets if name.endswith(_SUFFIX)]
        return "".join(elements(name, self.read(name).values()) for name in names)


def _entering(name: str, present: Clients, wanted: Iterable[Client]) -> tuple[str, int]:
    """Commands for what is new or newer by more than a moment, and how many these are."""
    fresh = [
        each
        for each in wanted
        if (old := present.get(each.address)) is None
        or old.number != each.number
        or old.left_ms + SOON_MS < each.left_ms
        # A connection that has ended is remembered for less long than before.
        or (name.endswith(KNOWN) and old.left_ms > each.left_ms + SOON_MS)
    ]
    stale = ", ".join(_key(name, each.address) for each in fresh if each.address in present)
    delete = f"delete element {_place(name)} {{ {stale} }}\n" if stale else ""
    return delete + elements(name, fresh), len(fresh)
