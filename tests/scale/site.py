"""A large Site of real cores, connected as they wish; messages and bytes are counted.

:mod:`tests.scale.large` prints the figures of docs/scale.md.

A message passes from one device to another if the receiver has connected to the
sender, which takes a moment and is seen by the other side. Links take 1 ms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from random import Random

from protocol.changes import SetDevice
from protocol.config import Config, Edit
from protocol.effects import (
    Apply,
    BallotsStored,
    ConfigApplied,
    ConfigStored,
    Connect,
    Dialled,
    Input,
    Outcome,
    PersistBallots,
    PersistConfig,
    Propose,
    Received,
    Send,
)
from protocol.flows import Flush, Flushed
from protocol.ids import DeviceId, GroupId
from protocol.membership import statement
from protocol.messages import Message
from protocol.node import Node
from protocol.objects import Assignment, Device, SiteRecord, Value, VirtualServer
from protocol.standing import PeerState
from protocol.timing import MILLISECOND, SECOND, Profile
from protocol.tombstones import Retention
from protocol.versions import OURS, Range
from protocol.wire import encode

LINK_NS = MILLISECOND
DIAL_NS = 20 * MILLISECOND
VOTERS = 3


def device_id(number: int) -> DeviceId:
    return DeviceId(f"{number:016x}")


def large_site(devices: int, servers: int, random: Random) -> Config:
    """Virtual Servers of three voters each, on devices drawn at random."""
    ids = [device_id(n) for n in range(1, devices + 1)]
    values: list[Value] = [SiteRecord(id="a" * 16, name="large", voters=tuple(ids[:7]))]
    for number, each in enumerate(ids, 1):
        name = f"d{number}"
        values.append(Device(id=each, name=name, public_key="x" * 40, addresses=(), joined=number))
    for number in range(servers):
        uid, vip = GroupId(f"{0xF0000 + number:016x}"), f"10.{number // 250}.{number % 250}.1"
        voters, profile = tuple(random.sample(ids, VOTERS)), Profile.CALM
        values.append(
            VirtualServer(
                uid=uid,
                name=f"vs{number}",
                vips=(f"{vip}/24",),
                devices=voters,
                seed=1,
                profile=profile,
            )
        )
        values.append(
            Assignment(
                uid=uid, number=1, voters=voters, vips=(vip,), slowest=profile, profile=profile
            )
        )
    return Config().edited(Edit(put=tuple(values)), 1)


class Large:
    """Devices 1 to ``devices``, all started within the first second."""

    def __init__(
        self,
        devices: int,
        servers: int,
        seed: int = 1,
        loss: float = 0.0,
        protocol: Range = OURS,
        retention: Retention = Retention(),  # noqa: B008 - frozen
    ) -> None:
        self.now = 0
        self.loss = loss
        self.random = Random(seed)
        self.config = large_site(devices, servers, self.random)
        self.protocol = protocol
        self.retention = retention
        self.nodes: dict[DeviceId, Node] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.dials: dict[DeviceId, frozenset[DeviceId]] = {}
        self.sent: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.by_device: Counter[DeviceId] = Counter()
        """Bytes that each device sent."""
        self._queue: list[tuple[int, int, DeviceId, Input | None]] = []
        self._woken: dict[DeviceId, int] = {}
        self._number = count()
        self._sized: tuple[Message | None, int] = None, 0
        for each in self.config.devices:
            self.push(self.random.randrange(SECOND), each, None)

    def push(self, due: int, device: DeviceId, item: Input | None) -> None:
        heappush(self._queue, (due, next(self._number), device, item))

    def _start(self, device: DeviceId) -> None:
        self.dials[device] = frozenset()
        self.nodes[device] = Node(
            device=device, config=self.config, committed=self.config.revision, ballots={},
            now=self.now, random=Random(device), incarnation=1, version="1.0.0",
            protocol=self.protocol, retention=self.retention,
        )  # fmt: skip

    def kill(self, device: DeviceId) -> None:
        del self.nodes[device]
        self.dials[device] = frozenset()

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + int(seconds * SECOND)
        while self._queue and self._queue[0][0] <= end:
            self.now, _, device, item = heappop(self._queue)
            if device not in self.nodes:
                if item is not None or device in self.dials:
                    continue
                self._start(device)
            elif item is None and self.nodes[device].wake_at() > self.now:
                continue
            self._step(device, [] if item is None else [item])
        self.now = end

    def _step(self, device: DeviceId, items: list[Input]) -> None:
        for effect in self.nodes[device].step(self.now, items):
            match effect:
                case Send(to, message):
                    kind = type(message).__name__
                    self.sent[kind] += 1
                    self.bytes[kind] += (size := self._size(message))
                    self.by_device[device] += size
                    if device in self.dials.get(to, ()) and self.random.random() >= self.loss:
                        self.push(self.now + LINK_NS, to, Received(device, message))
                case Connect(_, peers):
                    new = frozenset(peers)
                    for peer in sorted(new - self.dials[device]):
                        self.push(self.now + DIAL_NS, peer, Dialled(device))
                    self.dials[device] = new
                case Flush(group, to):
                    self.push(self.now + MILLISECOND, device, Flushed(group, to))
                case PersistBallots(number, _):
                    self.push(self.now + MILLISECOND, device, BallotsStored(number))
                case PersistConfig(config, _):
                    self.push(self.now + MILLISECOND, device, ConfigStored(config.revision))
                case Outcome():
                    self.outcomes[effect.request] = effect
                case Apply(config):
                    self.push(self.now + MILLISECOND, device, ConfigApplied(config.revision))
        wake = self.nodes[device].wake_at()
        if self._woken.get(device) != wake:
            self._woken[device] = wake
            self.push(wake, device, None)

    def _size(self, message: Message) -> int:
        """Bytes of a message; one that goes to many is encoded once."""
        if self._sized[0] is not message:
            self._sized = message, len(encode(message))
        return self._sized[1]

    # What is measured

    def forget_counts(self) -> None:
        """Count from now on."""
        for counter in (self.sent, self.bytes, self.by_device):
            counter.clear()

    def knowing(self, about: DeviceId, state: PeerState) -> int:
        """How many devices have ``about`` in this state."""
        return sum(
            node.neighbourhood.membership.state(about) is state
            for device, node in self.nodes.items()
            if device != about
        )

    def all_know_all(self) -> bool:
        """Whether every device runs, and has heard of every other one that it is alive."""
        if len(self.nodes) < len(self.config.devices):
            return False
        return not any(node.neighbourhood.membership.suspects for node in self.nodes.values())

    def acquaint(self) -> None:
        """Everyone knows what everyone told of itself, as after a long time."""
        told = {d: n.roster.told for d, n in self.nodes.items() if n.roster.told is not None}
        for node in self.nodes.values():
            for device, info in told.items():
                if device != node.me:
                    node.neighbourhood.membership.hear(statement(device, info), self.now)
            node.neighbourhood.gossip.fall_silent()

    def give(self, at: DeviceId, item: Input) -> None:
        """The shell of ``at`` hands something to its core."""
        self.push(self.now, at, item)

    def change(self, at: DeviceId) -> None:
        """An operator of ``at`` changes something."""
        self.give(at, Propose("r", SetDevice("d2", drained=True), None, 0))

    def changed(self) -> int:
        """How many devices have the change in force."""
        second = device_id(2)
        in_force = (node.configuration.in_force.devices for node in self.nodes.values())
        return sum(devices[second].drained for devices in in_force)

    def until(self, condition: Callable[[], bool], limit: float, every: float = 0.25) -> float:
        """Seconds until the condition holds; -1 if it does not in time."""
        begin = self.now
        while self.now - begin < limit * SECOND:
            if condition():
                return (self.now - begin) / SECOND
            self.run(every)
        return -1.0

    def until_changed(self, limit: float) -> float:
        """Seconds until every device has the change in force; -1 if not all do in time."""
        return self.until(lambda: self.changed() >= len(self.nodes), limit, 0.05)

    def until_dead(self, about: DeviceId, limit: float) -> float:
        """Seconds until every device calls ``about`` dead; -1 if not all do in time."""
        return self.until(lambda: self.knowing(about, PeerState.DEAD) >= len(self.nodes), limit)
