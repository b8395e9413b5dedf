"""Break glass: an operator tells one of two devices to take over without the other.

The operator takes the place of the arbiter, of ``wait_for_peer`` and of
``on_peer_loss: hold``; not of the question for the VIPs, which nobody may answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.arbiter import Wait
from protocol.config import Config
from protocol.effects import Force, Outcome
from protocol.errors import HalbError, Refused
from protocol.group import Group
from protocol.ids import GroupId
from protocol.outbox import Outbox
from protocol.timing import NEVER, SECOND
from protocol.view import Role
from protocol.virtual_servers import server_named

MIN_PATIENCE_NS = 2 * SECOND


@dataclass(frozen=True, slots=True)
class _Forced:
    request: str
    deadline: int


class Forcing:
    """Forced takeovers under way on this device; each ends with one outcome."""

    def __init__(self) -> None:
        self._forced: dict[GroupId, _Forced] = {}

    def begin(
        self,
        item: Force,
        config: Config,
        groups: Mapping[GroupId, Group],
        now: int,
        out: Outbox,
    ) -> list[GroupId]:
        """Let a group take over as soon as nobody answers for its VIPs; the groups changed."""
        try:
            group = _group_of(item, config, groups)
            if group.role is not Role.PRIMARY:
                _refuse_if_vain(group, now)
        except HalbError as error:
            out.do(Outcome(item.request, error=error))
            return []
        if group.role is Role.PRIMARY:
            out.do(Outcome(item.request, detail="is primary already"))
            return []
        former = self._forced.get(group.group)
        if former is not None and former.request != item.request:
            out.do(Outcome(former.request, error=_asked_again()))
        group.alone.forced = True
        patience = max(MIN_PATIENCE_NS, 2 * group.timing.promise)
        self._forced[group.group] = _Forced(item.request, now + patience)
        return [group.group]

    def on_time(self, groups: Mapping[GroupId, Group], now: int, out: Outbox) -> None:
        """End what has succeeded or taken too long."""
        for gid, forced in list(self._forced.items()):
            group = groups.get(gid)
            done = group is not None and group.role is Role.PRIMARY
            if group is not None and not done and now < forced.deadline:
                continue
            del self._forced[gid]
            if group is not None:
                group.alone.forced = False
            error = None if done else _not_taken(group, now)
            out.do(Outcome(forced.request, detail="moved" if done else "", error=error))

    def wake_at(self) -> int:
        return min((f.deadline for f in self._forced.values()), default=NEVER)


def _group_of(item: Force, config: Config, groups: Mapping[GroupId, Group]) -> Group:
    server = server_named(config, item.virtual_server)
    group = groups.get(server.uid)
    if group is None:
        raise Refused(
            f"this device has no part in Virtual Server {server.name!r}",
            "Ask the device that shall take over.",
        )
    return group


def _refuse_if_vain(group: Group, now: int) -> None:
    if not (group.alone.allowed or group.alone.waits_for(now)):
        raise Refused(
            f"a majority of its {len(group.voter.electorate.voters)} voters decides on it: "
            "no device may take it alone",
            "Bring voters back; `halbctl status` shows which are missing.",
        )
    if not group.may_campaign():
        raise Refused(
            f"this device cannot take it: {group.unfit or 'it is stopping or cannot write'}",
            "`halbctl status` shows each device's state.",
        )
    if group.alone.why_not(now) is Wait.HEARS_PEER:
        raise Refused(
            "the other device is heard: there is nothing to force",
            "Move it with `halbctl promote`.",
        )


def _asked_again() -> HalbError:
    return Refused(
        "another request for the same takeover has come",
        "It goes on; `halbctl status` shows what becomes of it.",
    )


def _not_taken(group: Group | None, now: int) -> HalbError:
    why = group.alone.why_not(now) if group is not None else Wait.OWNED
    return Refused(
        f"this device {why or Wait.OWNED}",
        "A device that still answers for them serves: make sure that it is off.",
    )
