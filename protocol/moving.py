"""Planned moves under way on this device: promote, drain, clean stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.admission import device_named
from protocol.config import Config
from protocol.contact import Contact
from protocol.effects import Outcome, Promote
from protocol.errors import HalbError, Refused, TimedOut
from protocol.flush import LACKED, Flushes
from protocol.group import UNANSWERED, Group
from protocol.groups import DRAINED
from protocol.ids import SITE_GROUP, DeviceId, GroupId
from protocol.messages import RequestMove
from protocol.moves import best_successor, why_not
from protocol.outbox import Outbox
from protocol.requests import Requests, return_of
from protocol.timing import MILLISECOND, NEVER, SECOND
from protocol.view import Role
from protocol.virtual_servers import server_named

PAUSE_NS = 1 * SECOND
"""After a hand-over that nobody took, drain tries again only after this."""
LOOK_NS = 250 * MILLISECOND
"""While nobody can take over; not at the first who can, for the best soon may."""
MOVE_TIMEOUT_NS = 3 * SECOND
PATIENCE_NS = 3 * SECOND
"""So long a device that could go on, but is drained or named no more, waits for a successor that
has all flows. The coordinator leaves it a voter for longer."""


@dataclass(frozen=True, slots=True)
class _Move:
    request: str
    origin: DeviceId | None
    """Device whose operator asked; None: this one's."""
    to: DeviceId
    deadline: int


