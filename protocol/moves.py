"""Planned moves: whom a primary may hand over to, and why not.

Used by ``promote``, drain and clean stop alike. A refusal is a sentence that
reaches the operator unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping

from protocol.contact import Contact
from protocol.group import Group
from protocol.ids import SITE_GROUP, DeviceId, GroupId
from protocol.messages import Reason
from protocol.quorum import has_majority
from protocol.timing import IDLE_BEAT_NS
from protocol.voter import LOST


def why_not(group: Group, to: DeviceId, contacts: Mapping[DeviceId, Contact], now: int) -> str:
    """Why the group should not be handed to ``to`` now; empty if it may be."""
    reason = _why_cannot(group, to, contacts, now)
    if reason or to not in contacts:
        return reason
    return contacts[to].told.behind.get(group.group, "")


def _why_cannot(group: Group, to: DeviceId, contacts: Mapping[DeviceId, Contact], now: int) -> str:
    """Why ``to`` cannot take the group over now; empty if it can."""
    if to not in group.voter.electorate.carriers:
        return "may not carry this Virtual Server"
    contact = contacts.get(to)
    if contact is None or contact.heard is None or contact.info is None:
        return "has not been heard of yet"
    patience = max(3 * group.timing.interval, 2 * IDLE_BEAT_NS)
    if now - contact.heard > patience:
        return f"has been silent for {(now - contact.heard) // 1_000_000} ms"
    if now - contact.acked_sent > patience:
        # Cut in one direction: it would hear neither of the hand-over nor of an end of it.
        return f"has answered no beat for {(now - contact.acked_sent) // 1_000_000} ms"
    if contact.info.stopping:
        return "has stopped"
    reason = _told(contact, group.group)
    if reason:
        return reason
    if not _can_vote(group, contacts):
        return "would not be elected: too few devices can vote now"
    # It stands with what it knows to be committed; the coordinator with what is on its disk.
    known = contact.info.stored if group.group == SITE_GROUP else contact.info.committed
    if known < group.voter.electorate.revision:
        return f"has only revision {known} of the configuration"
    return ""


def _told(contact: Contact | None, gid: GroupId) -> str:
    """Why a device may not be primary, in its own words."""
    return contact.told.unfit.get(gid, "") if contact is not None else ""


def _can_vote(group: Group, contacts: Mapping[DeviceId, Contact]) -> bool:
    """Whether a majority could elect somebody, as far as is known.

    If not, a move would fail, and so would its end.
    """
    voters = group.voter.electorate.voters
    lacking = {v for v in voters if _told(contacts.get(v), group.group) in (Reason.DISK, LOST)}
    if group.voter.lacks:
        lacking.add(group.me)
    return has_majority(voters, set(voters) - lacking)


def place(group: Group, device: DeviceId, contacts: Mapping[DeviceId, Contact]) -> tuple[bool, int]:
    """Where ``device`` ranks, best first: as configured, those that are late last."""
    contact = contacts.get(device)
    if device == group.me:
        late = bool(group.candidacy.late)
    else:
        late = contact is not None and group.group in contact.told.late
    return late, group.voter.electorate.carriers.index(device)


def best_successor(
    group: Group, contacts: Mapping[DeviceId, Contact], now: int, *, pressing: bool = False
) -> DeviceId | None:
    """The best-ranked device that can take the group over now.

    Where it is ``pressing``, and no other is left, one that lacks flows, too.
    """
    ranked = sorted(group.voter.electorate.carriers, key=lambda d: place(group, d, contacts))
    others = [device for device in ranked if device != group.me]
    for why in (why_not, _why_cannot) if pressing else (why_not,):
        for candidate in others:
            if not why(group, candidate, contacts, now):
                return candidate
    return None
