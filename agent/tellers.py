"""Who tells whom of whose flows: by the configuration, and by who is primary of what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from protocol.assignment import carriers_of
from protocol.config import Config
from protocol.effects import Event
from protocol.ids import SITE_GROUP, DeviceId, GroupId
from protocol.timing import DRAIN_NS, SECOND

DRAIN_S = DRAIN_NS / SECOND
"""After a hand-over the predecessor still forwards, and its entries must stay."""

FRESH_S = 30.0
"""So long a new primary is told of flows that it lacks."""

_OFFICES = ("primary", "leader", "released", "lame")
"""Kinds of events that tell who is primary."""
_NONE: frozenset[bytes] = frozenset()


def office_of(event: Event) -> GroupId | None:
    """The Virtual Server of whose primary an event tells; None where it tells of something else."""
    return event.group if event.kind in _OFFICES and event.group != SITE_GROUP else None


class Tellers:
    """The primaries of this device's groups, itself among them. Times are seconds."""

    def __init__(self, me: DeviceId) -> None:
        self._me = me
        self._leaders: dict[GroupId, DeviceId] = {}
        self._former: dict[GroupId, float] = {}
        """Until when the flows of a group that this device led last are told on."""
        self._since: dict[GroupId, float] = {}
        """When this device became primary of a group last."""
        self._configured: frozenset[GroupId] = frozenset()
        """All groups there are: one of which an office was heard may not be among them yet."""
        self._vips: Mapping[GroupId, frozenset[bytes]] = {}
        self._carriers: Mapping[GroupId, frozenset[DeviceId]] = {}

    def on_config(self, config: Config, now: float) -> None:
        """Addresses and carriers of the groups, as committed; forget those that were deleted.

        A group that names this device no more is its own until it has handed that over.
        """
        before, self._configured = self._configured, frozenset(config.virtual_servers)
        for group in before - self._configured:
            self._leaders.pop(group, None)
            self._former.pop(group, None)
            self._since.pop(group, None)
        carried = {
            server.uid: frozenset(carriers_of(config, server))
            for server in config.virtual_servers.values()
            if server.uid in config.assignments
        }
        for group in self.led() & config.assignments.keys():
            if self._me not in config.assignments[group].voters:
                # It hears no more who leads, and what it handed over is another one's.
                del self._leaders[group]
                self._former[group] = now + DRAIN_S
        kept = self.kept(now)
        self._carriers = {g: d for g, d in carried.items() if self._me in d or g in kept}
        assigned = {g: config.assignments[g].vips for g in self._carriers}
        self._vips = {
            g: frozenset(ip_address(vip).packed for vip in vips) for g, vips in assigned.items()
        }

    def on_event(self, event: Event, now: float) -> DeviceId | None:
        """Follow an event about an office; from whom the group has moved here, if it has."""
        group = event.group
        assert group is not None
        before = self._leaders.get(group)
        leader = self._me if event.kind == "primary" else event.device
        if event.kind == "released" or leader is None:
            self._leaders.pop(group, None)
        else:
            self._leaders[group] = leader
        if before == self._me != leader:
            self._former[group] = now + DRAIN_S
        if before != self._me == leader:
            self._since[group] = now
        return before if event.kind == "primary" and before != self._me else None

    @property
    def accompanied(self) -> bool:
        """Whether any group of this device has another carrier."""
        return any(len(devices) > 1 for devices in self._carriers.values())

    @property
    def carried(self) -> frozenset[GroupId]:
        """Groups that this device may be primary of."""
        return frozenset(g for g, devices in self._carriers.items() if self._me in devices)

    def vips_of(self, groups: Iterable[GroupId]) -> frozenset[bytes]:
        """Packed VIPs of groups."""
        return frozenset().union(*(self._vips.get(group, _NONE) for group in groups))

    def led(self) -> frozenset[GroupId]:
        """Groups that this device is primary of."""
        return frozenset(g for g, leader in self._leaders.items() if leader == self._me)

    def fresh(self, now: float) -> frozenset[GroupId]:
        """Groups that this device is primary of since a short time."""
        return frozenset(g for g in self.led() if now - self._since[g] < FRESH_S)

    def kept(self, now: float) -> frozenset[GroupId]:
        """Groups that this device has not handed over yet, or still forwards for."""
        return self.led() | {g for g, until in self._former.items() if now < until}

    def told(self, now: float) -> frozenset[GroupId]:
        """Groups whose flows this device tells of."""
        return self.kept(now) & self._vips.keys()

    def mine(self, now: float) -> frozenset[bytes]:
        """VIPs that are this device's, or were a moment ago."""
        return self.vips_of(self.told(now))

    def told_to(
        self, device: DeviceId, groups: Iterable[GroupId], now: float
    ) -> tuple[GroupId, ...]:
        """Of ``groups`` those whose flows this device tells ``device``."""
        told = self.told(now)
        return tuple(g for g in groups if g in told and device in self._carriers.get(g, ()))

    def wanted(self) -> dict[DeviceId, frozenset[GroupId]]:
        """Whom to ask for the flows of which groups."""
        wanted: dict[DeviceId, set[GroupId]] = {}
        for group, leader in self._leaders.items():
            if leader != self._me and self._me in self._carriers.get(group, ()):
                wanted.setdefault(leader, set()).add(group)
        return {leader: frozenset(groups) for leader, groups in wanted.items()}

    def believed(self, leader: DeviceId, groups: Iterable[GroupId]) -> list[GroupId]:
        """Of ``groups`` those about which ``leader`` is believed: its own, and its successor's
        own where this device is the successor."""
        return [g for g in groups if self._leaders.get(g) in (leader, self._me)]

    def leads(self, leader: DeviceId, group: GroupId) -> bool:
        return self._leaders.get(group) == leader

    def draining(self, groups: Iterable[GroupId], now: float) -> bool:
        """Whether this device still forwards for one of them, which another one leads by now."""
        return any(now < self._former.get(group, 0.0) for group in groups)
