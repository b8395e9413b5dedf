"""Which flows a primary told of: so its successor knows what it should have, and lacks.

Pure. Of very many a sample is remembered, by their hashes: adaptive sampling (Flajolet 1990).
What is missing is looked for in the sample, so that where nothing is, nothing is said to be.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from protocol.flows import Flow, Key, key_of

MOST = 65_536
"""Keys that are remembered of one primary's flows: 6 to 10 MB."""


class ToldFlows:
    """The flows of one primary, from stream to stream. Used by one thread."""

    def __init__(self) -> None:
        self._told = _Sample(frozenset())
        """Of the newest stream in which all flows were told."""
        self._coming = self._told

    def begin(self, vips: frozenset[bytes]) -> None:
        """A stream begins, about ``vips``: all flows there are will be told anew."""
        self._coming = _Sample(vips)

    def tell(self, begun: Iterable[Flow], ended: Iterable[Key]) -> None:
        """A part of it."""
        self._coming.add(map(key_of, begun))
        self._coming.keys.difference_update(ended)

    def whole(self) -> None:
        """All flows there are have been told; what follows are changes."""
        self._told = self._coming

    def covers(self, vips: frozenset[bytes]) -> bool:
        """Whether all flows to ``vips`` were told."""
        return vips <= self._told.vips

    @property
    def keys(self) -> AbstractSet[Key]:
        """Those that have not ended; of each ``one_of`` one."""
        return self._told.keys

    @property
    def one_of(self) -> int:
        return self._told.one_of


class _Sample:
    """Of each ``one_of`` keys one."""

    def __init__(self, vips: frozenset[bytes]) -> None:
        self.vips = vips
        self.keys: set[Key] = set()
        self.one_of = 1

    def add(self, keys: Iterable[Key]) -> None:
        self.keys.update(key for key in keys if self._has(key))
        while len(self.keys) > MOST:
            self.one_of *= 2
            self.keys = {key for key in self.keys if self._has(key)}

    def _has(self, key: Key) -> bool:
        return hash(key) % self.one_of == 0
