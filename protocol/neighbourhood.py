"""All that one device has to do with the others as devices, whoever is primary of what.

Who they are (configuration), how they stand (membership, detector, gossip),
whom to connect to (overlay), and passing committed configuration on (catch-up).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random

import msgspec

from protocol.catchup import CatchUp, copy_for
from protocol.claimants import Claimants
from protocol.config import Config
from protocol.configuration import Configuration
from protocol.contact import Contact
from protocol.coordinator import Coordinator
from protocol.detector import Detector
from protocol.effects import Connect, Event
from protocol.gossip import Gossip
from protocol.hearing import unheard
from protocol.hearsay import Copy, Fetch, Part, ProbeFor, Sync
from protocol.ids import NO_REVISION, SITE_GROUP, DeviceId, GroupId, Revision
from protocol.lagging import Lagging
from protocol.membership import Membership, statement
from protocol.messages import Info, Lead, News, ProbeAck, Rumour
from protocol.outbox import Outbox
from protocol.overlay import Overlay
from protocol.roster import Roster
from protocol.standing import PeerState
from protocol.timing import MILLISECOND
from protocol.view import PeerView

WATCH_NS = 100 * MILLISECOND
"""The others' states are looked at this often."""

DOUBTED = (PeerState.SUSPECT, PeerState.DEAD)


