"""What a device tells of itself, found by Virtual Server.

It may be about a thousand of them, and each is looked for: when a device is slow, for instance,
it tells so of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

from protocol.ids import GroupId
from protocol.messages import Info

Down = Mapping[GroupId, frozenset[str]]
"""Names of the gateways of each Virtual Server that a device sees down."""


def by_server(down: Iterable[tuple[GroupId, str]]) -> Down:
    """(Virtual Server, gateway name) pairs, as they are told, by Virtual Server."""
    found: dict[GroupId, set[str]] = {}
    for uid, name in down:
        found.setdefault(uid, set()).add(name)
    return {uid: frozenset(names) for uid, names in found.items()}


class Told:
    """One :class:`Info`, or nothing yet. Reasons are sentences; what is missing has none."""

    def __init__(self, info: Info | None = None) -> None:
        self._info = info

    @cached_property
    def unfit(self) -> Mapping[GroupId, str]:
        """Why the device cannot carry a Virtual Server."""
        return dict(self._info.unfit) if self._info else {}

    @cached_property
    def behind(self) -> Mapping[GroupId, str]:
        """Why it lacks flows of one."""
        return dict(self._info.behind) if self._info else {}

    @cached_property
    def late(self) -> Mapping[GroupId, str]:
        """Why it is too slow for one."""
        return dict(self._info.late) if self._info else {}

    @cached_property
    def down(self) -> Down:
        """Which gateways it sees down."""
        return by_server(self._info.gateways_down) if self._info else {}
