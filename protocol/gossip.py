"""Spreads what changed, to a few neighbours at a time, each thing a bounded number of times.

Each rumour goes out as often as the logarithm of the Site's size asks for
(SWIM, section 4.1), the least told first. What was missed all the same comes by
comparison with one neighbour after another. While nothing changes, no rumours
are sent, and a comparison costs the same in a Site of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import ceil, log10
from random import Random

from protocol.hearsay import Sync
from protocol.ids import DeviceId
from protocol.membership import Membership, differing
from protocol.messages import News, Rumour
from protocol.outbox import Outbox
from protocol.standing import PeerState
from protocol.timing import MILLISECOND, NEVER, SECOND

GOSSIP_NS = 200 * MILLISECOND
FANOUT = 3
"""Neighbours told in each round."""
REPEATS = 3
"""Times the logarithm of the Site's size: how often a device tells one rumour."""
MAX_RUMOURS = 32
"""Rumours of one message."""
SYNC_NS = 5 * SECOND
"""Interval of comparisons, each with one neighbour."""
MAX_TOLD = 128
"""Devices that one comparison tells of, about; a device that has just started wants all."""
MAX_HEARD = 2000
"""Rumours of one message that are read."""


class Gossip:
    """What this device still has to tell. Times are its own clock, nanoseconds."""

    def __init__(
        self, membership: Membership, own: Callable[[], Rumour | None], random: Random
    ) -> None:
        """``own`` is what this device says of itself."""
        self.membership = membership
        self._own = own
        self._random = random
        self._sent: dict[DeviceId, int] = {}
        """Rumours to tell, by the device that they are about, and how often each was told."""
        self._next = 0
        self._sync_at = 0
        self._new = True

    def spread(self, device: DeviceId) -> None:
        """There is news about ``device``."""
        self._sent[device] = 0

    def fall_silent(self) -> None:
        """Everyone knows it already."""
        self._sent.clear()

    def rumour(self, device: DeviceId) -> Rumour | None:
        """What this device says about ``device``."""
        if device == self.membership.me:
            return self._own()
        member = self.membership.members.get(device)
        return member.rumour if member is not None and member.rumour.incarnation.start else None

    def _rumours(self, devices: Iterable[DeviceId]) -> tuple[Rumour, ...]:
        found = (self.rumour(device) for device in devices)
        return tuple(rumour for rumour in found if rumour is not None)

    def on_time(self, now: int, hearers: Sequence[DeviceId], compares: bool, out: Outbox) -> None:
        """Tell ``hearers``, who can be reached now; ``compares``: not everyone hears everyone."""
        if self._sent and now >= self._next:
            self._next = now + GOSSIP_NS
            self._tell(hearers, out)
        if hearers and compares and now >= self._sync_at:
            self._sync_at = now + SYNC_NS + self._random.randrange(SECOND)
            own = self._own()
            if own is not None:
                summary = self.membership.summary(own)
                out.send(self._random.choice(hearers), Sync(summary, self._new))
                self._new = False

    def _tell(self, hearers: Sequence[DeviceId], out: Outbox) -> None:
        limit = REPEATS * ceil(log10(len(self.membership.members) + 2))
        chosen = self._random.sample(hearers, min(FANOUT, len(hearers)))
        for hearer in chosen:
            least_told = sorted(self._sent, key=self._sent.__getitem__)[:MAX_RUMOURS]
            rumours = self._rumours(d for d in least_told if d != hearer)
            if rumours:
                out.send(hearer, News(rumours))
            for device in least_told:
                self._sent[device] += 1
                if self._sent[device] >= limit:
                    del self._sent[device]

    def due(self, now: int, compares: bool) -> bool:
        """Whether :meth:`on_time` has anything to do."""
        return bool(self._sent and now >= self._next) or (compares and now >= self._sync_at)

    def wake_at(self) -> int:
        """When the next rumours are due."""
        return self._next if self._sent else NEVER

    # What neighbours tell

    def on_news(self, sender: DeviceId, news: News, now: int, out: Outbox) -> None:
        """Merge what a neighbour tells; say what is known better here, where it asks for it."""
        better: list[Rumour] = []
        for rumour in news.rumours[:MAX_HEARD]:
            self.membership.hear(rumour, now)
            if news.answer:
                mine = self.rumour(rumour.device)
                if mine is not None and mine != rumour:
                    better.append(mine)
        for part in _parts(better):
            out.send(sender, News(part))

    def on_sync(self, sender: DeviceId, sync: Sync, out: Outbox) -> None:
        """Tell a neighbour what differs here from its knowledge."""
        own = self._own()
        if own is None:
            return
        numbers = differing(self.membership.summary(own), sync.buckets)
        devices = len(self.membership.members) + 1
        most = max(1, MAX_TOLD * self.membership.buckets // devices)
        if not sync.all and len(numbers) > most:
            numbers = self._random.sample(numbers, most)
        wanted = set(numbers)
        known = (d for d in (*self.membership.members, self.membership.me) if d != sender)
        for part in _parts(
            self._rumours(d for d in known if self.membership.bucket_of(d) in wanted)
        ):
            out.send(sender, News(part, answer=True))

    def remind(self, device: DeviceId, out: Outbox) -> None:
        """Tell a device what is said of it, so that it can refute (Lifeguard's buddy)."""
        rumour = self.rumour(device)
        if rumour is not None and rumour.state is not PeerState.ALIVE:
            out.send(device, News((rumour,)))


def _parts(rumours: Sequence[Rumour]) -> Iterator[tuple[Rumour, ...]]:
    for start in range(0, len(rumours), MAX_RUMOURS):
        yield tuple(rumours[start : start + MAX_RUMOURS])
