"""Whom a device connects to: everyone in a small Site, a bounded view in a large one.

Up to :data:`MESH` devices all are connected to all. Above, a device connects to
those that it shares a group with, because leases need it, and to a few others
drawn at random, so that the Site hangs together (HyParView: Leitão, Pereira,
Rodrigues 2007). A connection needs both sides: who is dialled dials back, or
says that it parts. Each minute one random neighbour gives way to another, and
devices that cannot be heard are dialled in turn for as long as they are in the
configuration, so that no part of a Site is ever forgotten.

HyParView learns of further devices by exchanging them; here the configuration
names every device to every device, and membership says which are alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random

from protocol.contact import Contact
from protocol.hearsay import Part
from protocol.ids import DeviceId
from protocol.outbox import Outbox
from protocol.standing import PeerState
from protocol.timing import NEVER, SECOND, next_round

MESH = 64
"""Devices of a Site up to which all are connected to all."""
ACTIVE = 8
"""Random neighbours that a device looks for."""
LEAST_ACTIVE = 3
"""Random neighbours also of a device that shares groups with many."""
LIMIT = 16
"""Neighbours beside those that share a group; more are taken in only in exchange."""
MAX_CALLS = 32
"""Devices called for a purpose at the same time: of more than these, those that live first."""

TICK_NS = 1 * SECOND
SHUFFLE_NS = 60 * SECOND
CALL_NS = 1 * SECOND
"""A called device stays a neighbour this long after it was called last."""
SETTLED_NS = 10 * SECOND
"""A random neighbour is kept this long before it makes room for one that dials."""
ANSWER_NS = 4 * SECOND
"""A device that was dialled must be heard within this."""
AVOID_NS = 30 * SECOND
"""A device that did not answer, or parted, is not drawn again for this long."""
SILENT_NS = 15 * SECOND
"""A random neighbour that was silent for this long makes room for another."""
RETRY_NS = 5 * SECOND
"""Interval at which one device that cannot be heard is dialled."""
CHANGES = 4
"""Neighbours taken in or let go at once."""
DRAWS = 20
"""Attempts to draw a device that will do."""
GONE = (PeerState.DEAD, PeerState.STOPPED, PeerState.LEFT)
"""One that is back is alive by hearsay as soon as any device hears it."""


class Overlay:
    """The neighbours of one device. Times are its own clock, nanoseconds."""

    def __init__(
        self,
        contacts: Mapping[DeviceId, Contact],
        state: Callable[[DeviceId], PeerState],
        random: Random,
    ) -> None:
        """``state(device)`` is how a device stands by hearsay."""
        self.contacts = contacts
        self._state = state
        self._random = random
        self._devices: list[DeviceId] = []
        self._known: set[DeviceId] = set()
        self._required: dict[DeviceId, None] = {}
        self._active: dict[DeviceId, int] = {}
        """Random neighbours, and since when."""
        self._calls: dict[DeviceId, int] = {}
        """Devices called for a purpose, and until when."""
        self._avoid: dict[DeviceId, int] = {}
        self._rotation: list[DeviceId] = []
        """Devices to try whether they are back, in turn."""
        self._next = 0
        self._shuffle_at = 0
        self._retry_at = 0

    @property
    def full_mesh(self) -> bool:
        """Whether all devices of the Site are connected to all."""
        return len(self._devices) < MESH

    def follow(self, others: Sequence[DeviceId], required: Iterable[DeviceId], now: int) -> None:
        """The other devices of the Site, and those that share a group with this one."""
        was_mesh = self.full_mesh
        self._devices = list(others)
        self._known = set(others)
        self._required = {d: None for d in required if d in self._known}
        for table in (self._active, self._calls, self._avoid):
            for device in [d for d in table if d not in self._known]:
                del table[device]
        if self.full_mesh:
            self._active.clear()
            self._calls.clear()
            return
        if was_mesh:
            self._active = {d: now for d in self.contacts if d in self._known}
            self._shuffle_at = now + self._random.randrange(SHUFFLE_NS)
        for device in self._required:
            self._active.pop(device, None)
            self._calls.pop(device, None)
        self._next = min(self._next, now)

    def peers(self) -> tuple[DeviceId, ...]:
        """The devices to be connected to now."""
        if self.full_mesh:
            return tuple(self._devices)
        return tuple({**self._required, **self._active, **self._calls})

    def call(self, devices: Iterable[DeviceId], now: int) -> None:
        """Connect to these devices too, as long as this is repeated.

        One that does not answer, a voter that is dead, say, gives way to one that lives.
        """
        if self.full_mesh:
            return
        for device in devices:
            if device in self._calls:
                self._calls[device] = now + CALL_NS
            elif device in self._required or device in self._active or device not in self._known:
                continue
            elif len(self._calls) < MAX_CALLS or self._give_way(device, now):
                self._calls[device] = now + CALL_NS

    def _give_way(self, device: DeviceId, now: int) -> bool:
        """Make room for ``device``, which lives, by a call that is in vain; whether there is."""
        if self._state(device) is not PeerState.ALIVE or device in self._avoid:
            return False
        for called in self._calls:
            gone = self._state(called) in GONE
            if gone or self._is_silent(called, now):
                del self._calls[called]
                if not gone:
                    # It lives, and cannot be reached from here: others have their turn.
                    self._avoid[called] = now + AVOID_NS
                return True
        return False

    # What other devices do

    def on_dialled(self, device: DeviceId, now: int, out: Outbox) -> None:
        """A device of the Site connects to this one: connect to it too, or decline."""
        if self.full_mesh or device not in self._known or device in self.peers():
            return
        if len(self._active) >= self._room():
            settled = [d for d, since in self._active.items() if now - since >= SETTLED_NS]
            if not settled:
                out.send(device, Part())
                return
            self._part(self._random.choice(settled), now, out)
        self._active[device] = now

    def on_part(self, device: DeviceId, now: int) -> None:
        """A neighbour parts."""
        if self._active.pop(device, None) is not None:
            self._avoid[device] = now + AVOID_NS

    def _room(self) -> int:
        return max(LEAST_ACTIVE + 1, LIMIT - len(self._required))

    def _part(self, device: DeviceId, now: int, out: Outbox) -> None:
        del self._active[device]
        self._avoid[device] = now + AVOID_NS
        out.send(device, Part())

    # Upkeep

    def on_time(self, now: int, out: Outbox) -> None:
        """Keep the number of neighbours, replace what is silent, look for what was lost."""
        if self.full_mesh or now < self._next:
            return
        self._next = next_round(now, TICK_NS)
        self._avoid = {d: until for d, until in self._avoid.items() if until > now}
        for device in [d for d, until in self._calls.items() if until <= now]:
            del self._calls[device]
            out.send(device, Part())
        self._drop_silent(now)
        excess = len(self._active) - self._room()
        for _ in range(min(CHANGES, excess)):
            self._part(self._random.choice(list(self._active)), now, out)
        self._shuffle(now, out)
        wanted = min(ACTIVE, max(LEAST_ACTIVE, LIMIT - 1 - len(self._required)))
        for _ in range(min(CHANGES, wanted - len(self._active))):
            drawn = self._draw()
            if drawn is not None:
                self._active[drawn] = now
        self._retry(now)

    def _drop_silent(self, now: int) -> None:
        for device in [d for d in self._active if self._is_silent(d, now)]:
            del self._active[device]
            self._avoid[device] = now + AVOID_NS

    def _is_silent(self, device: DeviceId, now: int) -> bool:
        """Whether a device that this one connects to does not answer, or not any more."""
        contact = self.contacts.get(device)
        if contact is None:
            return False
        if contact.heard is None:
            return now - contact.met >= ANSWER_NS
        return now - contact.heard >= SILENT_NS

    def _shuffle(self, now: int, out: Outbox) -> None:
        if now < self._shuffle_at:
            return
        self._shuffle_at = now + SHUFFLE_NS + self._random.randrange(SHUFFLE_NS // 4)
        settled = [d for d, since in self._active.items() if now - since >= SHUFFLE_NS // 2]
        if settled:
            self._part(self._random.choice(settled), now, out)

    def _draw(self) -> DeviceId | None:
        """Some device that is alive by hearsay; one never heard of rather than none."""
        unheard = None
        for _ in range(DRAWS):
            device = self._random.choice(self._devices)
            if device in self._avoid or device in self.peers():
                continue
            state = self._state(device)
            if state is PeerState.ALIVE:
                return device
            if state is PeerState.SUSPECT:
                unheard = device
        return unheard

    def _retry(self, now: int) -> None:
        """Dial one of those that are not known to be alive, all in turn, for ever."""
        if now < self._retry_at:
            return
        self._retry_at = now + RETRY_NS + self._random.randrange(SECOND)
        for _ in range(len(self._devices)):
            if not self._rotation:
                self._rotation = self._random.sample(self._devices, len(self._devices))
            device = self._rotation.pop()
            if self._state(device) is PeerState.ALIVE or device in self.peers():
                if not self._rotation:
                    return
                continue
            if device in self._known:
                self._active[device] = now
                return

    def wake_at(self) -> int:
        """When the neighbours are to be looked at next."""
        return NEVER if self.full_mesh else self._next
