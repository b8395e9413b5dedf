"""Seats: numbers of gateways, from 0, that do not change while others come and go. Pure.

Which slots of a listener a gateway has depends on its seat alone, not on its address: so
the kernel needs the slots of many Virtual Servers only once. Who comes takes the first
free seat; in place of one that left it gets just what that one had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from protocol.objects import Gateway


def seated(gateways: Sequence[Gateway], before: Sequence[Gateway] = ()) -> tuple[Gateway, ...]:
    """``gateways``, each with the seat that its address had ``before``, or a free one."""
    known = seats(before)
    asked = tuple(replace(each, seat=known.get(each.address)) for each in gateways)
    given = seats(asked)
    return tuple(replace(each, seat=given[each.address]) for each in asked)


def seats(gateways: Sequence[Gateway]) -> Mapping[str, int]:
    """The seat of each address; those that have none yet get the free ones, in order."""
    found = {each.address: each.seat for each in gateways if each.seat is not None}
    taken = frozenset(found.values())
    free = (seat for seat in range(len(gateways)) if seat not in taken)
    return found | {each.address: next(free) for each in gateways if each.seat is None}
