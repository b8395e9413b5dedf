"""Reading the accounts of the kernel, and keeping totals that only grow.

One dump per set. A counter that starts again, because somebody flushed the
table, goes on from where it was when it was last read.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, reduce
from ipaddress import ip_address
from itertools import chain
from typing import Any

from agent import accounts, ways
from agent.elements import Tally as Tally
from agent.elements import added
from agent.elements import dump_counters as dump_counters
from agent.ipversion import SUFFIX
from agent.numbers import BUSY, MAX_NUMBERED, Numbers, text_of
from agent.sent import sent

_ADDRESS = {4: 4, 6: 16}
_WAY = 4
"""Bytes that say at the end of a key which way packets went: none is set for those to gateways."""
_OPENED, _CARRIED = (
    frozenset(name + suffix for suffix in SUFFIX.values()) for name in ("opened", "carried")
)
_KINDS = (*accounts.SETS, "back", *ways.COUNTED)
PROTOCOL_NUMBER = {"tcp": int(socket.IPPROTO_TCP), "udp": int(socket.IPPROTO_UDP)}
_PROTOCOL = {number: name for name, number in PROTOCOL_NUMBER.items()}

Service = tuple[str, str, int]
"""(VIP, protocol, port)."""
Account = tuple[str, str, int, str]
"""(VIP, protocol, port, gateway address)."""


_NOTHING = Tally()


@dataclass(frozen=True)
class Reading:
    """Totals since the table was made, by this agent or by one before it."""

    offered: Mapping[Service, int]
    """First packets of flows that came for a listener, by its first port."""
    entered: Mapping[Service, int]
    """First packets of flows that were sent to a gateway, and met other firewalls then."""
    opened: Mapping[Account, int]
    """Flows that went out to a gateway; with its unspecified address, to those that are gone."""
    forth: Mapping[Account, Tally]
    """From clients to the gateway."""
    back: Mapping[Account, Tally]
    """From the gateway to clients."""
    untracked: Mapping[str, int]
    """Packets to a VIP that somebody had marked `notrack`."""
    passed: Mapping[Service, Tally] = field(default_factory=dict)
    """To gateways without a memory of flows: by gateway in place of the VIP, and its first port."""
    answered: Mapping[Service, Tally] = field(default_factory=dict)
    """The same from gateways."""
    left: Mapping[Service, Tally] = field(default_factory=dict)
    """What of both went out again."""
    begun: Mapping[Service, Tally] = field(default_factory=dict)
    """Of what went out to gateways, that which opens a connection of TCP; also while slots move
    and flows are remembered."""
    sent: Mapping[Account, Tally] = field(default_factory=dict)
    """Sent on to the gateway by `dsr`, but for what opens a connection of TCP."""
    sent_first: Mapping[Account, Tally] = field(default_factory=dict)
    """What opens one."""

    @property
    def stopped(self) -> Mapping[Service, int]:
        """Packets to and from gateways without a memory of flows that another firewall of this
        host dropped, by gateway."""
        return {
            service: max(0, self._came(service) - self.left.get(service, _NOTHING).packets)
            for service in self.passed.keys() | self.answered.keys()
        }

    def _came(self, service: Service) -> int:
        several = (each.get(service, _NOTHING) for each in (self.passed, self.answered))
        return sum(each.packets for each in several)

    @property
    def dropped(self) -> Mapping[Service, int]:
        """Flows that were sent to a gateway and that another firewall of this host dropped."""
        left = dict(self.entered)
        for account, number in self.opened.items():
            if (service := account[:3]) in left:
                left[service] -= number
        return {service: max(0, number) for service, number in left.items()}


Key = tuple[str, bytes]
"""(set, key as the kernel has it)."""


class Ledger:
    """Totals of all counters; used by one thread only."""

    def __init__(self) -> None:
        self._before: dict[Key, Tally] = {}
        """What counters held that started again."""
        self._newest: dict[Key, Tally] = {}
        """What each was when it was last seen."""
        self._passed_over: set[Key] = set()
        """What packets made, the newest dump lacked, and the kernel may still have."""
        self._numbers = Numbers()
        self._busy: set[Key] = set()
        """Accounts that much was counted in by what flows say, between two readings."""

    def read(self, held: Callable[[Key], bool] = lambda _: False) -> Reading:
        """Dump the kernel's sets. Raises NetlinkError where the table is missing.

        That of `dsr` is there only while a Virtual Server needs it, and has accounts only of
        what is ``held`` by one.
        """
        seen = {(name, key): tally for name in _set_names() for key, tally in self.dump(name)}
        self.add(seen | dict(_sent_on()), held)
        return self.totals()

    def dump(self, name: str) -> Iterator[tuple[bytes, Tally]]:
        """The elements of one of our sets, as the kernel has them now."""
        return dump_counters(accounts.TABLE, name)

    def add(self, seen: Mapping[Key, Tally], held: Callable[[Key], bool] = lambda _: False) -> None:
        """Take in one dump.

        One that it lacks keeps what it had: while packets make a set grow, the kernel
        passes over elements that are there.
        """
        self._busy, began = set(), bool(self._newest)
        for key, new in seen.items():
            old = self._newest.get(key, _NOTHING)
            if new.packets < old.packets:
                self._put_by(key, old)
            elif key[0] in _CARRIED and new.packets - old.packets >= BUSY and began:
                self._busy.add(key)
        self._newest.update(seen)
        lacking = self._newest.keys() - seen.keys()
        self._passed_over = {
            key
            for key in lacking
            if (kind := kind_of(key[0])[0]) in accounts.DYNAMIC
            or (kind in ways.COUNTED and held(key))
        }
        for key in lacking - self._passed_over:
            # Taken out by a command: should it come back, it begins at zero.
            self._put_by(key, self._newest.pop(key))
        marks = (raw for name, raw in seen if name in accounts.MARKED)
        # Of flows that were opened elsewhere, as before a takeover, the latter alone are known.
        opened = (raw for name, raw in self._newest if name in _OPENED)
        carried = (raw[:-_WAY] for name, raw in self._newest if name in _CARRIED)
        self._numbers.learn(marks, chain(opened, carried))

    def start_again(self) -> None:
        """The kernel's counters are known to begin at zero now."""
        for key, old in self._newest.items():
            self._put_by(key, old)
        self._newest, self._passed_over = {}, set()

    def unnumbered(self) -> list[bytes]:
        """Marks of the accounts that much was counted in since the reading before, and that
        the kernel does not know by their number yet; no more than it has room for."""
        kept = {raw for name, raw in self._newest if name in accounts.MARKED}
        # Those of gateways that are gone are no flow's.
        busy = {raw[:-_WAY] for name, raw in self._busy if any(gateway_of(name, raw))}
        given = (self._numbers.give(account) for account in sorted(busy))
        return [mark for mark in given if mark and mark not in kept][: MAX_NUMBERED - len(kept)]

    def keys(self) -> set[Key]:
        """All accounts there are, also those that have counted by number alone."""
        every = self._newest.keys() | self._before.keys()
        numbered = {part for part in every if part[0] in accounts.MARKED}
        used = (self._account_of(part) for part in numbered if self._counted(part).packets)
        return (every - numbered).union(key for key in used if key is not None)

    def _account_of(self, part: Key) -> Key | None:
        """The account that is counted in here by number, as :meth:`parts` has it; None if it is
        nobody's."""
        name, mark = part
        account = self._numbers.account_of(mark)
        if account is None:
            return None
        suffix = SUFFIX[4 if len(account) == 2 * _ADDRESS[4] + 8 else 6]
        if name == accounts.OPENED_BY:
            return f"opened{suffix}", account
        back = name == accounts.CARRIED_BY[1]
        return f"carried{suffix}", account + back.to_bytes(_WAY, "little")

    def parts(self, key: Key) -> tuple[Key, ...]:
        """Where the kernel counts for an account: also by the number that its flows have."""
        name, raw = key
        if name in _OPENED:
            account, by_number = raw, accounts.OPENED_BY
        elif name in _CARRIED:
            account, by_number = raw[:-_WAY], accounts.CARRIED_BY[raw[-_WAY] != 0]
        else:
            return (key,)
        mark = self._numbers.mark_of(account)
        return (key,) if mark is None else (key, (by_number, mark))

    def total(self, key: Key) -> Tally:
        """What an account has counted so far."""
        first, *others = self.parts(key)
        return reduce(added, map(self._counted, others), self._counted(first))

    def _counted(self, part: Key) -> Tally:
        now, before = self._newest.get(part, _NOTHING), self._before.get(part)
        return now if before is None else added(now, before)

    def is_sure(self, key: Key) -> bool:
        """Whether it is known what the kernel has of an account, which may be nothing."""
        return key not in self._passed_over

    def has(self, part: Key) -> bool:
        """Whether the kernel has this element."""
        return part in self._newest

    def in_kernel(self, key: Key) -> Tally | None:
        """What the kernel holds of an account, without what was counted before that; None if
        nothing."""
        held = [self._newest[part] for part in self.parts(key) if part in self._newest]
        return reduce(added, held) if held else None

    def close(self, key: Key, remainder: Key | None) -> None:
        """The kernel has an account no more, and has added what it counted to another one."""
        parts = self.parts(key)
        for counted in (self._newest, self._before):
            for part in parts:
                tally = counted.pop(part, None)
                if tally is not None and remainder is not None:
                    counted[remainder] = added(counted.get(remainder, Tally()), tally)

    def _put_by(self, key: Key, tally: Tally) -> None:
        self._before[key] = added(self._before.get(key, Tally()), tally)

    def totals(self) -> Reading:
        """Everything counted so far."""
        found: dict[str, dict[Any, Any]] = {name: {} for name in _KINDS}
        for key in self.keys():
            name, raw = key
            tally = self.total(key)
            kind, size = kind_of(name)
            if kind == "untracked":
                found[kind][_address(raw)] = tally.packets
                continue
            service = _service(raw, size)
            if kind == "entered":
                found[kind][service] = tally.packets
                continue
            if kind in ("offered", "offered_range"):
                # Of a listener that has other ports now as well, but the same first one.
                found["offered"][service] = found["offered"].get(service, 0) + tally.packets
                continue
            if kind.removesuffix(accounts.RANGED) in accounts.BY_GATEWAY:
                found[kind][service] = tally
                continue
            account = (*service, _address(gateway_of(name, raw)))
            if kind == "opened":
                found[kind][account] = tally.packets
            elif kind in ways.COUNTED:
                found[kind][account] = tally
            else:
                found["back" if raw[-_WAY] else kind][account] = tally
        return Reading(
            offered=found["offered"],
            entered=found["entered"],
            opened=found["opened"],
            forth=found["carried"],
            back=found["back"],
            untracked=found["untracked"],
            passed=found[accounts.FORTH] | found[accounts.FORTH + accounts.RANGED],
            answered=found[accounts.BACK] | found[accounts.BACK + accounts.RANGED],
            left=found[accounts.LEFT] | found[accounts.LEFT + accounts.RANGED],
            begun=found[accounts.BEGUN] | found[accounts.BEGUN + accounts.RANGED],
            sent=found[ways.SENT],
            sent_first=found[ways.FIRST],
        )


