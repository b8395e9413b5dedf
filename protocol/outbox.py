"""Collects the effects of a step, and keeps what must not be told before it is on disk.

A disk may take longer than a lease lasts. So only what tells of a ballot waits for it: the
messages about that group. All other groups, and the leases in force, go on meanwhile.
"""

from __future__ import annotations

from protocol.bundle import OfGroup
from protocol.effects import Ballot, Effect, PersistBallots, Send
from protocol.ids import SITE_GROUP, DeviceId, GroupId
from protocol.messages import Message, Stored


class Outbox:
    """Effects of the step under way, and messages of this step and of others that wait."""

    __slots__ = ("_ballots", "_effects", "_number", "_waiting", "_written_by")

    def __init__(self) -> None:
        self._ballots: dict[GroupId, Ballot] = {}
        self._effects: list[Effect] = []
        self._number = 0
        self._written_by: dict[GroupId, int] = {}
        """By which :class:`PersistBallots` each ballot goes to disk that is not there yet."""
        self._waiting: dict[GroupId, dict[tuple[DeviceId, type[Message]], Send]] = {}

    def persist(self, group: GroupId, ballot: Ballot) -> None:
        """Have a ballot written; what was to be told of the one before it is void."""
        self._ballots[group] = ballot
        self._written_by[group] = self._number + 1
        self.void(group)

    def void(self, group: GroupId) -> None:
        """Things have changed: tell nothing of what waits for the group's ballot."""
        self._waiting.pop(group, None)

    def send(self, to: DeviceId, message: Message) -> None:
        """Send now, or once the ballot of the message's group is on disk."""
        send = Send(to, message)
        group = _told_of(message) if self._written_by else None
        if group in self._written_by:
            # The newest of a kind says it all, so a disk that hangs fills no memory.
            self._waiting.setdefault(group, {})[to, type(message)] = send
        else:
            self._effects.append(send)

    def do(self, effect: Effect) -> None:
        self._effects.append(effect)

    def stored(self, number: int) -> list[GroupId]:
        """Ballots are on disk up to that number: send what waited for them; their groups."""
        groups = [group for group, by in self._written_by.items() if by <= number]
        for group in groups:
            del self._written_by[group]
            self._effects.extend(self._waiting.pop(group, {}).values())
        return groups

    def take(self) -> list[Effect]:
        """All effects in the order in which they must be carried out."""
        effects, self._effects = self._effects, []
        if self._ballots:
            self._number += 1
            # Last: what was said before a vote must not come after it, if this process is held up.
            effects.append(PersistBallots(self._number, self._ballots))
            self._ballots = {}
        return effects


def _told_of(message: Message) -> GroupId | None:
    """The group whose ballot a message tells of."""
    if isinstance(message, OfGroup):
        return message.group
    return SITE_GROUP if isinstance(message, Stored) else None
