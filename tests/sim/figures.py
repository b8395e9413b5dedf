"""Runs whose results are figures: takeovers under faults, hours without one, speed.

Printed by ``scripts/sim --hunt N``, ``--calm HOURS`` and ``--speed``; docs/protocol.md
has the results.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from time import monotonic, process_time
from typing import Any

from protocol.effects import Effect, Input
from protocol.ids import DeviceId
from protocol.node import Node
from protocol.timing import MILLISECOND, SECOND, Profile, Timing
from protocol.view import NodeView
from tests.sim import network
from tests.sim.run import make_node, quiet_world, run_seed
from tests.sim.site import Setup
from tests.sim.world import CoreFactory, World

CHUNK_NS = 600 * SECOND
"""One world of a long calm run."""
STALL_EVERY_NS = 2 * SECOND
"""Mean time between two stalls of a calm run."""
WARM_S = 6
"""Seconds after which a Site is at rest."""


@dataclass
class Hunt:
    """What many seeds gave."""

    takeovers: int = 0
    seeds: int = 0
    simulated_ns: int = 0
    overlap: int = 0
    after_pauses: int = 0
    """Takeovers beside a device that had been paused as a whole."""
    longest_pause_overlap: int = 0
    cpu_s: float = 0.0
    broken: list[str] = field(default_factory=list)
    rules: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        simulated = self.simulated_ns / SECOND
        speed = simulated / (self.cpu_s or 1)
        pauses, longest = self.after_pauses, self.longest_pause_overlap / MILLISECOND
        lines = [
            f"{self.takeovers} takeovers in {self.seeds} seeds, {simulated:.0f} simulated s",
            f"two announcers: {self.overlap / MILLISECOND:.3f} ms",
            f"beside a device that had been paused as a whole: {pauses} times, {longest:.0f} ms",
            f"speed: {speed:.0f} x real time",
            f"broken: {dict(self.rules) or 'none'}",
        ]
        return "\n".join(lines + self.broken[:20])


def hunt(
    target: int, sizes: tuple[int, ...], first: int, seconds: int, minutes: float | None = None
) -> Hunt:
    """Run seeds that aim at primaries until there were ``target`` takeovers."""
    found = Hunt()
    end = monotonic() + minutes * 60 if minutes else None
    seed = first
    while found.takeovers < target and (end is None or monotonic() < end):
        size = sizes[seed % len(sizes)]
        result = run_seed(seed, size, seconds * SECOND, hunt=True)
        found.takeovers += len(result.gaps)
        found.seeds += 1
        found.simulated_ns += result.simulated_ns
        found.overlap += result.overlap
        found.after_pauses += result.seen["two owners after a pause"]
        found.longest_pause_overlap = max(found.longest_pause_overlap, result.pause_overlap)
        found.cpu_s += result.cpu_s
        if not result.ok:
            found.rules.update({v.rule for v in result.violations})
            again = f"scripts/sim --replay {seed} --hunted --devices {size} --seconds {seconds}"
            found.broken.append(f"seed {seed}: {result.violations[0]}\n  {again}")
        if found.seeds % 20 == 0:
            print(f"\r{found.takeovers} of {target}", end="", file=sys.stderr, flush=True)
        seed += 1
    print(file=sys.stderr)
    return found


@dataclass
class Calm:
    """Hours of operation in which nothing should move."""

    profile: Profile
    loss: float
    simulated_ns: int = 0
    stalls: int = 0
    takeovers: int = 0
    reopened: int = 0
    """The same device opened its own lease again."""
    silent_ns: int = 0
    """Without an announcer."""
    cpu_s: float = 0.0
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        hours = self.simulated_ns / SECOND / 3600
        ratio = self.simulated_ns / SECOND / (self.cpu_s or 1)
        text = (
            f"{hours:.1f} simulated hours, {self.profile}, {self.loss:.0%} loss, {self.stalls} "
            f"stalls up to T: {self.takeovers} takeovers, {self.reopened} leases opened again, "
            f"{self.silent_ns / MILLISECOND:.0f} ms without an announcer, {ratio:.0f} x real time"
        )
        return "\n".join([text, *self.broken[:5]])


def calm(hours: float, profile: Profile, loss: float = 0.05, first: int = 0) -> Calm:
    """Operation on links that lose messages, with single devices stopped for up to T."""
    found = Calm(profile, loss)
    seed, began = first, process_time()
    while found.simulated_ns < hours * 3600 * SECOND:
        world = quiet_world(seed, Setup(profiles=(profile,)))
        world.network.quality = network.Quality(loss=loss)
        started, gaps = world.now, len(world.checker.leases.gaps)
        found.stalls += _with_stalls(world, profile, Random(seed))
        for _, _, gap, moved in world.checker.leases.gaps[gaps:]:
            found.takeovers += moved
            found.reopened += not moved
            found.silent_ns += gap
        found.broken += [f"seed {seed}: {v}" for v in world.checker.violations]
        found.simulated_ns += world.now - started
        found.cpu_s = process_time() - began
        seed += 1
        print(f"\r{found.simulated_ns / SECOND / 3600:.1f} h", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def _with_stalls(world: World, profile: Profile, random: Random) -> int:
    """Run one chunk; how often a device was stopped."""
    end, unit, stalls = world.now + CHUNK_NS, Timing.of(profile).interval, 0
    while world.now < end and not world.checker.failed:
        world.run_for(max(unit * 2, int(random.expovariate(1.0) * STALL_EVERY_NS)))
        world.stall(random.randrange(len(world.machines)), random.randrange(unit))
        stalls += 1
    return stalls


Step = tuple[list[Effect], int]
"""Effects of one step, and when the next one is due."""


class Recorder(Node):
    """A core that writes down what it does."""

    def __init__(self, tapes: dict[DeviceId, list[Step]], **arguments: Any) -> None:
        self._tape: list[Step] = []
        tapes[arguments["device"]] = self._tape
        super().__init__(**arguments)

    def step(self, now: int, inputs: Iterable[Input]) -> list[Effect]:
        effects = super().step(now, inputs)
        self._tape.append((effects, self.wake_at()))
        return effects


class Player:
    """A core that does the same again, and costs nothing."""

    def __init__(self, tapes: dict[DeviceId, list[Step]], **arguments: Any) -> None:
        self._steps = iter(tapes[arguments["device"]])
        self._wake = 0

    def step(self, now: int, inputs: Iterable[Input]) -> list[Effect]:
        effects, self._wake = next(self._steps)
        return effects

    def wake_at(self) -> int:
        return self._wake

    def view(self) -> NodeView:
        raise NotImplementedError("nobody looks at a Site at rest")


def speed(devices: int, seconds: int = 120) -> str:
    """How much faster than real time a Site at rest is simulated, and whose time it is."""
    tapes: dict[DeviceId, list[Step]] = {}
    whole = _timed(devices, seconds, make_node)
    _timed(devices, seconds, partial(Recorder, tapes))
    alone = _timed(devices, seconds, partial(Player, tapes))
    steps = sum(map(len, tapes.values())) * seconds / (seconds + WARM_S)
    core = whole - alone
    return (
        f"{devices} devices at rest: {seconds / whole:.0f} x real time; {steps / seconds:.0f} "
        f"steps/s, {core / steps * 1e6:.1f} us in the core and {alone / steps * 1e6:.1f} us in the "
        f"simulator for each; the simulator alone is {seconds / alone:.0f} x"
    ).replace("; ", "\n  ")


def _timed(devices: int, seconds: int, core: CoreFactory) -> float:
    """Seconds of processor time for so many simulated ones: the least of three runs."""
    took = []
    for _ in range(3):
        world = World(1, Setup(devices=devices), core)
        world.start_all()
        world.run_until(WARM_S * SECOND)
        began = process_time()
        world.run_for(seconds * SECOND)
        took.append(process_time() - began)
    return min(took)
