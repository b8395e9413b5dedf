"""Who is primary of what, as far as this device knows: by vote or by hearsay."""

from __future__ import annotations

from collections.abc import Mapping

from protocol.config import Config
from protocol.contact import Contact
from protocol.group import Group
from protocol.ids import SITE_GROUP, DeviceId, GroupId
from protocol.messages import Lead
from protocol.neighbourhood import Neighbourhood
from protocol.timing import MILLISECOND
from protocol.view import GroupView, PeerState, Role


class Offices:
    """A voter knows the primary that it follows; others believe what the devices tell."""

    def __init__(
        self,
        me: DeviceId,
        groups: Mapping[GroupId, Group],
        contacts: Mapping[DeviceId, Contact],
        neighbourhood: Neighbourhood,
        unix_offset: int,
    ) -> None:
        self.me = me
        self._groups = groups
        self._contacts = contacts
        self._neighbourhood = neighbourhood
        self.unix_offset = unix_offset
        self.leads: dict[GroupId, Lead] = {}
        """Groups that this device is primary of."""

    def note(self, gid: GroupId, now: int) -> None:
        """The group may have changed: keep :attr:`leads` true."""
        group = self._groups.get(gid)
        if group is None or group.role is not Role.PRIMARY:
            self.leads.pop(gid, None)
        elif gid not in self.leads or self.leads[gid].term != group.voter.term:
            since = (now + self.unix_offset) // MILLISECOND
            self.leads[gid] = Lead(gid, group.voter.term, since)

    def holder(self, gid: GroupId) -> tuple[DeviceId | None, int]:
        """(primary, term) of a group; (None, newest known term) while none is known."""
        group = self._groups.get(gid)
        if group is not None:
            own = group.voter.leader
            if own == self.me and group.role is not Role.PRIMARY:
                own = None
            if own is not None or group.voter.votes:
                return own, group.voter.term
        claimants = self._neighbourhood.claimants
        told = claimants.newest(gid)
        return (None, claimants.term(gid)) if told is None else (told[0], told[1].term)

    def known_term(self, gid: GroupId) -> int:
        """The newest term that was heard of, if only in a refusal."""
        group = self._groups.get(gid)
        heard = max(group.voter.term, group.candidacy.known_term) if group else 0
        return max(self.holder(gid)[1], heard)

    def hears_coordinator(self, now: int) -> DeviceId | None:
        """The coordinator, if it was heard of so lately that it still holds office."""
        holder, _ = self.to_ask(SITE_GROUP, now)
        group = self._groups.get(SITE_GROUP)
        if holder is None or holder == self.me or (group is not None and group.voter.votes):
            return holder
        contact = self._contacts.get(holder)
        if contact is not None:
            alive = contact.alive(now)
        else:
            alive = self._neighbourhood.membership.state(holder) is PeerState.ALIVE
        return holder if alive else None

    def to_ask(self, gid: GroupId, now: int) -> tuple[DeviceId | None, int]:
        """:meth:`holder`, but None for one that this device as a voter hears no more.

        What is sent to one that is long silent would come to nothing, or be in doubt for ever.
        """
        holder, term = self.holder(gid)
        group = self._groups.get(gid)
        if holder not in (None, self.me) and group is not None and group.voter.votes:
            silent = now - group.voter.heard >= group.timing.promise
            holder = None if silent else holder
        return holder, term

    def _since(self, gid: GroupId, leader: DeviceId | None, term: int) -> int:
        if leader == self.me:
            own = self.leads.get(gid)
            return own.since if own is not None and own.term == term else 0
        told = self._neighbourhood.claimants.newest(gid)
        return told[1].since if told and (told[0], told[1].term) == (leader, term) else 0

    def views(self, config: Config, now: int) -> tuple[GroupView, ...]:
        """The coordinator's group and all Virtual Servers, as seen from here."""
        return tuple(self._view(gid, config, now) for gid in (SITE_GROUP, *config.virtual_servers))

    def _view(self, gid: GroupId, config: Config, now: int) -> GroupView:
        leader, term = self.holder(gid)
        since = self._since(gid, leader, term)
        group = self._groups.get(gid)
        if group is None:
            assignment = config.assignments.get(gid)
            voters = assignment.voters if assignment else ()
            number = assignment.number if assignment else 0
            unfit = "is not assigned to this Virtual Server"
            return GroupView(gid, Role.SECONDARY, term, leader, number, voters, unfit, since)
        electorate = group.voter.electorate
        unfit = group.voter.lacks or group.unfit
        if not unfit and self.me not in electorate.carriers:
            unfit = "is a witness"
        if not unfit and group.role is Role.WAITING:
            unfit = "has just started"
        return GroupView(
            gid, group.role, term, leader, electorate.number, electorate.voters, unfit, since,
            group.candidacy.late, group.candidacy.behind, group.damping.left(now),
            alone=group.alone.told, waits=group.alone.waits_for(now),
            unheard=leader is not None and self.to_ask(gid, now)[0] is None,
        )  # fmt: skip
