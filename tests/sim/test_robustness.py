"""S15: no step of the core raises or spins, whatever arrives in whatever order."""

from __future__ import annotations

from random import Random
from typing import Any, get_args

import msgspec
import pytest

from protocol.api import HistoryEntry
from protocol.changes import SetDevice
from protocol.effects import (
    BallotsStored,
    ConfigApplied,
    ConfigStored,
    Fitness,
    GatewayHealth,
    Input,
    PersistConfig,
    PersistFailed,
    PersistWorks,
    Promote,
    Propose,
    Received,
    Stop,
)
from protocol.hearsay import Copy
from protocol.ids import NO_REVISION, SITE_GROUP, DeviceId, GroupId, Revision
from protocol.messages import Append, Claim, Lead, Message, Reason, Refusal, Rumour
from protocol.node import Node
from protocol.standing import Incarnation, PeerState
from protocol.timing import MILLISECOND, SECOND, Profile
from tests.sim.run import make_node
from tests.sim.site import Setup, build_site, device_id, group_id
from tests.sim.world import World


class Babble:
    """A source of messages of every kind, well typed and otherwise without sense."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.now = 0

    def message(self) -> Message:
        kinds = sorted(get_args(Message), key=lambda kind: kind.__name__)
        kind = self.random.choice(kinds)
        if kind is Append:
            return self._append()
        if kind is Copy:
            to = self._revision()
            base = self.random.choice([None, self._revision()])
            return Copy(base, to, (), ((to.term, to.n),), NO_REVISION)
        values = {field.name: self._value(field.name) for field in msgspec.structs.fields(kind)}
        made: Message = kind(**values)
        return made

    def _append(self) -> Append:
        to = self._revision()
        base = self.random.choice([None, self._revision(), NO_REVISION])
        epochs = ((to.term, to.n),)
        return Append(self._term(), base, to, (), epochs, self._revision(), self._revision())

    def _value(self, name: str) -> Any:
        pick = self.random.choice
        match name:
            case "group" | "virtual_server":
                return self._group()
            case "term" | "known_term" | "number" | "handover_term":
                return self._term()
            case "to":
                return pick([device_id(self.random.randrange(5)), device_id(0)])
            case "revision" | "stored" | "applied" | "committed" | "if_revision":
                return self._revision()
            case "reason":
                return pick(list(Reason))
            case "granted" | "would_vote" | "stopping":
                return pick([True, False])
            case "interval":
                return pick([20, 50, 100, 1000, 60_000]) * MILLISECOND
            case "sent" | "echo":
                return pick([0, self.now, self.now - self.random.randrange(SECOND), 1 << 62])
            case "epoch":
                return self.random.randrange(6)
            case _:
                return self._rest(name)

    def _rest(self, name: str) -> Any:
        pick = self.random.choice
        match name:
            case "claims":
                return pick([None, (), tuple(self._claim() for _ in range(3))])
            case "refused":
                return tuple(Refusal(self._group(), self._term(), Reason.STALE_TERM) for _ in "ab")
            case "leads":
                return (Lead(self._group(), self._term(), 0),)
            case "unfit" | "gateways_down":
                return ((self._group(), "why"),)
            case "id" | "version" | "detail" | "remedy":
                return pick(["r1", "r2", "x"])
            case "change":
                return SetDevice(device=pick(["a", "b", "nobody"]), drained=True)
            case "entry":
                return HistoryEntry(0, "primary", "vs0", self._group(), "a", "b", 1, "text")
            case "exit_code":
                return pick([0, 1, 4, 99, -1])
            case "seen":
                return ()
            case _:
                return self._of_membership(name)

    def _of_membership(self, name: str) -> Any:
        pick = self.random.choice
        match name:
            case "has" | "base":
                return self._revision()
            case "target":
                return device_id(self.random.randrange(5))
            case "heard" | "answer" | "all":
                return pick([True, False])
            case "buckets":
                return pick([b"", bytes(256), self.random.randbytes(256)])
            case "rumours":
                return tuple(self._rumour() for _ in range(3))
            case _:
                return self.random.randrange(1, 5)

    def _rumour(self) -> Rumour:
        pick = self.random.choice
        incarnation = Incarnation(self.random.randrange(4), self.random.randrange(3))
        device, by = device_id(self.random.randrange(5)), (device_id(1), DeviceId("f" * 16))
        return Rumour(device, incarnation, pick(list(PeerState)), pick([(), by]))

    def _claim(self) -> Claim:
        return Claim(self._group(), self._term(), self._term(), 100 * MILLISECOND)

    def _group(self) -> GroupId:
        return self.random.choice([SITE_GROUP, group_id(0), group_id(1), GroupId("f" * 16)])

    def _term(self) -> int:
        return self.random.choice([0, 1, 2, 3, 4, 5, 1 << 40])

    def _revision(self) -> Revision:
        return Revision(self.random.randrange(4), self.random.randrange(6))


def local_input(random: Random, stored: list[Revision]) -> Input:
    revision = random.choice([*stored, Revision(1, 1), Revision(7, 7)])
    choices: list[Input] = [
        ConfigStored(revision),
        ConfigApplied(revision),
        BallotsStored(random.randrange(1000)),
        PersistFailed(),
        PersistWorks(),
        Fitness(((group_id(0), "broken"),)),
        Fitness(),
        GatewayHealth(((group_id(0), "gw"),)),
        Propose("p", SetDevice(device="a", drained=True), None, 0),
        Promote("q", "vs0", "b"),
    ]
    return random.choice(choices)


@pytest.mark.parametrize("seed", range(20))
def test_no_step_raises_whatever_messages_arrive(seed: int) -> None:
    random = Random(seed)
    babble = Babble(random)
    config = build_site(Setup(profiles=(Profile.NORMAL, Profile.FAST)), random)
    now = 1000 * SECOND
    node = Node(
        device=device_id(0),
        config=config,
        committed=config.revision,
        ballots={},
        now=now,
        random=random,
        incarnation=1,
        version="0",
    )
    stored = [config.revision]
    for step in range(1500):
        now += random.choice([0, 1, random.randrange(30 * MILLISECOND), random.randrange(SECOND)])
        babble.now = now
        inputs: list[Input] = []
        for _ in range(random.randrange(4)):
            sender = DeviceId(device_id(random.randrange(4)))
            inputs.append(Received(sender, babble.message()))
        if random.random() < 0.1:
            inputs.append(local_input(random, stored))
        if step == 1400:
            inputs.append(Stop())
        effects = node.step(now, inputs)
        stored += [e.config.revision for e in effects if isinstance(e, PersistConfig)]
        assert node.wake_at() > now
        node.view()
    began = now
    for _ in range(100):
        now = node.wake_at()
        node.step(now, ())
    assert now - began > 100 * MILLISECOND


def test_a_lease_that_a_full_disk_kept_shut_is_opened_later() -> None:
    """The shell opens nothing in a step whose ballots it could not write."""
    world = World(1, Setup(devices=1), make_node)
    world.start_all()
    world.machines[0].disk.full = True
    world.run_for(2 * SECOND)
    world.machines[0].disk.full = False
    world.run_for(2 * SECOND)
    assert world.announcers(world.first_vip) == [0]
    assert not world.checker.violations
