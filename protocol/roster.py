"""What the devices of a Site know of each other: state, version, fitness, offices.

Each device tells all others about itself once a second and at once when it
changes. This informs people and chooses successors; it moves no VIP by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from protocol.contact import Contact
from protocol.effects import Event
from protocol.hearing import unheard
from protocol.ids import NO_REVISION, DeviceId, GroupId, Revision
from protocol.messages import Info, Lead
from protocol.outbox import Outbox
from protocol.timing import MILLISECOND, SECOND
from protocol.view import PeerState, PeerView

NEVER = 1 << 62
INFO_NS = SECOND
"""Interval of :class:`Info` where nothing changes."""
MIN_INFO_NS = 20 * MILLISECOND
"""Changes are told at most this often."""

WATCH_NS = 100 * MILLISECOND
"""Peers' states are looked at this often."""


class Roster:
    """This device's own :class:`Info`, and what the others told."""

    def __init__(
        self, *, version: str, incarnation: int, now: int, protocol: tuple[int, int]
    ) -> None:
        self.version = version
        self.protocol = protocol
        """Oldest and newest protocol version that this release speaks."""
        self.incarnation = incarnation
        self.since = now
        self.unfit: tuple[tuple[GroupId, str], ...] = ()
        """What the shell found; the core may know more reasons."""
        self.gateways_down: tuple[tuple[GroupId, str], ...] = ()
        self.late: tuple[tuple[GroupId, str], ...] = ()
        self.unheard: tuple[DeviceId, ...] = ()
        self.lossy: tuple[DeviceId, ...] = ()
        self.applied = NO_REVISION
        self.stopping = False
        self._told: Info | None = None
        self._told_at = 0
        self._next = NEVER
        self._watched = 0
        self._states: dict[DeviceId, PeerState] = {}

    def info(
        self, stored: Revision, leads: Iterable[Lead], unfit: Iterable[tuple[GroupId, str]]
    ) -> Info:
        """What this device says about itself now."""
        return Info(
            incarnation=self.incarnation,
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
            unheard=self.unheard,
            lossy=self.lossy,
        )

    def tell(self, info: Info, peers: Iterable[DeviceId], now: int, out: Outbox) -> None:
        """Send ``info`` to all peers if it is news or due."""
        changed = info != self._told
        due = self._told_at + (MIN_INFO_NS if changed else INFO_NS)
        if now < due and self._told is not None:
            self._next = due
            return
        self._told, self._told_at = info, now
        self._next = now + INFO_NS
        for peer in peers:
            out.send(peer, info)

    def wake_at(self) -> int:
        return self._next

    def watch(self, contacts: Mapping[DeviceId, Contact], now: int, out: Outbox) -> None:
        """Report peers that came, fell silent or went."""
        if now < self._watched + WATCH_NS and contacts.keys() == self._states.keys():
            return
        self._watched = now
        self.unheard = unheard(contacts, self.since, now)
        for device, contact in contacts.items():
            state = contact.state(now, self.since)
            before = self._states.get(device)
            if state is before:
                continue
            self._states[device] = state
            news = before is not None or state in (PeerState.ALIVE, PeerState.DEAD)
            if news and (before, state) != (None, PeerState.SUSPECT):
                out.do(Event("member", None, f"is {state}", device=device))
        for device in [d for d in self._states if d not in contacts]:
            del self._states[device]

    def peers(self, contacts: Mapping[DeviceId, Contact], now: int) -> tuple[PeerView, ...]:
        return tuple(
            PeerView(device, contact.state(now, self.since), contact.heard, contact.info)
            for device, contact in contacts.items()
        )


def leader_told(contacts: Iterable[Contact], group: GroupId) -> tuple[DeviceId, int] | None:
    """(device, term) of the primary that the peers' infos name, newest term first."""
    best: tuple[int, DeviceId] | None = None
    for contact in contacts:
        if contact.info is None or contact.info.stopping:
            continue
        for lead in contact.info.leads:
            if lead.group == group and (best is None or lead.term > best[0]):
                best = (lead.term, contact.device)
    return None if best is None else (best[1], best[0])
