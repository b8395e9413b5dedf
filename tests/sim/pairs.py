"""Two devices and an arbiter under faults, of which one path between them always survives.

``python -m tests.sim.pairs --takeovers 1000`` prints the figures of docs/protocol.md. While
one path is cut the other one loses nothing; with ``--worn`` it loses what all links do,
and a lost beat is a moment in which both paths are dead.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from protocol.timing import MILLISECOND, SECOND, Profile
from tests.sim import network, operators
from tests.sim.run import make_node
from tests.sim.site import Setup
from tests.sim.world import CoreFactory, World

QUORUM_ONLY = frozenset({"S2", "S4", "S5", "S6"})
"""Rules of majorities: here one device may act on evidence in place of the other's vote."""
WARM_UP_NS = 3 * SECOND
SEGMENT_LOSS = 0.02
SETUP = Setup(devices=2, profiles=(Profile.NORMAL,), arbiter=True)


@dataclass(frozen=True)
class Story:
    """What became of one seed."""

    seed: int
    violations: tuple[str, ...]
    takeovers: tuple[int, ...]
    """Nanoseconds without an announcer at each change of the announcing device."""
    overlap: int
    """Nanoseconds with two announcers."""
    healed: bool
    """In the end, with all faults gone, exactly one device announces."""
    seen: Counter[str]


def pair_world(seed: int, make_core: CoreFactory = make_node) -> World:
    """Two devices in quiet operation."""
    world = World(seed, SETUP, make_core)
    world.checker.ignored = QUORUM_ONLY
    world.start_all()
    world.run_until(WARM_UP_NS + Random(seed).randrange(100) * MILLISECOND)
    return world


def cut_links(world: World) -> None:
    """The agents hear each other no more."""
    world.network.cut(0, 1)
    world.network.cut(1, 0)


def heal(world: World) -> None:
    """Both paths, and the arbiter, are as they should be."""
    count = len(world.machines)
    world.network.heal_all(world.now, range(count))
    world.segment.whole = world.segment.arbiter = True
    world.segment.reached = [True] * count


def primary(world: World) -> int | None:
    found = world.announcers(world.first_vip)
    return found[0] if len(found) == 1 else None


def _crash(world: World, random: Random) -> None:
    victim = primary(world)
    if victim is not None:
        act: Callable[[int], None] = random.choice([world.crash, world.kill])
        act(victim)
        if not world.network.whole(0, 1):
            world.checker.seen["primary gone while the links are cut"] += 1
        world.start_after(victim, random.randrange(1, 2500) * MILLISECOND)


def stall(world: World, random: Random) -> None:
    """Some device stands still."""
    world.stall(random.randrange(len(world.machines)), random.randrange(20, 1500) * MILLISECOND)


def _cut_links(world: World, random: Random) -> None:
    heal(world)
    if random.random() < 0.3:
        side = random.randrange(2)
        world.network.cut(side, 1 - side)
    else:
        cut_links(world)


def _cut_segment(world: World, random: Random) -> None:
    heal(world)
    if random.random() < 0.5:
        world.segment.whole = False
    else:
        world.segment.reached[random.randrange(2)] = False


def lose_arbiter(world: World, random: Random) -> None:
    """Nobody answers for its address."""
    world.segment.arbiter = False


def _force(world: World, random: Random) -> None:
    """An operator who sees one device only: ``halbctl failover --force`` there."""
    operators.force(world, random.randrange(2), "vs0")


def mend(world: World, random: Random) -> None:
    """All heals."""
    heal(world)


FAULTS = (
    _crash,
    _crash,
    _crash,
    stall,
    _cut_links,
    _cut_segment,
    lose_arbiter,
    _force,
    mend,
    mend,
)


