"""VIPs that were the only one of their IP version until lately.

Of one VIP each answer is from it, so ``routed`` remembers no flow. When a second one comes, each
flow gets an entry; but those from before have none yet, and where the gateway speaks next no
client's packet makes one. What has none is still from the former VIP: a flow to the new one
has had its entry since it began. So an answer without an entry goes on being taken for the
former one's, for as long as most flows need to speak once. Not for ever: this device may come
to lack entries of the new one, too, as after a takeover, and an answer in the name of another
VIP would end such a flow, which could wait for its client instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from agent.forwarding import serving
from agent.gate import split
from agent.ruleset import Desired
from protocol.ids import GroupId

KEPT_S = 3600.0

_Key = tuple[GroupId, str]
"""(Virtual Server, VIP)."""


class Sole:
    """Of one device. ``now`` is in seconds that never decrease."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._until: dict[_Key, float] = {}

    def among(self, before: Desired, after: Desired) -> Mapping[GroupId, tuple[str, ...]]:
        """Such VIPs of what is wanted, ``after`` what was in force ``before``."""
        now = self._now()
        if before is not after:
            were = {some[0] for some in _routed(before) if len(some) == 1}
            several = {each for some in _routed(after) if len(some) > 1 for each in some}
            until = dict.fromkeys(were, now + KEPT_S) | self._until
            self._until = {each: until[each] for each in several & until.keys()}
        self._until = {each: end for each, end in self._until.items() if end > now}
        found: dict[GroupId, tuple[str, ...]] = {}
        for uid, vip in sorted(self._until):
            found[uid] = (*found.get(uid, ()), vip)
        return found


def _routed(desired: Desired) -> Iterator[tuple[_Key, ...]]:
    """VIPs of each Virtual Server that is `routed`, by IP version."""
    for vs in desired.virtual_servers:
        if vs.forwarding == "routed":
            for _, vips in split(serving(vs, desired.vips.get(vs.uid, ()))):
                yield tuple((vs.uid, vip) for vip in vips)
