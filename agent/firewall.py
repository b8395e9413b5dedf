"""The other firewalls of this host: which of their chains may take flows away from us.

Only names, hooks and policies are read, by netlink; no rule of anybody else
is ever listed or touched. Rules of the old kind (iptables-legacy) do not appear there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agent import netlink

_GET_CHAIN = (10 << 8) | 4
_TABLE, _NAME, _HOOK, _POLICY, _TYPE = 1, 3, 4, 5, 7
_NUMBER, _PRIORITY = 1, 2
_FAMILY = {1: "inet", 2: "ip", 10: "ip6"}
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
_DROP = 0
OURS = "halb"
"""What the names of our own tables begin with."""
RAW = -200
"""Chains before this priority may keep packets out of the connection table."""


@dataclass(frozen=True)
class Chain:
    """A chain of somebody else that the kernel calls by itself."""

    family: str
    table: str
    name: str
    hook: str
    priority: int
    drops: bool
    """Its policy is to drop what none of its rules accepts."""

    def __str__(self) -> str:
        policy = ", policy drop" if self.drops else ""
        return f"table {self.family} {self.table}, chain {self.name}{policy}"


def foreign_chains() -> tuple[Chain, ...]:
    """All of them in this network namespace, of the families that carry our flows."""
    return tuple(_chains())


def _chains() -> Iterator[Chain]:
    for each in netlink.request(
        netlink.NETFILTER, _GET_CHAIN, bytes(4), flags=netlink.DUMP, purpose="list chains"
    ):
        family, values = _FAMILY.get(each[0]), dict(netlink.attributes(each[4:]))
        hooked, table = values.get(_HOOK), _text(values.get(_TABLE, b""))
        if family is None or hooked is None or table.startswith(OURS):
            continue
        hook = dict(netlink.attributes(hooked))
        number = int.from_bytes(hook[_NUMBER], "big")
        yield Chain(
            family,
            table,
            _text(values.get(_NAME, b"")),
            _HOOKS[number] if number < len(_HOOKS) else "ingress",
            struct.unpack(">i", hook[_PRIORITY])[0],
            int.from_bytes(values.get(_POLICY, b"\x01"), "big") == _DROP,
        )


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def suspects(chains: Iterable[Chain], hook: str) -> str:
    """Chains at ``hook``, those that drop by policy first, in words."""
    found = sorted((c for c in chains if c.hook == hook), key=lambda c: (not c.drops, c.priority))
    return "; ".join(map(str, found)) or "rules of iptables-legacy, or another hook"