def run_story(
    seed: int, faults: int = 25, make_core: CoreFactory = make_node, *, worn: bool = False
) -> Story:
    """One seed: faults one after the other, then everything heals.

    Links and segment are never cut at the same time, except for a device that was
    cut from the segment and whose links fail: such a device reaches nobody. Where one
    of them is cut, the other one loses frames only if the paths are ``worn``.
    """
    random = Random(seed * 7 + 105)
    world = pair_world(seed, make_core)
    segment = world.segment
    loss = random.choice((0.0, SEGMENT_LOSS))
    quality = random.choice((network.LAN, network.LOSSY))
    for _ in range(faults):
        random.choice(FAULTS)(world, random)
        segment_lives = segment.whole and all(segment.reached)
        segment.loss = loss if worn or world.network.whole(0, 1) else 0.0
        world.network.quality = quality if worn or segment_lives else network.LAN
        world.run_for(random.randrange(50, 2500) * MILLISECOND)
    heal(world)
    for index in range(2):
        world.start(index)
    world.run_for(3 * SECOND)
    return told(world, healed=primary(world) is not None)


def told(world: World, *, healed: bool) -> Story:
    """The story of a world that has come to its end."""
    checker = world.checker
    return Story(
        seed=world.seed,
        violations=tuple(map(str, checker.violations)),
        takeovers=tuple(gap for _, _, gap, moved in checker.leases.gaps if moved),
        overlap=checker.leases.overlap,
        healed=healed,
        seen=checker.seen,
    )


def takeover(seed: int, *, links: bool = True, power: bool = True) -> int | None:
    """Nanoseconds from a crash of the primary to the next lease; None if none came in 3 s."""
    world = pair_world(seed)
    if not links:
        cut_links(world)
        world.run_for(2 * SECOND)
    before = primary(world)
    assert before is not None
    crashed = world.now
    if power:
        world.crash(before)
    else:
        world.kill(before)
    world.run_for(3 * SECOND)
    moved = [at for _, at, _, new in world.checker.leases.gaps if new and at >= crashed]
    return moved[0] - crashed if moved else None


def contact(seed: int) -> tuple[int, int]:
    """(owners before, nanoseconds from healing to one owner) after a cut of both paths."""
    world = pair_world(seed)
    cut_links(world)
    world.segment.whole = False
    # Two owners are what this is about: they are counted, not forbidden.
    world.checker.ignored = QUORUM_ONLY | {"S1", "S9"}
    world.run_for(3 * SECOND)
    before = len(world.announcers(world.first_vip))
    heal(world)
    healed = world.now
    while len(world.announcers(world.first_vip)) > 1 and world.now - healed < 2 * SECOND:
        world.run_for(MILLISECOND)
    return before, world.now - healed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--takeovers", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--worn", action="store_true", help="the last path loses frames, too")
    options = parser.parse_args()
    for name, links, power in (
        ("power cut", True, True), ("kill -9", True, False), ("power cut, links cut", False, True),
    ):  # fmt: skip
        found = [takeover(seed, links=links, power=power) for seed in range(options.runs)]
        known = sorted(t / MILLISECOND for t in found if t is not None)
        print(
            f"{name}: {len(known)} of {options.runs} taken over, mean "
            f"{sum(known) / len(known):.0f} ms, p99 {known[len(known) * 99 // 100 - 1]:.0f} ms, "
            f"max {known[-1]:.0f} ms"
        )
    met = [contact(seed) for seed in range(options.runs)]
    times = sorted(ns / MILLISECOND for owners, ns in met if owners == 2)
    print(f"both paths cut, then contact: {len(times)} with two owners, max {times[-1]:.0f} ms")
    total = overlap = seed = 0
    failed: list[str] = []
    while total < options.takeovers:
        story = run_story(seed, worn=options.worn)
        total += len(story.takeovers)
        overlap += story.overlap
        failed += [f"seed {seed}: {text}" for text in story.violations]
        failed += [] if story.healed else [f"seed {seed}: no single owner after healing"]
        seed += 1
    print(f"{total} takeovers in {seed} seeds: {overlap / MILLISECOND:.3f} ms with two owners")
    print("\n".join(failed[:20]))


if __name__ == "__main__":
    main()
