"""All checks of one world, and the counters of what it went through.

Safety is checked at every event: see ``check_votes`` (S2-S4), ``check_leases``
(S1, S5-S9) and ``check_config`` (S10 to S13, S17, S18); S15 is in ``shell``; liveness
and quiet (L1-L7, S14, S16) are in ``liveness``. ``seen`` counts what happened,
so that a batch of seeds can prove that it visited the interesting states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from protocol.config import Config
from protocol.effects import (
    Acquire,
    Ballot,
    Event,
    Input,
    Lame,
    Outcome,
    Received,
    Refresh,
    Release,
)
from protocol.ids import SITE_GROUP, DeviceId, GroupId, Revision
from protocol.messages import Ack, Answer, Beat, HandOver, Resign, Stored, Vote, Voted
from protocol.timing import INTERVAL_NS, Profile
from tests.sim.check_config import ConfigCheck
from tests.sim.check_leases import LeaseCheck
from tests.sim.check_votes import VoteCheck

if TYPE_CHECKING:
    from tests.sim.machine import Machine
    from tests.sim.shell import Process
    from tests.sim.world import World


RULES = {
    "S1": "one kernel at most announces a VIP",
    "S2": "one primary per group and term",
    "S3": "terms never decrease and nobody votes twice in one, across restarts",
    "S4": "a promise that holds is not broken by a vote",
    "S5": "a lease ends before the promises that it rests on",
    "S6": "a lease rests on a fresh round of a majority, or lasts shorter by as much",
    "S7": "no lease is longer than its profile allows",
    "S8": "a drained, unfit or witness device takes nothing, nor anyone what is frozen",
    "S9": "a device forwards beside another only after its own hand-over",
    "S10": "nothing is done or confirmed for a term older than one that is known",
    "S11": "what was committed is never lost; of two writes on one revision one commits",
    "S12": "nothing that was deleted comes back",
    "S13": "voters change one at a time",
    "S14": "nothing moves without a fault",
    "S15": "no step raises or spins",
    "S16": "the kernel is as the role says",
    "S17": "what a device said to be in force it never falls behind, across restarts",
    "S18": "the devices of the Site are a majority of every list of voters",
    "L1": "one primary soon after healing",
    "L2": "all agree on it",
    "L3": "all have the same configuration",
    "L7": "every command of an operator ends, once",
}
"""Every rule that is checked; ``fail`` takes no other."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the checks allow, nanoseconds; on purpose not taken from the code under test."""

    promise: int
    lease: int
    fresh: int

    @classmethod
    def of(cls, profile: Profile) -> Bounds:
        t = INTERVAL_NS[profile]
        return cls(promise=3 * t, lease=t * 5 // 2, fresh=t * 2 // 5)


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken invariant."""

    rule: str
    at: int
    """Real time, nanoseconds."""
    text: str

    def __str__(self) -> str:
        return f"{self.rule} at {self.at / 1e6:.3f} ms: {self.text}"


class Checker:
    """What the world tells of everything that happens in it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seen: Counter[str] = Counter()
        self.violations: list[Violation] = []
        self.failed = False
        self.moved_at = 0
        """Real time of the newest hand-over."""
        self.ignored: frozenset[str] = frozenset()
        """Rules that do not count here: an ablation asks for one rule alone."""
        self.votes = VoteCheck(self)
        self.leases = LeaseCheck(self)
        self.configs = ConfigCheck(self, world.config)
        self._hears: dict[type[Any], Callable[[DeviceId, DeviceId, Any], None]] = {
            Ack: self.leases.hears_ack,
            Beat: self.votes.hears_beat,
            HandOver: self.votes.hears_hand_over,
            Resign: self.votes.hears_resign,
            Vote: self.votes.hears_vote,
            Voted: self.leases.hears_voted,
        }
        self.says: dict[type[Any], Callable[[Process, DeviceId, Any], None]] = {
            Ack: self.votes.says_ack,
            Answer: self._says_answer,
            Beat: self._says_beat,
            HandOver: self._says_hand_over,
            Stored: self._says_stored,
            Vote: self._says_vote,
            Voted: self._says_voted,
        }
        """What is looked at when a device sends it, before it is on its way."""
        self.unfit: dict[int, frozenset[GroupId]] = {}
        self._first_stored: dict[DeviceId, int] = {}
        self._bounds: dict[GroupId, Bounds | None] = {
            uid: Bounds.of(a.profile) for uid, a in world.config.assignments.items()
        }
        self._voters: dict[GroupId, tuple[DeviceId, ...]] = {
            uid: a.voters for uid, a in world.config.assignments.items()
        }

    def fail(self, rule: str, text: str) -> None:
        """Record a violation; the world stops at the first that counts."""
        assert rule in RULES
        if rule in self.ignored:
            return
        violation = Violation(rule, self.world.now, text)
        self.violations.append(violation)
        self.failed = True
        self.world.log(None, f"VIOLATION {violation}")

    def bounds(self, group: GroupId) -> Bounds | None:
        """The bounds of a group; None where its profile changed, so that times are in doubt."""
        return self._bounds.get(group)

    def voters(self, process: Process, group: GroupId) -> tuple[DeviceId, ...]:
        """The voters of a group; empty where they changed, so that support is not judged."""
        return self._voters.get(group, ())

    def in_force(self, device: DeviceId) -> Config | None:
        """What a device that runs has in force."""
        process = self.world.running(self.world.index_of[device])
        return process.in_force if process is not None else None

    def parted(self, one: Config | None, other: Config | None) -> bool:
        """Whether only one of two devices has heard of an operator's force, if there is any."""
        if not self.leases.by_force:
            return False
        return one is None or other is None or self.configs.parted(one, other)

    # Processes

    def starting(self, machine: Machine) -> None:
        self.votes.restarted(machine.id)
        self.leases.restarted(machine.id)
        self.unfit.pop(machine.index, None)
        self.seen["start"] += 1

    def power_lost(self, machine: Machine) -> None:
        self.leases.power_lost(machine, self.world.now)

    def paused(self, machine: Machine) -> None:
        self.leases.paused(machine, self.world.now)
        self.seen["device paused"] += 1

    def resumed(self, machine: Machine) -> None:
        self.leases.resumed(machine, self.world.now)

    def stopped(self, process: Process) -> None:
        self.seen["stopped"] += 1
        for vip in process.opened:
            if process.machine.kernel.announces(vip, self.world.now):
                self.fail("S16", f"{process.name} has stopped but announces {vip}")

    # Messages

    def stepping(self, device: DeviceId, inputs: list[Input]) -> None:
        """A core is about to take these inputs."""
        self.votes.begin_step(device)
        for item in inputs:
            if type(item) is Received:
                hear = self._hears.get(type(item.message))
                if hear:
                    hear(device, item.sender, item.message)

    def _says_beat(self, process: Process, to: DeviceId, message: Beat) -> None:
        if message.claims is not None:
            self.votes.says_beat(process, message)
            self.leases.says_beat(process.machine.id, to, message)

    def _says_stored(self, process: Process, to: DeviceId, message: Stored) -> None:
        self.votes.says_stored(process, message)
        self.configs.says_stored(process, message)

    def _says_answer(self, process: Process, to: DeviceId, message: Answer) -> None:
        if not message.would_vote:
            self.seen[f"would not: {message.reason.name}"] += 1

    def _says_vote(self, process: Process, to: DeviceId, message: Vote) -> None:
        self.votes.says_vote(process, message)
        self.leases.says_vote(process, message)

    def _says_voted(self, process: Process, to: DeviceId, message: Voted) -> None:
        self.votes.says_voted(process, to, message)
        machine = process.machine
        for vip in self.world.vips_of(message.group):
            if message.granted and machine.kernel.announces(vip, self.world.now):
                self.fail("S4", f"{process.name} votes for {to} while it announces {vip} itself")

    def _says_hand_over(self, process: Process, to: DeviceId, message: HandOver) -> None:
        self.votes.says_hand_over(process, message)
        self.seen["hand-over"] += 1

    # Effects

    def persisting(self, process: Process, ballots: Mapping[GroupId, Ballot]) -> None:
        self.votes.persisting(process, ballots)

    def storing(self, process: Process, config: Config, committed: Revision) -> None:
        self.configs.storing(process, config, committed)
        for uid, assignment in config.assignments.items():
            bounds = Bounds.of(assignment.profile)
            if self._bounds.setdefault(uid, bounds) != bounds:
                self._bounds[uid] = None
            if self._voters.setdefault(uid, assignment.voters) != assignment.voters:
                self._voters[uid] = ()

    def applying(self, process: Process, config: Config) -> None:
        self.configs.applying(process, config)
        self.leases.freezing(process, config)
        process.in_force = config

    def acquiring(self, process: Process, effect: Acquire, until: int) -> None:
        self.votes.is_primary(process.machine.id, effect.group, effect.term)
        self.leases.acquiring(process, effect, until)
        process.opened.update(effect.vips)
        self.seen["acquire"] += 1

    def refreshed(self, process: Process, effect: Refresh, until: int) -> None:
        self.leases.refreshed(process, effect, until)

    def released(self, process: Process, effect: Release) -> None:
        self.leases.released(process, effect)
        self.seen["release"] += 1

    def lamed(self, process: Process, effect: Lame) -> None:
        self.leases.lamed(process, effect)
        self.seen["lame"] += 1

    def ended(self, process: Process, outcome: Outcome) -> None:
        self.configs.ended(process, outcome)

    def happened(self, process: Process, event: Event) -> None:
        self.seen[f"event {event.kind}"] += 1
        if event.kind == "recover":
            self.configs.forcing(event.term)
        if event.kind == "lame":
            self.moved_at = self.world.now
        if event.kind == "primary" and event.group and event.device:
            self.votes.is_primary(event.device, event.group, event.term)
            if event.group != SITE_GROUP:
                self.leases.became_primary(process, event.group)
