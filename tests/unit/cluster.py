"""A Site of real cores on perfect links, for tests that read like stories.

Messages take 0.2 ms, disks 1 ms; nothing is lost. The simulator in
``tests/sim`` is for everything rougher than that.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from random import Random
from typing import TypeVar

from protocol.config import Config, Edit
from protocol.effects import (
    Adopt,
    Apply,
    Ballot,
    BallotsStored,
    ConfigApplied,
    ConfigStored,
    Effect,
    Input,
    PersistBallots,
    PersistConfig,
    Received,
    Send,
)
from protocol.flows import Flush, Flushed
from protocol.ids import NO_REVISION, DeviceId, GroupId, Revision
from protocol.node import Node
from protocol.objects import Device, SiteRecord, VirtualServer
from protocol.timing import MILLISECOND
from protocol.view import GroupView, Role

FLUSH_NS = MILLISECOND
LINK_NS = MILLISECOND // 5
DISK_NS = MILLISECOND
RDP = GroupId("b" * 16)
E = TypeVar("E")


def device(n: int, **changes: object) -> Device:
    fields = {"name": f"d{n}", "public_key": "x" * 40, "addresses": (), "joined": n}
    return Device(id=DeviceId(f"{n:016x}"), **{**fields, **changes})  # type: ignore[arg-type]


def first_config(devices: list[Device], *servers: VirtualServer) -> Config:
    """A Site founded by the first device, that already knows the others."""
    site = SiteRecord(id="a" * 16, name="paris", voters=(devices[0].id,))
    return Config().edited(Edit(put=(site, *devices, *servers)), 1)


def server(**changes: object) -> VirtualServer:
    fields = {"uid": RDP, "name": "rdp", "vips": ("10.0.0.1/24",), "seed": 1}
    return VirtualServer(**{**fields, **changes})  # type: ignore[arg-type]


class Cluster:
    """Devices 1 to ``n``; ``now`` is everyone's clock."""

    def __init__(self, n: int = 3, servers: tuple[VirtualServer, ...] | None = None) -> None:
        self.now = 0
        self.devices = [device(i) for i in range(1, n + 1)]
        self.config = first_config(self.devices, *(servers or (server(),)))
        self.nodes: dict[DeviceId, Node] = {}
        self.ballots: dict[DeviceId, dict[GroupId, Ballot]] = {}
        self.disks: dict[DeviceId, tuple[Config, Revision]] = {}
        self.former: dict[DeviceId, Config] = {}
        """What each device had stored before the last time."""
        self.effects: list[tuple[int, DeviceId, Effect]] = []
        self.drop: Callable[[DeviceId, DeviceId, object], bool] = lambda a, b, m: False
        self.flush_ns = FLUSH_NS
        self.vote_ns: dict[DeviceId, int] = {}
        """How long a device's disk takes for its votes; those that are missing take no time."""
        self._votes: dict[tuple[DeviceId, int], dict[GroupId, Ballot]] = {}
        self._queue: list[tuple[int, int, DeviceId, Input]] = []
        self._number = count()
        for each in self.devices:
            self.ballots[each.id] = {}
            self._start(each.id, Config(), NO_REVISION)
            self.give(each.id, Adopt(self.config))

    def _start(
        self, id_: DeviceId, config: Config, committed: Revision, lost: bool = False
    ) -> None:
        self.nodes[id_] = Node(
            device=id_, config=config, committed=committed, ballots=self.ballots[id_],
            now=self.now, random=Random(id_), incarnation=self.now + 1, version="1.0.0",
            ballots_lost=lost, in_force=self.former.get(id_),
        )  # fmt: skip

    def give(self, id_: DeviceId, item: Input, after: int = 0) -> None:
        heapq.heappush(self._queue, (self.now + after, next(self._number), id_, item))

    def kill(self, id_: DeviceId) -> None:
        del self.nodes[id_]

    def restart(self, id_: DeviceId, *, torn: bool = False) -> None:
        """Start again; ``torn``: the file with its ballots was damaged."""
        config, committed = self.disks[id_]
        if torn:
            self.ballots[id_] = {}
        self._start(id_, config, committed, lost=torn)

    def run(self, ms: float) -> None:
        """Let ``ms`` milliseconds pass."""
        end = self.now + int(ms * MILLISECOND)
        while True:
            wakes = [node.wake_at() for node in self.nodes.values()]
            due = min([*wakes, *(item[0] for item in self._queue[:1])], default=end)
            if due >= end:
                break
            self.now = max(self.now, due)
            if self._queue and self._queue[0][0] <= self.now:
                _, _, id_, item = heapq.heappop(self._queue)
                self._step(id_, [item])
                continue
            for id_ in [i for i, node in self.nodes.items() if node.wake_at() <= self.now]:
                self._step(id_, [])
        self.now = end

    def run_until(self, condition: Callable[[], bool], ms: float = 5000) -> None:
        end = self.now + int(ms * MILLISECOND)
        while not condition():
            assert self.now < end, "the condition did not come true in time"
            self.run(1)

    def _step(self, id_: DeviceId, items: list[Input]) -> None:
        if id_ not in self.nodes:
            return
        for item in items:
            if isinstance(item, BallotsStored):
                self.ballots[id_].update(self._votes[id_, item.number])
        for effect in self.nodes[id_].step(self.now, items):
            self.effects.append((self.now, id_, effect))
            match effect:
                case Send(to, message):
                    if not self.drop(id_, to, message):
                        self.give(to, Received(id_, message), LINK_NS)
                case PersistBallots(number, ballots):
                    self._votes[id_, number] = ballots
                    self.give(id_, BallotsStored(number), self.vote_ns.get(id_, 0))
                case PersistConfig(config, committed):
                    if id_ in self.disks:
                        self.former[id_] = self.disks[id_][0]
                    self.disks[id_] = (config, committed)
                    self.give(id_, ConfigStored(config.revision), DISK_NS)
                case Flush(group, to):
                    self.give(id_, Flushed(group, to), self.flush_ns)
                case Apply(config):
                    self.give(id_, ConfigApplied(config.revision), DISK_NS)

    def all_of(self, kind: type[E], since: int = 0) -> list[tuple[int, DeviceId, E]]:
        """Effects of one kind: (when, on which device, effect)."""
        return [(at, who, e) for at, who, e in self.effects if isinstance(e, kind) and at >= since]

    def sent_to(self, to: DeviceId, since: int = 0) -> list[tuple[int, DeviceId, Send]]:
        """Messages to one device: (when, from which device, the send)."""
        return [(at, who, e) for at, who, e in self.all_of(Send, since) if e.to == to]

    def view(self, id_: DeviceId, group: GroupId = RDP) -> GroupView:
        nothing = GroupView(group, Role.SECONDARY, 0, None, 0, (), "unknown")
        groups = self.nodes[id_].view().groups
        return next((g for g in groups if g.group == group), nothing)

    def primary(self, group: GroupId = RDP) -> DeviceId | None:
        found = [i for i in self.nodes if self.view(i, group).role is Role.PRIMARY]
        assert len(found) <= 1
        return found[0] if found else None

    def settled(self) -> Cluster:
        """Run until there is a primary and a coordinator, and all follow them."""
        self.run_until(lambda: self.primary() is not None)
        self.run(1500)
        return self