class Neighbourhood:
    """The other devices of the Site. Times are this device's own clock, nanoseconds."""

    def __init__(
        self,
        me: DeviceId,
        incarnation: int,
        contacts: Mapping[DeviceId, Contact],
        roster: Roster,
        random: Random,
    ) -> None:
        self.me = me
        self.contacts = contacts
        self.roster = roster
        self.membership = Membership(me, incarnation, self._changed)
        self.gossip = Gossip(self.membership, self._own, random)
        self.detector = Detector(self.membership, self.gossip, contacts, random)
        self.overlay = Overlay(contacts, self.membership.state, random)
        self.catchup = CatchUp(contacts, random)
        self.lagging = Lagging()
        self._shown: dict[DeviceId, PeerState] = {}
        self._dirty: dict[DeviceId, None] = {}
        self.claimants = Claimants()
        self._own_incarnation = self.membership.own
        self._connected: Connect | None = None
        self._site = Connect((), ())
        self._watched = -WATCH_NS
        self._since: int | None = None

    # The configuration

    def follow(self, in_force: Config, newest: Config, now: int) -> None:
        """The devices of the Site are those in force and those of the newest configuration.

        Voters that only an uncommitted tail names must hear each other: their
        votes are what commits it.
        """
        self.claimants.keep({SITE_GROUP, *in_force.assignments, *newest.assignments})
        known = {**in_force.devices, **newest.devices}
        known.pop(self.me, None)
        self._site = Connect(tuple(known.values()), ())
        for device in [d for d in self.membership.members if d not in known]:
            self.claimants.change(device, self.membership.members[device].info, None)
        self.membership.follow(known, now)
        self.detector.forget(tuple(known))
        for device in [d for d in self._shown if d not in known]:
            del self._shown[device]
        self.overlay.follow(tuple(known), self._companions(in_force, newest), now)

    def _companions(self, in_force: Config, newest: Config) -> dict[DeviceId, None]:
        """Devices that this one shares a group with: leases need a direct connection."""
        parties = [(*a.voters, *a.former) for a in in_force.assignments.values()]
        parties += [config.site.voters for config in (in_force, newest) if config.site]
        mine = (party for party in parties if self.me in party)
        return {device: None for party in mine for device in party if device != self.me}

    # What is told

    def _own(self) -> Rumour | None:
        told = self.roster.told
        return None if told is None else statement(self.me, told)

    def _changed(self, before: Rumour, after: Rumour) -> None:
        """There is news about a device: show it, and decide whether to tell it on."""
        device = after.device
        self._dirty[device] = None
        if before.info is not after.info:
            self.claimants.change(device, before.info, after.info)
        known = before.incarnation.start > 0
        if after.state in DOUBTED or (known and before.state in DOUBTED):
            self.gossip.spread(device)
        elif not self.overlay.full_mesh and (
            (before.incarnation, before.state) != (after.incarnation, after.state)
            or _lasting(before.info) != _lasting(after.info)
        ):
            # In a full mesh each device tells everyone itself.
            self.gossip.spread(device)

    # What is known of a device

    def heard_from(self, device: DeviceId, now: int) -> Info | None:
        """What a device that lives tells of itself: directly, or by others in a large Site."""
        contact = self.contacts.get(device)
        if contact is not None and contact.info is not None and contact.alive(now):
            return contact.info
        if self.overlay.full_mesh or self.membership.state(device) is not PeerState.ALIVE:
            return None
        return self.membership.members[device].info

    def committed(self, device: DeviceId) -> Revision:
        """The newest revision that a device, alive or not, is known to have had committed."""
        member = self.membership.members.get(device)
        return NO_REVISION if member is None or member.info is None else member.info.committed

    def summary(self) -> bytes:
        """All that is known of all devices, in short; empty outside a Site."""
        own = self._own()
        return b"" if own is None else self.membership.summary(own)

    # Messages

    def on_info(self, sender: DeviceId, info: Info, now: int) -> None:
        """What a neighbour tells of itself."""
        contact = self.contacts[sender]
        if contact.info is None or info.incarnation >= contact.info.incarnation:
            contact.tells(info)
        self.membership.hear(statement(sender, info), now)

    def receive(
        self,
        sender: DeviceId,
        message: News | ProbeFor | ProbeAck | Sync | Part | Fetch | Copy,
        configuration: Configuration,
        now: int,
        out: Outbox,
    ) -> None:
        """Whatever devices say to each other about devices and committed configuration."""
        match message:
            case News():
                self.gossip.on_news(sender, message, now, out)
            case ProbeFor():
                self.detector.on_probe_for(sender, message, now, out)
            case ProbeAck():
                self.detector.on_probe_ack(sender, message, now)
            case Sync():
                self.gossip.on_sync(sender, message, out)
            case Part():
                self.overlay.on_part(sender, now)
            case Fetch():
                copy = copy_for(configuration.in_force, message.has)
                if copy is not None:
                    out.send(sender, copy)
            case Copy():
                if configuration.coordinator is None:
                    self.catchup.on_copy(configuration.replica, message, now, out)

    # Timers

    def settle(
        self,
        configuration: Configuration,
        coordinator: DeviceId | None,
        leads: Iterable[Lead],
        unfit: Iterable[tuple[GroupId, str]],
        now: int,
        out: Outbox,
    ) -> tuple[DeviceId, ...] | None:
        """Whatever is due, and tell the neighbours; whom to talk to, if that changed."""
        self.on_time(configuration, coordinator, now, out)
        own, in_force = self.membership.own, configuration.in_force.revision
        info = self.roster.info(own, configuration.stored, in_force, leads, unfit)
        self.roster.tell(info, self.contacts, now, out)
        return self.connect(out)

    def call(
        self, addressees: Iterable[DeviceId], coordinator: Coordinator | None, now: int
    ) -> None:
        """Connect to devices that this one has business with."""
        self.overlay.call(addressees, now)
        if coordinator is not None:
            self.overlay.call(coordinator.awaited, now)

    def on_time(
        self, configuration: Configuration, coordinator: DeviceId | None, now: int, out: Outbox
    ) -> None:
        """Watch, gossip, keep the neighbours, fetch what is missing."""
        self.membership.stopping = self.roster.stopping
        if self.membership.own != self._own_incarnation:
            self._own_incarnation = self.membership.own
            self.detector.awareness.worse()
            self.gossip.spread(self.me)
        self.overlay.on_time(now, out)
        if now >= self._watched + WATCH_NS or self._dirty:
            self._watched = now
            self.detector.on_time(now, out)
            self._watch(now, out)
            self._since = now if self._since is None else self._since
            self.roster.unheard = unheard(self.contacts, self._since, now)
            told = ((d, c.info) for d, c in self.contacts.items() if c.alive(now))
            has = {device: info.committed for device, info in told if info is not None}
            self.lagging.look({self.me: configuration.in_force.revision, **has}, now)
        if self.gossip.due(now, compares := not self.overlay.full_mesh):
            hearers = [d for d in self.contacts if self.detector.hears(d, now)]
            self.gossip.on_time(now, hearers, compares, out)
        if configuration.coordinator is None:
            served = coordinator is not None and coordinator in self.contacts
            self.catchup.on_time(configuration.replica, served, now, out)

    def connect(self, out: Outbox) -> tuple[DeviceId, ...] | None:
        """Tell the shell whom to connect to if that changed; the peers, or None."""
        wanted = Connect(self._site.site, self.overlay.peers())
        if wanted == self._connected:
            return None
        self._connected = wanted
        out.do(wanted)
        return wanted.peers

    def _watch(self, now: int, out: Outbox) -> None:
        """Report devices that came, fell silent or went."""
        watched = {**self.contacts, **self._dirty}
        self._dirty = {}
        for device in watched:
            member = self.membership.members.get(device)
            if member is None:
                continue
            state = self.detector.state(device, now)
            before = self._shown.get(device)
            if state is before or (state is PeerState.SUSPECT and before is None):
                continue
            self._shown[device] = state
            if before is not None or self.overlay.full_mesh or state is PeerState.DEAD:
                out.do(Event("member", None, f"is {state}", device=device))

    def forgive(self, stall: int, now: int) -> None:
        """This process was deaf for ``stall``: the others were not silent for it."""
        self.detector.forgive(stall, now)

    def wake_at(self, now: int) -> int:
        """When something is due."""
        return min(
            self.gossip.wake_at(),
            max(self.detector.wake_at(now), self._watched + WATCH_NS),
            self.overlay.wake_at(),
            self.catchup.wake_at(now),
        )

    # Views

    def peers(self, now: int) -> tuple[PeerView, ...]:
        """All other devices of the Site as they look from here."""
        return tuple(self._view(device, now) for device in self.membership.members)

    def _view(self, device: DeviceId, now: int) -> PeerView:
        member = self.membership.members[device]
        contact = self.contacts.get(device)
        state = self.detector.state(device, now)
        return PeerView(
            device,
            state,
            None if contact is None else contact.heard,
            member.info,
            member.rumour.by if state in DOUBTED else (),
            member.since,
            contact is not None,
        )


def _lasting(info: Info | None) -> Info | None:
    """What of ``info`` is worth gossip; the rest follows by comparison, in its time."""
    if info is None:
        return None
    return msgspec.structs.replace(
        info,
        serial=0,
        stored=NO_REVISION,
        applied=NO_REVISION,
        committed=NO_REVISION,
        unheard=(),
        lossy=(),
    )
