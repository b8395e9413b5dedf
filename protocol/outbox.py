"""Collects the effects of one step, ballots first.

Everything that a step sends may tell of its ballots, so one write that comes
before all sends of the step keeps the promise "persist before you speak".
"""

from __future__ import annotations

from protocol.effects import Ballot, Effect, PersistBallots, Send
from protocol.ids import DeviceId, GroupId
from protocol.messages import Message


class Outbox:
    """Effects of the step under way."""

    __slots__ = ("_ballots", "_effects")

    def __init__(self) -> None:
        self._ballots: dict[GroupId, Ballot] = {}
        self._effects: list[Effect] = []

    def persist(self, group: GroupId, ballot: Ballot) -> None:
        self._ballots[group] = ballot

    def send(self, to: DeviceId, message: Message) -> None:
        self._effects.append(Send(to, message))

    def do(self, effect: Effect) -> None:
        self._effects.append(effect)

    def take(self) -> list[Effect]:
        """All effects in the order in which they must be carried out."""
        effects = self._effects
        if self._ballots:
            effects = [PersistBallots(self._ballots), *effects]
            self._ballots = {}
        self._effects = []
        return effects
