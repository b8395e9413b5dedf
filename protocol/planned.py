"""Planned moves, carried out by whoever is primary when their time comes.

The primary takes the plan out of the configuration first, by a change like an
operator's; of two devices that both think they are primary only one succeeds.
Once that is committed it hands over, as ``promote`` does. So a planned move
happens once, or not at all: a primary that dies in between has moved nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.changes import CancelMove
from protocol.config import Config
from protocol.effects import Effect, Event, Outcome
from protocol.errors import HalbError, NotCommitted, TimedOut
from protocol.group import Group
from protocol.ids import DeviceId, GroupId
from protocol.messages import ProposeChange, RequestMove
from protocol.objects import PlannedMove
from protocol.outbox import Outbox
from protocol.requests import Requests
from protocol.timing import MILLISECOND, NEVER, SECOND
from protocol.view import Role

LATE_S = 300
"""A move that could not be made for so long is dropped: its reason may have passed."""
LOOK_NS = 100 * MILLISECOND
RETRY_NS = 5 * SECOND
"""After the coordinator could not be reached."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a planned move is carried out in."""

    config: Config
    groups: Mapping[GroupId, Group]
    requests: Requests
    now: int
    unix: int
    """Unix time, nanoseconds."""
    out: Outbox

    def led(self, gid: GroupId) -> Group | None:
        """The group, if this device is its primary."""
        group = self.groups.get(gid)
        return group if group is not None and group.role is Role.PRIMARY else None


class PlannedMoves:
    """The planned moves that this device carries out. Own clock, nanoseconds."""

    def __init__(self, me: DeviceId, incarnation: int) -> None:
        self.me = me
        self._name = f"{me[:8]}-{incarnation}"
        self._tries = 0
        self._next = NEVER
        self._not_before = 0
        self._claims: dict[str, PlannedMove] = {}
        """Plans that are being taken out of the configuration, by request."""
        self._moves: dict[str, PlannedMove] = {}
        """Hand-overs under way, by request."""
        self._ended: list[Outcome] = []
        self._unsure: dict[str, PlannedMove] = {}
        """Plans that may have been taken out, or may be yet, by request."""

    def sift(self, effects: list[Effect]) -> list[Effect]:
        """``effects`` without the outcomes of this part's own requests."""
        if not (self._claims or self._moves):
            return effects
        rest: list[Effect] = []
        for effect in effects:
            mine = isinstance(effect, Outcome) and (
                effect.request in self._claims or effect.request in self._moves
            )
            if mine:
                assert isinstance(effect, Outcome)
                self._ended.append(effect)
            else:
                rest.append(effect)
        return rest

    def wake_at(self) -> int:
        """While requests are under way, soon; else when the next plan is due."""
        return self._next

    def on_time(self, scene: Scene) -> None:
        """Carry out what is due."""
        ended, self._ended = self._ended, []
        for outcome in ended:
            if plan := self._claims.pop(outcome.request, None):
                self._claimed(plan, outcome, scene)
            elif plan := self._moves.pop(outcome.request, None):
                _moved(plan, outcome, scene.out)
        for request, plan in list(self._unsure.items()):
            self._look_again(request, plan, scene)
        self._next = NEVER
        if self._claims or self._moves:
            self._next = scene.now + LOOK_NS
        for plan in scene.config.planned_moves.values():
            self._look(plan, scene)

    def _look(self, plan: PlannedMove, scene: Scene) -> None:
        server = scene.config.virtual_servers.get(plan.uid)
        if server is None or scene.led(plan.uid) is None:
            return
        due = max(scene.now + plan.at * SECOND - scene.unix, self._not_before)
        if scene.now < due:
            self._next = min(self._next, due)
        elif plan not in self._claims.values():
            request = self._request()
            self._claims[request] = plan
            self._next = min(self._next, scene.now + LOOK_NS)
            change = CancelMove(server.name, plan.id)
            unix_s = scene.unix // SECOND
            scene.requests.add(ProposeChange(request, change, None, unix_s, self.me), scene.now)

    def _claimed(self, plan: PlannedMove, outcome: Outcome, scene: Scene) -> None:
        """The plan is out of the configuration, or it could not be taken out."""
        if outcome.error is not None:
            self._not_before = scene.now + RETRY_NS
            if isinstance(outcome.error, NotCommitted | TimedOut):
                self._unsure[outcome.request] = plan
            return
        self._begin(plan, scene)

    def _look_again(self, request: str, plan: PlannedMove, scene: Scene) -> None:
        """Whether the request that was in doubt came to be part of the configuration."""
        if scene.config.handled(request) is not None:
            del self._unsure[request]
            self._begin(plan, scene)
        elif scene.config.planned_moves.get(plan.uid) != plan:
            # Another request took it out.
            del self._unsure[request]

    def _begin(self, plan: PlannedMove, scene: Scene) -> None:
        """The plan is this device's alone: hand over, or say why not."""
        group, why = scene.led(plan.uid), _why_not(plan, scene)
        if group is None or why:
            text = f"planned move not made: {why}"
            scene.out.do(Event("move", plan.uid, text, device=self.me))
            return
        request = self._request()
        self._moves[request] = plan
        term = group.voter.term
        scene.out.do(Event("move", plan.uid, "begins a planned move", term, self.me))
        scene.requests.add(RequestMove(request, plan.uid, plan.to, term), scene.now)

    def _request(self) -> str:
        self._tries += 1
        return f"planned-{self._name}-{self._tries}"


def _why_not(plan: PlannedMove, scene: Scene) -> str:
    server = scene.config.virtual_servers.get(plan.uid)
    late = scene.unix // SECOND - plan.at
    if server is None or scene.led(plan.uid) is None:
        return "this device is primary no more"
    if server.frozen:
        return "the Virtual Server is frozen"
    return f"it could not be made for {late} s" if late > LATE_S else ""


def _moved(plan: PlannedMove, outcome: Outcome, out: Outbox) -> None:
    if isinstance(outcome.error, HalbError):
        text = f"planned move not made: {outcome.error.message}"
        out.do(Event("move", plan.uid, text, device=plan.to))
