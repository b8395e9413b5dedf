"""Gateways that are down, kept on disk for the next life of the agent.

An agent that starts knows nothing of the gateways, and would have its kernel lead new flows to one
that has long been dead until a check says so, which with silence takes as long as two. So it takes
what its former life saw last for true, until the first answer to each check. What that saw long
ago says little of now, and counts for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping

import msgspec

from agent.checks import Down
from agent.distribution import GatewayKey
from protocol.ids import GroupId
from protocol.messages import MAX_FAULT

BELIEVED_S = 3600.0
"""What was said longer ago, or is yet to come, counts for nothing."""
AGAIN_S = 600.0
"""So often what has not changed is said again."""
PACE_S = 1.0
"""At least so many seconds are between two writes: gateways come and go, and a disk is slow."""


class Fallen(msgspec.Struct, frozen=True, array_like=True):
    """A gateway that is down."""

    group: GroupId
    gateway: str
    since: float
    """Unix time at which it was seen to fall; 0 if it was found down."""
    why: str

    @property
    def key(self) -> GatewayKey:
        return self.group, self.gateway


class LastSeen(msgspec.Struct, frozen=True, array_like=True):
    """All that are down, at one moment."""

    unix_s: float
    fallen: tuple[Fallen, ...] = ()


NOTHING_SEEN = LastSeen(0.0)


class Memory:
    """Of one device; belongs to the loop's thread."""

    def __init__(
        self,
        former: LastSeen,
        save: Callable[[LastSeen], None],
        unix_s: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        """``former`` is what the life before said last; ``now`` is in seconds, and never set."""
        self._save, self._unix_s, self._now = save, unix_s, now
        started = unix_s()
        believed = abs(started - former.unix_s) < BELIEVED_S
        self._seen: dict[GatewayKey, Fallen] = {}
        self._former = {each.key: each for each in former.fallen if believed}
        """What was seen then, until it was looked at in this life."""
        self.down: Mapping[GatewayKey, str] = {key: each.why for key, each in self._former.items()}
        """Why each gateway was down when the former life ended."""
        self.ages = {k: max(0.0, started - each.since) for k, each in self._former.items()}
        """For how many seconds it has been."""
        self._changed = bool(former.fallen) and not believed
        self._saved_at = -math.inf

    def note(
        self, down: Down, reasons: Mapping[GatewayKey, str], proved: Container[GatewayKey]
    ) -> None:
        """These are down now, for these reasons; ``proved`` are those that have been up."""
        unix_s, before = self._unix_s(), self._former | self._seen
        self._former = {}
        seen = {
            key: before.get(key)
            or Fallen(*key, unix_s if key in proved else 0.0, reasons[key][:MAX_FAULT])
            for key in sorted(down)
        }
        self._changed = self._changed or seen != self._seen
        self._seen = seen
        self.keep()

    def keep(self, *, last: bool = False) -> None:
        """Have written what is due; all that was not, if it is the ``last`` word."""
        since = self._now() - self._saved_at
        due = since >= PACE_S if self._changed else bool(self._seen) and since >= AGAIN_S
        if due or (last and (self._changed or self._seen)):
            self._changed, self._saved_at = False, self._now()
            self._save(LastSeen(self._unix_s(), tuple(self._seen.values())))
