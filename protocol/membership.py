"""What is known of all devices of a Site, merged from what devices say of each other.

States and refutation of SWIM (Das, Gupta, Motivala 2002): a statement with a
higher incarnation wins, and only a device itself makes higher ones; within one
incarnation the worse state wins. Merging is commutative, associative and
idempotent, so order and number of rumours do not matter. Which devices exist
is not hearsay: the configuration says it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from zlib import crc32

from protocol.ids import DeviceId
from protocol.messages import Info, Rumour
from protocol.standing import Incarnation, PeerState

RANK = {
    PeerState.ALIVE: 0,
    PeerState.SUSPECT: 1,
    PeerState.DEAD: 2,
    PeerState.STOPPED: 3,
    PeerState.LEFT: 4,
}
MAX_ACCUSERS = 4
"""Accusers that are remembered by name; more change nothing."""
MAX_LEFT = 64
"""Devices that left and are still known."""
LEAST_BUCKETS, MOST_BUCKETS = 64, 1024
"""Parts that two devices compare their knowledge by, in small and large Sites."""
IN_A_BUCKET = 4
"""About so many devices share a part: all of them are told of where one differs."""
HASH_BYTES = 4


def merged(old: Rumour, new: Rumour) -> Rumour:
    """Both statements about one device as one."""
    left = (old.incarnation, RANK[old.state])
    right = (new.incarnation, RANK[new.state])
    info = newer_info(old.info, new.info)
    if left == right:
        by = tuple(sorted({*old.by, *new.by}))[:MAX_ACCUSERS]
        if (by, info) == (old.by, old.info):
            return old
        return Rumour(old.device, old.incarnation, old.state, by, info)
    best = old if left > right else new
    if info is best.info:
        return best
    return Rumour(best.device, best.incarnation, best.state, best.by, info)


def newer_info(old: Info | None, new: Info | None) -> Info | None:
    """The later of two things that a device told of itself."""
    if old is None or new is None:
        return old or new
    return new if age_of(new) > age_of(old) else old


def age_of(info: Info) -> tuple[int, int]:
    """Orders what one device tells of itself."""
    return info.incarnation, info.serial


Changed = Callable[[Rumour, Rumour], None]


class Member:
    """One device: the newest statement about it, and since when it stands so."""

    __slots__ = ("digest", "rumour", "since")

    def __init__(self, rumour: Rumour, now: int) -> None:
        self.rumour = rumour
        self.since = now
        """Own clock at which this device learnt of the state."""
        self.digest = _digest(rumour)

    @property
    def state(self) -> PeerState:
        return self.rumour.state

    @property
    def info(self) -> Info | None:
        return self.rumour.info


class Membership:
    """The table of all other devices of the Site, and what is said of this one."""

    def __init__(self, me: DeviceId, incarnation: int, changed: Changed) -> None:
        """``changed(before, after)`` is called with each statement that is news."""
        self.me = me
        self.own = Incarnation(incarnation)
        self.stopping = False
        """This device says goodbye: what is said against it needs no answer."""
        self.suspects: dict[DeviceId, None] = {}
        """Members that are suspect, or were never heard of."""
        self.members: dict[DeviceId, Member] = {}
        self.left: dict[DeviceId, int] = {}
        """Devices that are not in the configuration any more, and since when."""
        self._changed = changed
        self._buckets = [0] * LEAST_BUCKETS

    def follow(self, devices: Iterable[DeviceId], now: int) -> None:
        """The devices of the configuration, this one or not, are the members."""
        wanted = dict.fromkeys(d for d in devices if d != self.me)
        for device in [d for d in self.members if d not in wanted]:
            self._mix(device, self.members.pop(device).digest)
            self.suspects.pop(device, None)
            self.left[device] = now
        for device in [*self.left][: max(0, len(self.left) - MAX_LEFT)]:
            del self.left[device]
        for device in wanted:
            if device not in self.members:
                self.left.pop(device, None)
                unknown = Member(Rumour(device, Incarnation(), PeerState.SUSPECT), now)
                self.members[device] = unknown
                self.suspects[device] = None
                self._mix(device, unknown.digest)
        if len(self._buckets) != (number := buckets_for(len(wanted) + 1)):
            self._buckets = [0] * number
            for device, member in self.members.items():
                self._mix(device, member.digest)

    def hear(self, rumour: Rumour, now: int) -> bool:
        """Merge what somebody says; whether that was news. Unknown devices are ignored."""
        if rumour.device == self.me:
            return self._about_me(rumour)
        member = self.members.get(rumour.device)
        if member is None or rumour.state is PeerState.LEFT:
            return False
        if not rumour.incarnation.start and rumour.info is None:
            return False
        before = member.rumour
        after = merged(before, rumour)
        if after is before:
            return False
        self._mix(rumour.device, member.digest)
        member.rumour, member.digest = after, _digest(after)
        self._mix(rumour.device, member.digest)
        if after.state is not before.state or after.incarnation != before.incarnation:
            member.since = now
        if after.state is PeerState.SUSPECT:
            self.suspects[rumour.device] = None
        else:
            self.suspects.pop(rumour.device, None)
        self._changed(before, after)
        return True

    def hear_itself(self, device: DeviceId, info: Info, now: int) -> bool:
        """What a device says of itself, on its own connection."""
        return self.hear(statement(device, info), now)

    def _about_me(self, rumour: Rumour) -> bool:
        """Refute whatever is said against this device, or in its name by an older run."""
        refutes = rumour.state is not PeerState.ALIVE and rumour.incarnation >= self.own
        if self.stopping or not (refutes or rumour.incarnation > self.own):
            return False
        self.renew(rumour.incarnation)
        return True

    def renew(self, beyond: Incarnation | None = None) -> None:
        """Begin a new incarnation of this device, higher than ``beyond``."""
        newest = max(self.own, beyond or self.own)
        self.own = Incarnation(newest.start, newest.refuted + 1)

    def accuse(self, device: DeviceId, state: PeerState, now: int) -> bool:
        """This device finds ``device`` suspect or dead; whether that is news."""
        member = self.members.get(device)
        if member is None:
            return False
        rumour = member.rumour
        return self.hear(Rumour(device, rumour.incarnation, state, (self.me,)), now)

    def state(self, device: DeviceId) -> PeerState:
        """How ``device`` stands by hearsay."""
        member = self.members.get(device)
        return PeerState.LEFT if member is None else member.state

    def give_up(self, device: DeviceId, now: int) -> None:
        """A device that was never heard of counts as dead from now on; that is no rumour."""
        member = self.members[device]
        if not member.rumour.incarnation.start and member.state is PeerState.SUSPECT:
            member.rumour = Rumour(device, Incarnation(), PeerState.DEAD)
            member.since = now
            self.suspects.pop(device)

    # Comparing with a neighbour

    def _mix(self, device: DeviceId, digest: int) -> None:
        self._buckets[self.bucket_of(device)] ^= digest

    @property
    def buckets(self) -> int:
        """Parts of the knowledge."""
        return len(self._buckets)

    def bucket_of(self, device: DeviceId) -> int:
        """Which part of the knowledge a device belongs to."""
        return crc32(device.encode()) % len(self._buckets)

    def summary(self, own: Rumour) -> bytes:
        """All that is known, a number for each part; ``own``: what this device says."""
        mine = self.bucket_of(self.me)
        return b"".join(
            (sum_ ^ (_digest(own) if number == mine else 0)).to_bytes(HASH_BYTES, "big")
            for number, sum_ in enumerate(self._buckets)
        )


def buckets_for(devices: int) -> int:
    """A power of two, so that it seldom changes as the Site grows."""
    wanted = 1 << (devices // IN_A_BUCKET).bit_length()
    return min(max(wanted, LEAST_BUCKETS), MOST_BUCKETS)


def differing(mine: bytes, theirs: bytes) -> list[int]:
    """Buckets in which two summaries differ; all where they cannot be compared."""
    if len(mine) != len(theirs):
        return list(range(len(mine) // HASH_BYTES))
    cells = range(0, len(mine), HASH_BYTES)
    pairs = ((mine[at : at + HASH_BYTES], theirs[at : at + HASH_BYTES]) for at in cells)
    return [number for number, (left, right) in enumerate(pairs) if left != right]


def statement(device: DeviceId, info: Info) -> Rumour:
    """What a device that tells ``info`` says of its own state."""
    state = PeerState.STOPPED if info.stopping else PeerState.ALIVE
    return Rumour(device, Incarnation(info.incarnation, info.refuted), state, (), info)


def _digest(rumour: Rumour) -> int:
    """The statement as a number. Accusers are left out: who they are matters little."""
    if not rumour.incarnation.start:
        return 0
    age = age_of(rumour.info) if rumour.info is not None else (0, 0)
    number = rumour.incarnation
    text = f"{rumour.device} {number.start} {number.refuted} {rumour.state} {age}"
    return int.from_bytes(blake2b(text.encode(), digest_size=HASH_BYTES).digest(), "big")