class Moving:
    """Moves that an operator waits for, and those that drain and stop ask for."""

    def __init__(self, me: DeviceId) -> None:
        self.me = me
        self.flushes = Flushes()
        self._moves: dict[GroupId, _Move] = {}
        self._not_before: dict[GroupId, int] = {}
        self._tried: dict[GroupId, int] = {}
        """Until when a hand-over is not tried once more."""
        self._since: dict[GroupId, int] = {}
        """Since when another device could take what this one should not hold."""
        self._next = NEVER

    def promote(
        self, item: Promote, config: Config, requests: Requests, now: int, out: Outbox
    ) -> None:
        """An operator of this device asks for a move: names to ids, then to the primary."""
        try:
            server = server_named(config, item.virtual_server)
            to = None if item.to is None else device_named(config, item.to).id
        except HalbError as error:
            out.do(Outcome(item.request, error=error))
            return
        requests.add(RequestMove(item.request, server.uid, to), now)

    def request(
        self,
        origin: DeviceId | None,
        message: RequestMove,
        groups: Mapping[GroupId, Group],
        contacts: Mapping[DeviceId, Contact],
        now: int,
        out: Outbox,
    ) -> bool:
        """Hand over if this device is primary, else return False.

        A repeated request changes nothing.
        """
        group = groups.get(message.group)
        if group is None or group.role is not Role.PRIMARY:
            return False
        under_way = self._moves.get(message.group)
        if under_way is not None:
            if under_way.request == message.id:
                return True
            if message.group in self.flushes:
                self._refuse(message, origin, "another move of it is under way", out)
                return True
            # This device is primary again: the earlier move has failed.
            self._follow(message.group, under_way, group, now, out)
        # Whoever was primary when it was asked may have moved it here, for this very request.
        moved = group.voter.term > message.term > 0
        if message.to == self.me or (message.to is None and moved):
            detail = "moved" if moved else "is primary already"
            self._end(Outcome(message.id, detail=detail), origin, out)
            return True
        to = message.to or best_successor(group, contacts, now)
        reason = "no other device can take it" if to is None else why_not(group, to, contacts, now)
        if to is None or reason:
            why = reason if to is None else f"the device {reason}"
            self._refuse(message, origin, f"cannot hand over: {why}", out)
            return True
        self._moves[message.group] = _Move(message.id, origin, to, now + MOVE_TIMEOUT_NS)
        self.flushes.hand_over(group, to, now, out)
        return True

    def on_time(
        self,
        groups: Mapping[GroupId, Group],
        contacts: Mapping[DeviceId, Contact],
        now: int,
        out: Outbox,
    ) -> list[GroupId]:
        """End what has ended, begin what is due; the groups that changed."""
        changed = self.flushes.on_time(groups, now, out)
        self._next = NEVER
        for gid, move in list(self._moves.items()):
            why = LACKED if gid in changed else UNANSWERED
            self._follow(gid, move, groups.get(gid), now, out, why)
        changed += self._leave_office(groups, contacts, now, out)
        self._next = min(self._next, self.flushes.wake_at())
        return changed

    def _follow(
        self,
        gid: GroupId,
        move: _Move,
        group: Group | None,
        now: int,
        out: Outbox,
        why: str = UNANSWERED,
    ) -> None:
        """Tell how the move ended, if it has; ``why`` it failed, where this device goes on."""
        outcome: Outcome | None = None
        if group is not None and group.voter.leader == move.to:
            outcome = Outcome(move.request, detail="moved")
        elif group is not None and group.role is Role.PRIMARY and gid not in self.flushes:
            error: HalbError = Refused(
                f"{why}: the primary continues",
                "`halbctl history` shows the attempt.",
            )
            outcome = Outcome(move.request, error=error)
        elif now >= move.deadline:
            error = TimedOut("nobody has taken over yet", "Look at `halbctl status`.")
            outcome = Outcome(move.request, error=error)
        if outcome is None:
            self._next = min(self._next, move.deadline)
        else:
            del self._moves[gid]
            self._end(outcome, move.origin, out)

    def _leave_office(
        self,
        groups: Mapping[GroupId, Group],
        contacts: Mapping[DeviceId, Contact],
        now: int,
        out: Outbox,
    ) -> list[GroupId]:
        """Hand over what this device should not hold; keep what nobody else can take."""
        changed: list[GroupId] = []
        leaving = {g: group for g, group in groups.items() if _leaves(group)}
        self._not_before = {g: at for g, at in self._not_before.items() if g in groups}
        self._tried = {g: at for g, at in self._tried.items() if g in groups}
        self._since = {g: at for g, at in self._since.items() if g in leaving}
        for gid, group in leaving.items():
            pressing = self._presses(group, now)
            if gid in self.flushes:
                if pressing:
                    self.flushes.press(gid, now)
                continue
            if (
                group.candidacy.frozen
                and not group.stopping
                and self.me in group.voter.electorate.voters
            ):
                continue
            not_before = self._not_before.get(gid, 0)
            if now < not_before and not group.stopping:
                self._next = min(self._next, not_before)
                continue
            if best_successor(group, contacts, now, pressing=True) is not None:
                self._since.setdefault(gid, now)
            to = best_successor(group, contacts, now, pressing=pressing)
            if to is not None and now >= self._tried.get(gid, 0):
                self._not_before[gid] = self._tried[gid] = now + PAUSE_NS
                self.flushes.hand_over(group, to, now, out, pressing=pressing)
                changed.append(gid)
            elif group.stopping or self.me not in group.voter.electorate.voters:
                group.resign(now, out)
                changed.append(gid)
            elif gid != SITE_GROUP:
                self._not_before[gid] = now + LOOK_NS
                self._next = min(self._next, now + LOOK_NS)
        return changed

    def _presses(self, group: Group, now: int) -> bool:
        """Whether a successor is to take it in the end also without all flows.

        At once where this device cannot serve, or is about to end.
        """
        if group.stopping or group.unfit not in ("", DRAINED):
            return True
        since = self._since.get(group.group)
        if since is None:
            return False
        if now < since + PATIENCE_NS:
            self._next = min(self._next, since + PATIENCE_NS)
        return now >= since + PATIENCE_NS

    def _refuse(self, message: RequestMove, origin: DeviceId | None, why: str, out: Outbox) -> None:
        error = Refused(why, "`halbctl status` shows each device's state.")
        self._end(Outcome(message.id, error=error), origin, out)

    def _end(self, outcome: Outcome, origin: DeviceId | None, out: Outbox) -> None:
        if origin is None:
            out.do(outcome)
        else:
            out.send(origin, return_of(outcome))

    def wake_at(self) -> int:
        return self._next


def _leaves(group: Group) -> bool:
    """Whether this device is primary, and another one should be.

    A disk that takes no votes is no reason: a primary needs none to stay, and what it gave up it
    could not take again. A coordinator needs one, and has no VIP to lose.
    """
    carries = group.me in group.voter.electorate.carriers
    useless = group.group == SITE_GROUP and group.voter.lacks
    unwanted = not carries or group.unfit or group.stopping or useless
    return bool(unwanted and group.role is Role.PRIMARY)
