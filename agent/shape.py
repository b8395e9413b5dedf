"""One of our tables as the kernel has it, so that two looks at it can be compared.

Nobody alters a rule: what takes its place has another number, as have a chain, set or table that
are made anew. So a chain is known by the numbers of its rules; to list these as text takes ten
times as long. A set or map is known by its elements too, unless packets put these there, or the
kernel lets nobody change them.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from hashlib import blake2b

from agent import netlink
from agent.elements import FAMILY, raw_elements
from agent.netlink import NETFILTER, NetlinkError, attribute, attributes, listed

_NFTABLES = 10 << 8
_GET_TABLE, _GET_CHAIN, _GET_RULE, _GET_SET = (_NFTABLES | number for number in (1, 4, 7, 10))
_TABLE = 1
"""Attribute of requests and answers of all kinds: the name of a table."""
_TABLE_HANDLE = 4
_CHAIN_NAME, _HOOK, _POLICY, _CHAIN_FLAGS = 3, 4, 5, 10
_RULE_CHAIN, _RULE_HANDLE = 2, 3
_SET_NAME, _SET_FLAGS, _SET_TIMEOUT, _SET_HANDLE = 2, 3, 11, 16
_ANONYMOUS, _MAP = 0x1, 0x8
_UNREAD = 0x2 | 0x10 | 0x20
"""Flags of sets that nobody may change; with timeouts; that packets put something into."""

Attributes = dict[int, bytes]


def shape(family: str, table: str) -> dict[str, str]:
    """A digest of each part of a table, by its kind and name such as ``chain guard``; none where
    there is no such table. Raises :class:`NetlinkError`."""
    try:
        (found,) = _asked(_GET_TABLE, family, table)
        salt = found[_TABLE_HANDLE]
        chains, sets = _chains(family, table), _sets(family, table)
    except NetlinkError as error:
        if error.code != errno.ENOENT:
            raise
        return {}
    return {name: blake2b(salt + told, digest_size=12).hexdigest() for name, told in chains + sets}


def _chains(family: str, table: str) -> list[tuple[str, bytes]]:
    rules: dict[bytes, list[bytes]] = {}
    for each in _asked(_GET_RULE, family, table):
        rules.setdefault(each[_RULE_CHAIN], []).append(each[_RULE_HANDLE])
    return [
        (f"chain {_text(each[_CHAIN_NAME])}", b"".join((*_hook(each), *rules.get(name, ()))))
        for each in _asked(_GET_CHAIN, family, table)
        if (name := each[_CHAIN_NAME])
    ]


def _hook(chain: Attributes) -> Iterator[bytes]:
    """Where and how it meets packets, which may be changed."""
    return (chain.get(kind, b"") for kind in (_HOOK, _POLICY, _CHAIN_FLAGS))


def _sets(family: str, table: str) -> list[tuple[str, bytes]]:
    found = []
    for each in _asked(_GET_SET, family, table):
        flags = int.from_bytes(each.get(_SET_FLAGS, b""), "big")
        if flags & _ANONYMOUS:
            # Part of a rule.
            continue
        name = _text(each[_SET_NAME])
        # Each is hashed by itself: they come in no order.
        content = 0 if flags & _UNREAD else sum(map(hash, raw_elements(family, table, name)))
        told = (each[_SET_HANDLE], each.get(_SET_TIMEOUT, b""), str(content).encode())
        found.append((f"{'map' if flags & _MAP else 'set'} {name}", b"".join(told)))
    return found


def _asked(kind: int, family: str, table: str) -> Iterator[Attributes]:
    """What the kernel has of one kind in a table, in its order."""
    name = table.encode() + b"\0"
    body, purpose = FAMILY[family] + attribute(_TABLE, name), f"read table {family} {table}"
    if kind == _GET_TABLE:
        answers = list(netlink.request(NETFILTER, kind, body, purpose=purpose))
    else:
        answers = listed(NETFILTER, kind, body, purpose=purpose)
    for answer in answers:
        found = dict(attributes(answer[len(FAMILY[family]) :]))
        # Of chains the kernel tells those of all tables.
        if found.get(_TABLE) == name:
            yield found


def _text(name: bytes) -> str:
    return name.rstrip(b"\0").decode()
