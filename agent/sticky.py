"""Sticky clients in the kernel: read, entered, carried over when the table is made anew.

Packets put them there (:mod:`agent.gated`). So they do with connections whose slots move
(:mod:`agent.direct`): these have a number of 32 bits in place of a client's address, which is
written as an address here. Elements cannot be changed in
place, and a command that deletes one that has just timed out is refused as a
whole; so what is entered is compared with what is there first, and that is
tried once more.

What was read or told last is kept in memory, too: where others have flushed all rules, it is put
back with them; and an agent that starts hears of clients sooner than it has made its rules.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

from agent.direct import KNOWN_MOST
from agent.gated import class_id
from agent.ipversion import KEYWORD
from agent.nft import KernelRefused, Nft
from agent.ruleset import TABLE
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

    def __init__(self, nft: Nft, clock: Callable[[], float] = time.monotonic) -> None:
        self._nft = nft
        self._clock = clock
        self._newest: dict[str, tuple[float, Clients]] = {}
        """What each map had, and when."""

    def read(self, name: str) -> dict[str, Client]:
        """Clients in a map; none where there is no such map."""
        return self._read(name) or {}

    def _read(self, name: str) -> dict[str, Client] | None:
        try:
            found = parse(self._nft.list_timed("map", *_table(name), name), name)
        except KernelRefused:
            return None
        self._newest[name] = self._clock(), found
        return found

    def _remembered(self, name: str, *, there: bool) -> Iterator[Client]:
        """What a map has, if it may be ``there``, or is to have where there is none."""
        if there and (found := self._read(name)) is not None:
            yield from found.values()
            return
        at, lost = self._newest.get(name, (0.0, {}))
        passed_ms = round((self._clock() - at) * 1000)
        for each in lost.values():
            if each.left_ms > passed_ms + SOON_MS:
                yield replace(each, left_ms=each.left_ms - passed_ms)

    def forget_others(self, names: Collection[str]) -> None:
        """Only these maps are needed from now on."""
        self._newest = {name: each for name, each in self._newest.items() if name in names}

    def enter(self, name: str, told: Iterable[Client]) -> int:
        """Take over what a primary told; how many clients were entered.

        Raises :class:`KernelRefused` if the kernel takes none of them.
        """
        wanted = [each for each in told if each.left_ms > SOON_MS]
        for last in (False, True):
            present = self._read(name)
            if present is None:
                entered = {c.address: c for c in (*self._remembered(name, there=False), *wanted)}
                self._newest[name] = self._clock(), entered
                return 0
            script, number = _entering(name, present, wanted)
            try:
                if script:
                    self._nft.run(script)
                if number:
                    entered = {each.address: each for each in wanted}
                    self._newest[name] = self._clock(), present | entered
                return number
            except KernelRefused:
                if last:
                    raise
        return 0

    def put_back(self, wanted: Iterable[str], present: Collection[str] | None) -> str:
        """Commands that fill the maps that are new, of those ``wanted``, beside those ``present``;
        None where that is not known.

        One that others deleted has what it had; one of connections of a listener whose ports are
        other ones, which has another name, what the maps had that go. A connection's number says
        nothing of its port.
        """
        there = frozenset(present or ())
        names = [name for name in wanted if name.endswith((KNOWN, _SUFFIX)) and name not in there]
        going: dict[tuple[str, ...], list[str]] = {}
        for name in {*self._newest, *there}.difference(wanted) if names else ():
            if name.endswith(KNOWN):
                going.setdefault(_kin(name), []).append(name)
        script = ""
        for name in names:
            again = present is None or name in self._newest
            sources = [name] if again else sorted(going.get(_kin(name), ()))
            found = {
                each.address: each
                for source in sources
                for each in self._remembered(source, there=present is None or source in there)
            }
            script += elements(name, list(found.values())[:KNOWN_MOST])
        return script


def _kin(name: str) -> tuple[str, ...]:
    """What maps of connections of one Virtual Server and IP version have in common."""
    parts = name.removesuffix(KNOWN).split("_")
    return (*parts[:3], parts[-1])


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