def _set_names() -> Iterator[str]:
    for suffix in SUFFIX.values():
        yield from (f"{name}{suffix}" for name in accounts.SETS)
    yield from accounts.MARKED


def _sent_on() -> Iterator[tuple[Key, Tally]]:
    """What `dsr` counted, named as accounts are: by the gateway, not its seat."""
    for each in sent():
        if each.gateway:
            yield (each.name, each.service + each.gateway), each.tally


@cache
def kind_of(name: str) -> tuple[str, int]:
    """A set's name for both IP versions, and the size of its addresses."""
    return name.removesuffix("6"), _ADDRESS[6 if name.endswith("6") else 4]


def element_of(account: Key) -> str:
    """What a set has of an account, as nftables takes it."""
    name, raw = account
    kind, size = kind_of(name)
    if name in accounts.MARKED:
        return text_of(raw)
    if kind == "untracked":
        return _address(raw)
    service = service_of(raw[: size + 8])
    if kind == "entered" or kind in accounts.BY_GATEWAY:
        return service
    flow = f"{service} . {_address(gateway_of(name, raw))}"
    if kind == "opened":
        return flow
    return f"{flow} . {'reply' if raw[-_WAY] else 'original'}"


def gateway_of(name: str, raw: bytes) -> bytes:
    """The gateway of an account; empty where it is about no gateway."""
    size = kind_of(name)[1]
    return raw[size + 8 : 2 * size + 8]


def vip_of(key: bytes) -> str:
    """An element of the set of VIPs, as text."""
    return _address(key)


def service_of(key: bytes) -> str:
    """An element of the set of listeners, as nftables takes it: ``VIP . protocol . port``."""
    return "{} . {} . {}".format(*_service(key, len(key) - 8))


def range_of(key: bytes) -> str:
    """The same of an element with both ends: ``VIP . protocol . first-last``."""
    first, end = key[: len(key) // 2], key[len(key) // 2 :]
    return f"{service_of(first)}-{_service(end, len(end) - 8)[2]}"


def _service(key: bytes, size: int) -> Service:
    """The first three parts of a key, each padded to four bytes, with an address of ``size``."""
    return (
        _address(key[:size]),
        _PROTOCOL.get(key[size], str(key[size])),
        int.from_bytes(key[size + 4 : size + 6], "big"),
    )


def _address(packed: bytes) -> str:
    return socket.inet_ntoa(packed) if len(packed) == 4 else str(ip_address(packed))
