"""Moves that a primary makes on its own, to a device that is better placed.

Three reasons, all gentle: a better-ranked device has been fit for as long as
the Virtual Server's ``preempt`` says, or another device has seen more healthy
gateways for a while, or lacks a fault of this one: that its kernel refuses a
change, or that it has no way back to distant clients.
Always a hand-over by the primary, never an election.
Held back by damping, and by ``freeze``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from protocol.config import Config
from protocol.contact import Contact
from protocol.effects import Event
from protocol.flush import Flushes
from protocol.group import Group
from protocol.ids import DeviceId, GroupId
from protocol.moves import place, why_not
from protocol.objects import Check, VirtualServer
from protocol.outbox import Outbox
from protocol.timing import NEVER, SECOND, next_round
from protocol.told import Down, by_server
from protocol.view import Role

LOOK_NS = 1 * SECOND
VIEW_NS = 10 * SECOND
"""A better view of the gateways must last this long, and longer than two checks; where the
primary sees none that can take a connection, two checks are enough."""

_Wish = tuple[GroupId, DeviceId, str]
"""(group, device, a kind of reason): what would be better."""


class Preference:
    """Since when other devices would be better primaries than this one."""

    def __init__(self, me: DeviceId, flushes: Flushes) -> None:
        self.me = me
        self._flushes = flushes
        self._look_at = 0
        self._since: dict[_Wish, int] = {}

    def wake_at(self) -> int:
        """While another device would be better, soon."""
        return self._look_at if self._since else NEVER

    def on_time(
        self,
        config: Config,
        groups: Mapping[GroupId, Group],
        contacts: Mapping[DeviceId, Contact],
        gateways_down: tuple[tuple[GroupId, str], ...],
        now: int,
        out: Outbox,
    ) -> list[GroupId]:
        """Hand over what has long been better elsewhere; the groups that changed."""
        if now < self._look_at:
            return []
        self._look_at = next_round(now, LOOK_NS)
        down = by_server(gateways_down)
        changed: list[GroupId] = []
        since: dict[_Wish, int] = {}
        for gid, server in config.virtual_servers.items():
            group = groups.get(gid)
            if group is None or gid in self._flushes or not _at_ease(group):
                continue
            for device, kind, hold in self._better(server, group, contacts, down, now):
                wish = (gid, device, kind)
                since[wish] = self._since.get(wish, now)
                if now - since[wish] >= hold and not group.damping.left(now):
                    why = f"has been better placed for {hold // SECOND} s{_why(kind, group)}"
                    out.do(Event("move", gid, why, group.voter.term, device))
                    self._flushes.hand_over(group, device, now, out)
                    changed.append(gid)
                    break
        self._since = {w: at for w, at in since.items() if w[0] not in changed}
        return changed

    def _better(
        self,
        server: VirtualServer,
        group: Group,
        contacts: Mapping[DeviceId, Contact],
        down: Down,
        now: int,
    ) -> Iterator[tuple[DeviceId, str, int]]:
        """(device, reason, how long that must last), the best device first."""
        mine = healthy(server, down)
        if not (server.preempt or group.outdated) and mine == len(usable(server)):
            return  # Nobody sees more than all.
        view_ns = max(VIEW_NS if mine else 0, _two_checks(server))
        carriers = group.voter.electorate.carriers
        ranked = sorted(carriers, key=lambda d: place(group, d, contacts))
        found = []
        for device in ranked:
            if device == self.me or why_not(group, device, contacts, now):
                continue
            info = contacts[device].info
            assert info is not None
            if info.applied < group.voter.electorate.revision:
                continue
            sees = healthy(server, contacts[device].told.down)
            ranks_better = ranked.index(device) < ranked.index(self.me)
            if group.outdated and sees >= mine:
                found.append((-sees, device, "fault", view_ns))
            elif sees > mine:
                found.append((-sees, device, "view", view_ns))
            elif ranks_better and server.preempt and sees == mine:
                found.append((-sees, device, "rank", server.preempt * SECOND))
        # Sorting keeps the order of rank among those that see as many.
        for _, device, kind, hold in sorted(found, key=lambda each: each[0]):
            yield device, kind, hold


_WHY = {"rank": "ranks first", "view": "sees more healthy gateways"}


def _why(kind: str, group: Group) -> str:
    """What is better, or what is worse with this device."""
    return f": {_WHY[kind]}" if kind in _WHY else f" than this one: {group.outdated}"


def _at_ease(group: Group) -> bool:
    """Whether this device is primary, and nothing else moves or holds the group."""
    return group.role is Role.PRIMARY and group.may_campaign() and not group.candidacy.frozen


def usable(server: VirtualServer) -> tuple[str, ...]:
    """Names of the gateways that may take a connection."""
    return tuple(g.name for g in server.gateways if g.state == "enabled" and g.weight)


def healthy(server: VirtualServer, down: Down) -> int:
    """How many of them can, as the device that tells this sees them."""
    dead = down.get(server.uid, frozenset())
    return sum(name not in dead for name in usable(server))


def _two_checks(server: VirtualServer) -> int:
    """Twice the longest check: a device that has just begun has seen nothing down yet."""
    checks = [item.check or Check() for item in server.listeners] or [Check()]
    return int(2 * max(c.interval + c.timeout for c in checks) * SECOND)
