"""Numbers of accounts: marks of flows, by which the kernel counts with one look. Pure.

To ask a packet's flow for its VIP, its port and its gateway costs more than all else that
is done with the packet. So the first packet leaves a hash of the three in the mark of its
flow, unless somebody else has put something there, and those accounts that are busy are
counted by it. The hash is the same on each device, and goes to the others with the flow;
nobody has to keep which number is whose. Packets of other flows are counted by what the
flow says, as ever: of those with another's mark, and of accounts that are seldom used.

Two accounts have the same number with a probability of 1 to 4,294,967,295.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import lru_cache

from agent.jhash import slot_of

_SEED, _NUMBERS = 0x48414C42, 0xFFFFFFFF
HASH = f"mod {_NUMBERS:#x} seed {_SEED:#x} offset 1"
"""What follows ``jhash KEY`` for the number of an account; 0 is the mark of flows without one."""
MAX_NUMBERED = 16_384
BUSY = 100
"""Packets between two readings that make an account one that gets a number."""


@lru_cache(maxsize=MAX_NUMBERED)
def mark_of(account: bytes) -> bytes:
    """The number of an account, as the kernel keeps it; ``account`` is what its key begins with."""
    return (slot_of(account, _SEED, _NUMBERS) + 1).to_bytes(4, sys.byteorder)


def text_of(mark: bytes) -> str:
    """A number as nftables takes it."""
    return f"{int.from_bytes(mark, sys.byteorder):#010x}"


class Numbers:
    """Whose the numbers are that the kernel counts by, or may count by."""

    def __init__(self) -> None:
        self._accounts: dict[bytes, bytes] = {}
        """By mark."""
        self._marks: dict[bytes, bytes] = {}
        """By account."""
        self._nobodys: set[bytes] = set()

    def mark_of(self, account: bytes) -> bytes | None:
        """The number of an account, if it was given it."""
        return self._marks.get(account)

    def account_of(self, mark: bytes) -> bytes | None:
        """Whose number it is, if it was given to anybody."""
        return self._accounts.get(mark)

    def give(self, account: bytes) -> bytes | None:
        """An account's number, None if another one has it."""
        mark = mark_of(account)
        if self._accounts.setdefault(mark, account) != account:
            return None
        self._marks[account] = mark
        return mark

    def learn(self, marks: Iterable[bytes], accounts: Iterable[bytes]) -> None:
        """Find out whose ``marks`` are, which an agent before this one gave to ``accounts``."""
        unknown = set(marks) - self._accounts.keys() - self._nobodys
        for account in accounts if unknown else ():
            if mark_of(account) in unknown:
                unknown.discard(mark_of(account))
                self.give(account)
        self._nobodys |= unknown
