"""What this device tells of itself: version, fitness, offices, configuration.

It tells its neighbours once a second, and at once when something changes. In a
large Site they tell the others by gossip. This informs people and chooses
successors; it moves no VIP by itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from protocol.effects import ConfigApplied, GatewayHealth, Lossy
from protocol.ids import NO_REVISION, DeviceId, GroupId, Revision
from protocol.messages import Info, Lead
from protocol.outbox import Outbox
from protocol.standing import Incarnation
from protocol.timing import MILLISECOND, NEVER, SECOND, next_round

INFO_NS = SECOND
"""Interval of :class:`Info` where nothing changes."""
MIN_INFO_NS = 20 * MILLISECOND
"""Changes are told at most this often."""


class Roster:
    """This device's own :class:`Info`."""

    def __init__(self, *, version: str, protocol: tuple[int, int]) -> None:
        self.version = version
        self.protocol = protocol
        """Oldest and newest protocol version that this release speaks."""
        self.unfit: tuple[tuple[GroupId, str], ...] = ()
        """What the shell found; the core may know more reasons."""
        self.gateways_down: tuple[tuple[GroupId, str], ...] = ()
        self.late: tuple[tuple[GroupId, str], ...] = ()
        self.outdated: tuple[tuple[GroupId, str], ...] = ()
        self.untold: tuple[tuple[GroupId, str], ...] = ()
        """Whose flows this device is still being told."""
        self.unheard: tuple[DeviceId, ...] = ()
        self.lossy: tuple[DeviceId, ...] = ()
        self.applied = NO_REVISION
        self.stopping = False
        self.told: Info | None = None
        """What the neighbours were told last."""
        self._told_at = 0
        self._next = NEVER

    @property
    def behind(self) -> tuple[tuple[GroupId, str], ...]:
        """For which groups others are better, if there are any, and why."""
        return (*self.outdated, *self.untold)

    def info(
        self,
        own: Incarnation,
        stored: Revision,
        committed: Revision,
        leads: Iterable[Lead],
        unfit: Iterable[tuple[GroupId, str]],
    ) -> Info:
        """What this device says about itself now."""
        return Info(
            incarnation=own.start,
            version=self.version,
            protocol_min=self.protocol[0],
            protocol_max=self.protocol[1],
            stored=stored,
            applied=self.applied,
            leads=tuple(leads),
            unfit=tuple(unfit),
            gateways_down=self.gateways_down,
            stopping=self.stopping,
            late=self.late,
            behind=self.behind,
            unheard=self.unheard,
            lossy=self.lossy,
            serial=0 if self.told is None else self.told.serial,
            refuted=own.refuted,
            committed=committed,
        )

    def tell(self, info: Info, peers: Iterable[DeviceId], now: int, out: Outbox) -> None:
        """Send ``info`` to all peers if it is news or due."""
        changed = info != self.told
        due = self._told_at + MIN_INFO_NS if changed else next_round(self._told_at, INFO_NS)
        if now < due and self.told is not None:
            self._next = due
            return
        if changed:
            info = msgspec.structs.replace(info, serial=info.serial + 1)
        self.told, self._told_at = info, now
        self._next = next_round(now, INFO_NS)
        for peer in peers:
            out.send(peer, info)

    def note(self, item: ConfigApplied | GatewayHealth | Lossy) -> None:
        """The shell has news to tell of."""
        match item:
            case ConfigApplied(revision):
                self.applied = revision
            case GatewayHealth(down):
                self.gateways_down = down
            case Lossy(peers):
                self.lossy = peers

    def wake_at(self) -> int:
        return self._next
