"""Accounts of what no Virtual Server has any more: which of them are to be closed. Pure.

Elements come to be with packets and stay, and their sets have room for a bounded number:
a Site whose gateways change each day would fill them within months, and count nothing of
newer ones. So an account that nobody has any more is closed once nothing was counted in
it for a while. Never at once: flows that go on after their gateway was removed would
make it anew with the next packet, and a gateway may be away for a moment only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from agent import accounts
from agent.counters import (
    PROTOCOL_NUMBER,
    Key,
    Ledger,
    Tally,
    element_of,
    gateway_of,
    kind_of,
)
from agent.elements import added
from agent.forwarding import memoryless
from agent.ruleset import Desired, carried
from protocol.addresses import family

KEPT_S = 3600.0
"""An account is closed so many seconds after it was needed, and counted in, last."""
AT_ONCE = 1000
"""Accounts closed in one transaction, which takes 5 ms."""
MOST = 4 * AT_ONCE
"""Accounts closed after one reading."""


def _packed(address: str) -> bytes:
    return ip_address(address).packed


@dataclass(frozen=True)
class Held:
    """What the carried Virtual Servers have, as keys of accounts have it."""

    vips: frozenset[bytes] = frozenset()
    listeners: Mapping[bytes, frozenset[tuple[int, int, frozenset[bytes]]]] = field(
        default_factory=dict
    )
    """First port, last port and gateways of each, by VIP and protocol."""
    gateways: frozenset[bytes] = frozenset()
    """Gateway, protocol and first port where no flows are remembered."""

    def has(self, key: Key) -> bool:
        """Whether what an account is about is still there."""
        name, raw = key
        kind, size = kind_of(name)
        if kind == "untracked":
            return raw in self.vips
        if kind.removesuffix(accounts.RANGED) in accounts.BY_GATEWAY:
            return raw[: size + 6] in self.gateways
        port = int.from_bytes(raw[size + 4 : size + 6], "big")
        listeners = self.listeners.get(raw[: size + 4], ())
        if kind.removesuffix(accounts.RANGED) == "offered":
            return any(first == port for first, _, _ in listeners)
        gateway = gateway_of(name, raw)
        return any(
            first <= port <= last and (not any(gateway) or gateway in gateways)
            for first, last, gateways in listeners
        )

    def remainder(self, key: Key) -> Key | None:
        """Where what an account counted goes on being counted once it is closed: that of
        gateways that are gone, of a listener that stays. Else its totals would fall, and flows
        seem to have been sent to a gateway and never gone out."""
        name, raw = key
        kind, size = kind_of(name)
        rest = name, raw[: size + 8] + bytes(size) + raw[2 * size + 8 :]
        return rest if kind in ("opened", "carried") and self.has(rest) else None


def held_of(desired: Desired) -> Held:
    """What the Virtual Servers have that a device carries."""
    listeners: dict[bytes, set[tuple[int, int, frozenset[bytes]]]] = {}
    unremembered: set[bytes] = set()
    for _, vs, listener, version, vips in carried(desired):
        protocol = bytes([PROTOCOL_NUMBER[listener.protocol], 0, 0, 0])
        gateways = frozenset(
            _packed(each.address) for each in vs.gateways if family(each.address) == version
        )
        for vip in vips:
            listeners.setdefault(_packed(vip) + protocol, set()).add((*listener.ports, gateways))
        if memoryless(vs, listener, vips):
            port = protocol + listener.gateway_ports[0].to_bytes(2, "big")
            unremembered.update(gateway + port for gateway in gateways)
    return Held(
        frozenset(map(_packed, desired.addresses)),
        {key: frozenset(each) for key, each in listeners.items()},
        frozenset(unremembered),
    )


class Gone:
    """Accounts that nobody has any more. Times are seconds that never decrease."""

    def __init__(self) -> None:
        self._held = Held()
        self._kept: set[Key] = set()
        """Known to be held: not looked at again until that changes."""
        self._since: dict[Key, tuple[float, Tally]] = {}
        """What those have counted that nobody has, and since when it is no more."""

    def due(self, held: Held, ledger: Ledger, now: float) -> list[Key]:
        """Those of all accounts that are to be closed now."""
        judged: Mapping[Key, tuple[float, Tally]] = self._since
        if held != self._held:
            self._held, self._kept, judged = held, set(), {}
        gone: dict[Key, tuple[float, Tally]] = {}
        for key in ledger.keys() - self._kept:
            if key not in judged and held.has(key):
                self._kept.add(key)
                continue
            tally = ledger.total(key)
            rests = self._since.get(key)
            gone[key] = (now, tally) if rests is None or rests[1] != tally else rests
        self._since = gone
        return [key for key, (since, _) in gone.items() if now - since >= KEPT_S][:MOST]


def closed(keys: Iterable[Key], remainders: Mapping[Key, Key], ledger: Ledger) -> str:
    """The script that removes accounts, and adds what they counted to their remainders.

    What packets did not make has left the kernel with its listener or gateway.
    """
    sums: dict[Key, Tally] = {}
    for key, rest in remainders.items():
        one, before = (ledger.in_kernel(each) or Tally() for each in (key, rest))
        sums[rest] = added(sums.get(rest, before), one)
    old: dict[str, list[str]] = {}
    for part in (part for key in (*keys, *sums) for part in ledger.parts(key)):
        name = part[0]
        made = name in accounts.MARKED or kind_of(name)[0] in accounts.DYNAMIC
        if made and ledger.has(part):
            old.setdefault(name, []).append(element_of(part))
    new: dict[str, list[str]] = {}
    for key, tally in sums.items():
        text = f"{element_of(key)} counter packets {tally.packets} bytes {tally.bytes}"
        new.setdefault(key[0], []).append(text)
    return "".join((*_lines("delete", old), *_lines("add", new)))


def _lines(verb: str, elements: Mapping[str, list[str]]) -> Iterator[str]:
    for name, some in elements.items():
        yield f"{verb} element inet {accounts.TABLE} {name} {{ {', '.join(some)} }}\n"
