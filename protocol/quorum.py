"""Majorities: which sets of voters may decide, and what they have confirmed."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from protocol.ids import DeviceId


def majority(voters: Collection[DeviceId]) -> int:
    """Smallest number of ``voters`` of which any two groups share a member."""
    return len(voters) // 2 + 1


def has_majority(voters: Collection[DeviceId], yes: Collection[DeviceId]) -> bool:
    """Whether more than half of ``voters`` are in ``yes``. False without voters."""
    return bool(voters) and sum(1 for v in voters if v in yes) >= majority(voters)


def confirmed_by_majority(
    voters: Collection[DeviceId], acked: Mapping[DeviceId, int]
) -> int | None:
    """The newest value that a majority has reached, or None.

    ``acked`` maps a voter to the newest value that it confirmed; a voter that
    is missing confirmed nothing.
    """
    values = sorted([acked[v] for v in voters if v in acked])
    needed = majority(voters)
    return values[-needed] if len(values) >= needed else None
