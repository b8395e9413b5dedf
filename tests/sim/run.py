"""One seed, many seeds: the way from a number to a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from time import process_time
from typing import Any

from protocol.node import Node
from protocol.timing import MILLISECOND, SECOND, Profile
from tests.sim import faults, liveness, network
from tests.sim.checkers import Violation
from tests.sim.faults import Fault
from tests.sim.site import Setup
from tests.sim.world import CoreFactory, World

WARM_UP_NS = 3 * SECOND
MIXES: tuple[tuple[Profile, ...], ...] = (
    (Profile.NORMAL,),
    (Profile.NORMAL, Profile.NORMAL),
    (Profile.FAST,),
    (Profile.FAST, Profile.NORMAL),
    (Profile.CALM, Profile.FAST, Profile.NORMAL),
)
HUNTED: tuple[tuple[Profile, ...], ...] = (
    (Profile.FAST,),
    (Profile.FAST,),
    (Profile.FAST, Profile.NORMAL),
)

PARTING = 3
"""From larger Sites devices are removed."""
UNFLUSHED = 0.2
"""While faults happen, so many successors cannot enter the flows in time."""


@dataclass(frozen=True)
class Result:
    """What one seed gave."""

    seed: int
    devices: int
    style: str
    violations: tuple[Violation, ...]
    events: int
    simulated_ns: int
    hash: int
    """Digest of every step of every device: equal for equal histories."""
    gaps: tuple[int, ...]
    """Nanoseconds without an announcer at each change of the announcing device."""
    overlap: int
    pause_overlap: int
    """Most nanoseconds with two announcers of which one device had been paused as a whole."""
    seen: Counter[str] = field(default_factory=Counter)
    cpu_s: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.violations


def make_node(**arguments: Any) -> Node:
    """The real core."""
    return Node(**arguments)


def setup_of(seed: int, devices: int, hunt: bool = False) -> Setup:
    """The Site that a seed runs on."""
    random = Random(seed * 7 + 101)
    if hunt:
        return Setup(devices=devices, profiles=random.choice(HUNTED))
    few = devices > PARTING and Random(seed * 7 + 106).random() < 0.4
    return Setup(
        devices=devices,
        carriers=3 if few else None,
        profiles=random.choice(MIXES),
        witness=devices > 2 and random.random() < 0.2,
        codec=random.random() < 0.1,
        preempt=random.choice((0, 0, 0, 1, 3)),
    )


def plan(seed: int, devices: int, safety_ns: int, hunt: bool = False) -> tuple[str, list[Fault]]:
    """The faults that a seed means."""
    random = Random(seed * 7 + 102)
    style, planned = faults.schedule(random, devices, WARM_UP_NS // 3, safety_ns, hunt)
    other = Random(seed * 7 + 107)
    if devices > PARTING and not hunt and other.random() < 0.5:
        planned += faults.partings(other, devices, WARM_UP_NS, safety_ns)
    return style, sorted(planned, key=lambda fault: fault.at)


def run_seed(
    seed: int,
    devices: int = 3,
    safety_ns: int = 20 * SECOND,
    *,
    make_core: CoreFactory = make_node,
    trace: Callable[[str], None] | None = None,
    schedule: list[Fault] | None = None,
    hunt: bool = False,
    ignored: Iterable[str] = (),
    prepare: Callable[[World], None] | None = None,
) -> Result:
    """Run one seed: faults for ``safety_ns``, then heal and demand order.

    ``hunt`` aims most faults at whoever is primary. ``schedule`` replaces the
    faults that the seed means, for shrinking.
    ``make_core``, ``prepare`` and ``ignored`` let an ablation break one rule
    on purpose and ask whether a checker notices.
    """
    began = process_time()
    world = World(seed, setup_of(seed, devices, hunt), make_core, trace)
    world.checker.ignored = frozenset(ignored)
    if prepare:
        prepare(world)
    style, planned = plan(seed, devices, safety_ns, hunt)
    faults.inject(world, planned if schedule is None else schedule, seed)
    world.unflushed = UNFLUSHED
    world.start_all()
    world.run_until(safety_ns)
    world.unflushed = 0.0
    if not world.checker.failed:
        core = liveness.heal_core(world, Random(seed * 7 + 103))
        liveness.check(world, core)
    return _result(world, style, process_time() - began)


def _result(world: World, style: str, cpu_s: float) -> Result:
    checker = world.checker
    gaps = tuple(gap for _, _, gap, moved in checker.leases.gaps if moved)
    return Result(
        seed=world.seed,
        devices=len(world.machines),
        style=style,
        violations=tuple(checker.violations),
        events=world.events,
        simulated_ns=world.now,
        hash=world.hash,
        gaps=gaps,
        overlap=checker.leases.overlap,
        pause_overlap=checker.leases.pause_overlap,
        seen=checker.seen,
        cpu_s=cpu_s,
    )


def run_many(
    seeds: Iterable[int], devices: tuple[int, ...] = (3,), safety_ns: int = 20 * SECOND
) -> Iterator[Result]:
    """Run seeds one after the other, over the given sizes of Site in turn."""
    for seed in seeds:
        yield run_seed(seed, devices[seed % len(devices)], safety_ns)


def quiet_world(
    seed: int, setup: Setup, quality: network.Quality = network.LAN, settle_ns: int = 4 * SECOND
) -> World:
    """A Site without faults in which every Virtual Server has its primary."""
    world = World(seed, setup, make_node)
    world.network.quality = quality
    world.start_all()
    world.run_until(settle_ns + Random(seed).randrange(200) * MILLISECOND // 2)
    return world


def takeover(seed: int, setup: Setup, quality: network.Quality = network.LAN) -> int | None:
    """Nanoseconds from a power cut of the primary to the next lease; None if none came in 5 s."""
    world = quiet_world(seed, setup, quality)
    before = world.announcers(world.first_vip)
    assert len(before) == 1, f"seed {seed}: {world.first_vip} is announced by {before}"
    crashed = world.now
    world.crash(before[0])
    for _ in range(500):
        world.run_for(10 * MILLISECOND)
        moved = [at for vip, at, _, new in world.checker.leases.gaps if new and at >= crashed]
        if moved and world.announcers(world.first_vip):
            return moved[0] - crashed
    return None
