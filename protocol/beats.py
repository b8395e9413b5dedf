"""Heartbeats: one per pair of devices, for all groups that they share.

Sends beats when due and once more when unanswered for half an interval,
answers beats at once, and hands acks to the groups that they vouch for.
"""

from __future__ import annotations

from collections.abc import Mapping

from protocol.contact import Contact
from protocol.group import Group
from protocol.ids import DeviceId, GroupId
from protocol.messages import Ack, Beat, Claim, Reason, Refusal
from protocol.outbox import Outbox
from protocol.timing import IDLE_BEAT_NS, NEVER, next_round

Heartbeat = Beat | Ack
EPOCH_BITS = 20
"""Lists of claims that one run of an agent can number."""
IDLE_ACKS = 4
"""One of so many beats without claims is acked, so that the round trip is known."""


class Beats:
    """The heartbeat traffic of one device. Times are nanoseconds of its clock."""

    def __init__(
        self,
        groups: Mapping[GroupId, Group],
        contacts: dict[DeviceId, Contact],
        incarnation: int,
    ) -> None:
        self.groups = groups
        self.contacts = contacts
        self.epoch = incarnation << EPOCH_BITS
        """Number of this device's list of claims: no two runs of an agent share one."""
        self._claimed: dict[GroupId, tuple[Claim, tuple[DeviceId, ...]]] = {}
        """What is claimed, and from whom."""
        self._claims_for: dict[DeviceId, tuple[Claim, ...]] = {}
        self._confirmed = 0
        """A majority has acked each claim up to this beat, by its send time."""

    def heard(self, device: DeviceId) -> int | None:
        """When ``device`` was last heard, on any link; None: not since the start."""
        contact = self.contacts.get(device)
        return contact.heard if contact else None

    def meet(self, devices: tuple[DeviceId, ...], now: int) -> None:
        """Keep contact with exactly these devices."""
        for device in devices:
            if device not in self.contacts:
                self.contacts[device] = Contact(device, now)
        for device in [d for d in self.contacts if d not in devices]:
            del self.contacts[device]
        self._share_out(now, at_once=False)

    def reclaim(self, touched: list[GroupId], now: int) -> None:
        """Bring the list of claims up to date after groups changed; announce it at once."""
        changed = False
        for gid in touched:
            group = self.groups.get(gid)
            if group is None or not group.claims:
                changed |= self._claimed.pop(gid, None) is not None
                continue
            claimed = (group.claim(), group.voter.electorate.voters)
            if claimed != self._claimed.get(gid):
                changed = True
                self._claimed[gid] = claimed
                group.claimed_from = self.epoch + 1
        if changed:
            self._confirmed = 0
            self.epoch += 1
            self._share_out(now, at_once=True)

    def _share_out(self, now: int, at_once: bool) -> None:
        for device, contact in self.contacts.items():
            claims = tuple(claim for claim, voters in self._claimed.values() if device in voters)
            intervals = (c.interval for c in claims)
            contact.interval = min(intervals, default=IDLE_BEAT_NS)
            # To all peers at the same moment: a majority's age is that of its oldest member,
            # and beats to different voters that drifted apart would make every round look late.
            contact.beat_at = min(contact.beat_at, next_round(now, contact.interval))
            if at_once and claims != self._claims_for.get(device, ()):
                contact.beat_at = now
            self._claims_for[device] = claims

    def hear(
        self, sender: DeviceId, message: Heartbeat, now: int, out: Outbox, touched: list[GroupId]
    ) -> None:
        """A heartbeat, or the answer to one; not heeded of a device that is no peer."""
        contact = self.contacts.get(sender)
        if contact is None:
            return
        contact.heard = now
        if isinstance(message, Beat):
            self._on_beat(contact, message, now, out, touched)
        else:
            self._on_ack(contact, message, now, out, touched)

    def _on_beat(
        self, contact: Contact, beat: Beat, now: int, out: Outbox, touched: list[GroupId]
    ) -> None:
        """Renew what the sender claims, and acknowledge at once."""
        sender = contact.device
        if not contact.on_beat(beat):
            out.send(sender, Ack(0, beat.epoch))
            return
        refused: list[Refusal] = []
        for claim in contact.claims:
            group = self.groups.get(claim.group)
            if group is None:
                refused.append(Refusal(claim.group, 0, Reason.UNKNOWN_GROUP))
                continue
            before = (group.role, group.voter.leader)
            refusal = group.on_claim(sender, claim, now, out)
            if refusal is not None:
                refused.append(refusal)
            if (group.role, group.voter.leader) != before:
                touched.append(claim.group)
        if contact.claims or beat.sent // IDLE_BEAT_NS % IDLE_ACKS == 0:
            out.send(sender, Ack(beat.sent, beat.epoch, tuple(refused)))

    def _on_ack(
        self, contact: Contact, ack: Ack, now: int, out: Outbox, touched: list[GroupId]
    ) -> None:
        """Credit an ack to the groups whose claims it renewed."""
        sender = contact.device
        if not contact.on_ack(ack, now):
            return
        if contact.answered_late(now):
            contact.beat_at = now
        if ack.echo <= self._confirmed and not ack.refused:
            return
        groups, epoch, echo = self.groups, ack.epoch, ack.echo
        refused = {refusal.group: refusal for refusal in ack.refused}
        for claim in self._claims_for.get(sender, ()):
            group = groups[claim.group]
            role = group.role
            if claim.group in refused:
                group.on_refused(refused[claim.group], now, out)
            elif group.claimed_from <= epoch:
                group.on_acked(sender, echo, now, out)
            if group.role is not role:
                touched.append(claim.group)
        if all(groups[gid].lease.round >= echo for gid in self._claimed):
            self._confirmed = echo

    def on_time(self, now: int, out: Outbox) -> int:
        """Send what is due; when the next beat is."""
        first = NEVER
        for device, contact in self.contacts.items():
            due = contact.due()
            if now >= due:
                claims = self._claims_for.get(device, ())
                if now >= contact.beat_at:
                    contact.beat_at = next_round(now, contact.interval)
                    contact.resent = not claims
                else:
                    contact.resent = True
                out.send(device, contact.beat(now, self.epoch, claims))
                due = contact.due()
            first = min(first, due)
        return first

    def forgive(self, stall: int, now: int) -> None:
        """This process was deaf for ``stall`` nanoseconds."""
        for contact in self.contacts.values():
            if contact.heard is not None:
                contact.heard = min(now, contact.heard + stall)
