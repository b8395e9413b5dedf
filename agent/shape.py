"""One of our tables as the kernel has it, so that two looks at it can be compared.

To list it as text takes ten times as long, and reads all elements of all sets. A set or map is
known by its elements unless packets put these there, or the kernel lets nobody change them. Parts
that are made anew have another number, and so are other ones, whatever is in them.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator, Mapping
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
_RULE_CHAIN, _RULE_HANDLE, _EXPRESSIONS = 2, 3, 4
_EXPRESSION_NAME, _COUNTER = 1, b"counter\0"
_OF_A_RULE = re.compile(rb"__(?:set|map)\d+\0")
"""Names of sets that stand in a rule; freed, another one may get it."""
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
        sets = list(_asked(_GET_SET, family, table))
        handles = {each[_SET_NAME]: each[_SET_HANDLE] for each in sets}
        parts = [*_chains(family, table, handles), *_sets(family, table, sets)]
    except NetlinkError as error:
        if error.code != errno.ENOENT:
            raise
        return {}
    return {name: blake2b(salt + told, digest_size=12).hexdigest() for name, told in parts}


def _chains(family: str, table: str, sets: Mapping[bytes, bytes]) -> Iterator[tuple[str, bytes]]:
    """Each chain, and what tells it from others; of ``sets`` their numbers by name."""
    rules: dict[bytes, list[bytes]] = {}
    for each in _asked(_GET_RULE, family, table):
        text = each.get(_EXPRESSIONS, b"")
        asked = (sets.get(name, b"") for name in _OF_A_RULE.findall(text))
        told = (each[_RULE_HANDLE], _without_counts(text), *asked)
        rules.setdefault(each[_RULE_CHAIN], []).extend(told)
    for each in _asked(_GET_CHAIN, family, table):
        name = each[_CHAIN_NAME]
        yield f"chain {_text(name)}", b"".join((*_hook(each), *rules.get(name, ())))


def _without_counts(expressions: bytes) -> bytes:
    """The expressions of a rule without what its counters have counted."""
    if _COUNTER not in expressions:
        return expressions
    every = (each for _, each in attributes(expressions))
    return b"".join(
        each for each in every if dict(attributes(each)).get(_EXPRESSION_NAME) != _COUNTER
    )


def _hook(chain: Attributes) -> Iterator[bytes]:
    """Where and how it meets packets, which may be changed."""
    return (chain.get(kind, b"") for kind in (_HOOK, _POLICY, _CHAIN_FLAGS))


def _sets(family: str, table: str, sets: Iterable[Attributes]) -> Iterator[tuple[str, bytes]]:
    for each in sets:
        flags = int.from_bytes(each.get(_SET_FLAGS, b""), "big")
        if flags & _ANONYMOUS:
            continue
        name = _text(each[_SET_NAME])
        # Each is hashed by itself: they come in no order.
        content = 0 if flags & _UNREAD else sum(map(hash, raw_elements(family, table, name)))
        told = (each[_SET_HANDLE], each.get(_SET_TIMEOUT, b""), str(content).encode())
        yield f"{'map' if flags & _MAP else 'set'} {name}", b"".join(told)


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
