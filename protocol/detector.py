"""Finds out which neighbours are alive: by their beats, else by asking others.

Devices that are connected beat each other all the time, which proves life
directly and costs no probe. A neighbour that falls silent is asked after at a
few others (SWIM's indirect probe); if nobody hears it, it is suspect, and dead
unless it refutes in time. What is found is told by gossip; it moves no VIP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from protocol.awareness import Awareness
from protocol.contact import Contact
from protocol.gossip import Gossip
from protocol.hearsay import ProbeFor
from protocol.ids import DeviceId
from protocol.membership import Membership
from protocol.messages import ProbeAck
from protocol.outbox import Outbox
from protocol.standing import PeerState
from protocol.suspicion import least, patience
from protocol.timing import (
    IDLE_BEAT_NS,
    MILLISECOND,
    NEVER,
    SECOND,
    SUSPECT_NS,
    next_round,
)

PROBE_NS = 500 * MILLISECOND
"""Those who are asked have this long to answer."""
PAUSE_NS = 500 * MILLISECOND
"""Between two probes of the same device."""
HELPERS = 3
"""Devices that are asked after a silent one."""
CALM_NS = 1 * SECOND
"""A time without trouble that makes this device better again."""
REMIND_NS = 1 * SECOND
"""A device is told at most this often what is said of it."""
DEAF_NS = 500 * MILLISECOND
"""An own stall of this length is a sign of bad health."""


class _Probe:
    __slots__ = ("answered", "deadline", "helpers", "number")

    def __init__(self, number: int, deadline: int, helpers: tuple[DeviceId, ...]) -> None:
        self.number = number
        self.deadline = deadline
        self.helpers = helpers
        self.answered: set[DeviceId] = set()


class Detector:
    """Judges the neighbours of one device. Times are its own clock, nanoseconds."""

    def __init__(
        self,
        membership: Membership,
        gossip: Gossip,
        contacts: Mapping[DeviceId, Contact],
        random: Random,
    ) -> None:
        self.awareness = Awareness()
        self.membership = membership
        self.gossip = gossip
        self.contacts = contacts
        self._random = random
        self._reached: dict[DeviceId, int] = {}
        """When others last said that they hear a device that is silent here."""
        self._probes: dict[DeviceId, _Probe] = {}
        self._pause: dict[DeviceId, int] = {}
        self._reminded: dict[DeviceId, int] = {}
        self._number = 0
        self._calm_at = 0

    def hears(self, device: DeviceId, now: int) -> bool:
        """Whether ``device`` proves its life to this one by itself."""
        contact = self.contacts.get(device)
        return contact is not None and contact.heard is not None and _recent(contact.heard, now)

    def state(self, device: DeviceId, now: int) -> PeerState:
        """How ``device`` stands: what is heard directly counts more than hearsay."""
        told = self.membership.state(device)
        doubted = told in (PeerState.SUSPECT, PeerState.DEAD)
        return PeerState.ALIVE if doubted and self.hears(device, now) else told

    def on_time(self, now: int, out: Outbox) -> None:
        """Judge silent neighbours, and suspects whose time is over."""
        self._judge_suspects(now)
        silent = [d for d, c in self.contacts.items() if now >= self._missed_at(d, c)]
        for device in [d for d in self._probes if d not in silent]:
            del self._probes[device]
        for device in silent:
            self._probe(device, now, out)
        for device in self._doubted():
            if self.hears(device, now):
                self._remind(device, now, out)
        if now >= self._calm_at:
            self._calm_at = next_round(now, CALM_NS)
            if 2 * len(silent) <= len(self.contacts):
                self.awareness.better()

    def _doubted(self) -> list[DeviceId]:
        members = self.membership.members
        doubted = (PeerState.SUSPECT, PeerState.DEAD)
        return [d for d in self.contacts if d in members and members[d].state in doubted]

    def _missed_at(self, device: DeviceId, contact: Contact) -> int:
        """When a neighbour has been silent for too long; never, if it is known to be gone."""
        member = self.membership.members.get(device)
        if member is None or member.state in (PeerState.DEAD, PeerState.STOPPED):
            return NEVER
        newest = max(contact.heard or contact.met, self._reached.get(device, 0))
        return newest + self.awareness.stretch(SUSPECT_NS)

    def _probe(self, device: DeviceId, now: int, out: Outbox) -> None:
        probe = self._probes.get(device)
        if probe is not None:
            if now >= probe.deadline:
                self._accuse(device, probe, now, out)
            return
        if now < self._pause.get(device, 0):
            return
        self._number += 1
        able = [d for d in self.contacts if d != device and self.hears(d, now)]
        helpers = tuple(self._random.sample(able, min(HELPERS, len(able))))
        deadline = now + self.awareness.stretch(PROBE_NS)
        self._probes[device] = _Probe(self._number, deadline, helpers)
        for helper in helpers:
            out.send(helper, ProbeFor(self._number, device))

    def _accuse(self, device: DeviceId, probe: _Probe, now: int, out: Outbox) -> None:
        """Nobody who was asked hears it. Helpers that said nothing speak against this device."""
        del self._probes[device]
        self._pause[device] = now + self.awareness.stretch(PAUSE_NS)
        self.awareness.worse(len(probe.helpers) - len(probe.answered))
        self.membership.accuse(device, PeerState.SUSPECT, now)
        self._remind(device, now, out)

    def _remind(self, device: DeviceId, now: int, out: Outbox) -> None:
        if now - self._reminded.get(device, 0) >= REMIND_NS:
            self._reminded[device] = now
            self.gossip.remind(device, out)

    def _judge_suspects(self, now: int) -> None:
        devices = len(self.membership.members) + 1
        for device in [*self.membership.suspects]:
            member = self.membership.members[device]
            if not member.rumour.incarnation.start:
                if now - member.since >= SUSPECT_NS + least(devices):
                    self.membership.give_up(device, now)
            elif self.hears(device, now):
                continue
            elif now - member.since >= patience(devices, len(member.rumour.by)):
                self.membership.accuse(device, PeerState.DEAD, now)

    # Helping others

    def on_probe_for(self, sender: DeviceId, probe: ProbeFor, now: int, out: Outbox) -> None:
        """Say whether this device hears another one."""
        heard = self.hears(probe.target, now)
        rumour = self.gossip.rumour(probe.target)
        rumours = (rumour,) if heard and rumour is not None else ()
        out.send(sender, ProbeAck(probe.number, probe.target, heard, rumours))

    def on_probe_ack(self, sender: DeviceId, ack: ProbeAck, now: int) -> None:
        """One who was asked answers."""
        for rumour in ack.rumours[:1]:
            self.membership.hear(rumour, now)
        probe = self._probes.get(ack.target)
        if probe is None or probe.number != ack.number or sender not in probe.helpers:
            return
        probe.answered.add(sender)
        if ack.heard:
            self._reached[ack.target] = now
            self.awareness.better()
            del self._probes[ack.target]

    def forgive(self, stall: int, now: int) -> None:
        """This process was deaf for ``stall``: the others were not silent for it."""
        if stall >= DEAF_NS:
            self.awareness.worse()
        self._reached = {d: min(now, at + stall) for d, at in self._reached.items()}
        for probe in self._probes.values():
            probe.deadline += stall
        for device in self.membership.suspects:
            member = self.membership.members[device]
            member.since = min(now, member.since + stall)

    def forget(self, members: Sequence[DeviceId]) -> None:
        """Keep nothing about devices that are not among ``members``."""
        known = set(members)
        self._reached = {d: at for d, at in self._reached.items() if d in known}
        self._probes = {d: probe for d, probe in self._probes.items() if d in known}
        self._pause = {d: at for d, at in self._pause.items() if d in known}
        self._reminded = {d: at for d, at in self._reminded.items() if d in known}

    def wake_at(self, now: int) -> int:
        """When a probe must have been answered, or a beat is due and somebody missed."""
        due = min((probe.deadline for probe in self._probes.values()), default=NEVER)
        missed = [self._missed_at(d, contact) for d, contact in self.contacts.items()]
        missed += [now] if self.membership.suspects else []
        return min(due, next_round(max(now, min(missed, default=NEVER)), IDLE_BEAT_NS))


def _recent(heard: int, now: int) -> bool:
    return now - heard < 2 * IDLE_BEAT_NS + IDLE_BEAT_NS // 2
