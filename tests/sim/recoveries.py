"""Voters that are lost for good, given up by force, while Virtual Servers come and go.

In an honest story the operator is right: who is given up has no power, and comes back later,
into a network that is whole. Then nothing may ever have two owners. In the other ones the
Site is cut in two, and both sides recover, edit and delete: there may be two owners while one
device has not heard of what the other one rests on, and never longer.

``python -m tests.sim.recoveries --seeds 300`` prints what became of so many.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from protocol.changes import DeleteVirtualServer, SetDevice
from protocol.timing import MILLISECOND, SECOND, Profile
from tests.sim import liveness, network, operators
from tests.sim.run import make_node
from tests.sim.site import Setup, device_name
from tests.sim.world import CoreFactory, World

WARM_UP_NS = 3 * SECOND
UNHEARD_NS = 2500 * MILLISECOND
"""After so long nobody counts on a device without power, and on all that run."""
TOGETHER_NS = 10 * SECOND
"""After healing: the side that lost takes over what the other one has, and leases move."""
TAMED = frozenset({"S4", "S5", "S6"})
"""Rules of majorities that were given up."""


@dataclass(frozen=True)
class Story:
    """What became of one seed."""

    seed: int
    honest: bool
    violations: tuple[str, ...]
    seen: Counter[str]


def recovery_world(
    seed: int, make_core: CoreFactory = make_node, trace: Callable[[str], None] | None = None
) -> World:
    """A Site in quiet operation; one of its Virtual Servers is often on a few of the devices."""
    random = Random(seed * 7 + 108)
    size = random.choice((2, 3, 3, 4, 5, 5))
    carriers = random.choice((None, 1, 2, 3)) if size > 2 else None
    setup = Setup(devices=size, profiles=(Profile.NORMAL, Profile.NORMAL), carriers=carriers)
    world = World(seed, setup, make_core, trace)
    world.start_all()
    world.run_until(WARM_UP_NS + random.randrange(100) * MILLISECOND)
    return world


def _running(world: World) -> list[int]:
    return [m.index for m in world.machines if world.running(m.index) is not None]


def _lose(world: World, random: Random, *, honest: bool) -> None:
    """Some devices lose power, all at once."""
    running = _running(world)
    for index in random.sample(running, random.randrange(len(running) or 1)):
        world.crash(index)


def _return(world: World, random: Random, *, honest: bool) -> None:
    """An honest operator sees to it that they hear of it: nobody stands still just then."""
    if honest:
        world.run_for(UNHEARD_NS)
    for machine in world.machines:
        if honest or random.random() < 0.7:
            world.start(machine.index)


def _recover(world: World, random: Random, *, honest: bool) -> None:
    """Typed at some device. An honest operator looks first who runs, and waits for the end."""
    if honest:
        world.run_for(UNHEARD_NS)
    running = _running(world)
    if not running:
        return
    request = operators.recover(world, random.choice(running))
    while honest and request is not None and not world.checker.failed:
        asked = world.checker.configs.requests[request]
        if asked.outcome is not None or not asked.process.alive:
            return
        world.run_for(100 * MILLISECOND)


def _edit(world: World, random: Random, *, honest: bool) -> None:
    """A Virtual Server is created, replaced or deleted; two names compete for two VIPs."""
    operators.propose(
        world, random.randrange(len(world.machines)), operators.random_server_change(world, random)
    )


def _delete(world: World, random: Random, *, honest: bool) -> None:
    """One that serves, of which the device that is asked may know nothing."""
    names = sorted(vs.name for vs in world.checker.configs.newest.virtual_servers.values())
    extra = [name for name in names if name.startswith("extra")]
    if extra:
        change = DeleteVirtualServer(random.choice(extra))
        operators.propose(world, random.randrange(len(world.machines)), change)


def _relist(world: World, random: Random, *, honest: bool) -> None:
    operators.name_others(world, random.randrange(len(world.machines)), random)


def _drain(world: World, random: Random, *, honest: bool) -> None:
    target = device_name(random.randrange(len(world.machines)))
    change = SetDevice(target, random.random() < 0.4)
    operators.propose(world, random.randrange(len(world.machines)), change)


def _stall(world: World, random: Random, *, honest: bool) -> None:
    world.stall(random.randrange(len(world.machines)), random.randrange(20, 1500) * MILLISECOND)


def _restart(world: World, random: Random, *, honest: bool) -> None:
    index = random.choice(_running(world) or [0])
    act: Callable[[int], None] = random.choice([world.kill, world.kill, world.crash])
    act(index)
    world.start_after(index, random.randrange(1, 2500) * MILLISECOND)


def _slow_disk(world: World, random: Random, *, honest: bool) -> None:
    disk = random.choice(world.machines).disk
    disk.fsync_ns = random.choice((MILLISECOND // 2, 40 * MILLISECOND, 300 * MILLISECOND))


def _split(world: World, random: Random, *, honest: bool) -> None:
    count = len(world.machines)
    mask = random.randrange(1, 1 << count)
    world.network.partition(world.now, [i for i in range(count) if mask >> i & 1])


def _heal(world: World, random: Random, *, honest: bool) -> None:
    """Both sides meet; sometimes two devices hear of each other through others alone."""
    count = len(world.machines)
    world.network.heal_all(world.now, range(count))
    if random.random() < 0.6:
        one, other = random.sample(range(count), 2)
        world.network.cut(one, other)
        world.network.cut(other, one)


Step = Callable[..., None]
HONEST: tuple[Step, ...] = (
    _lose, _lose, _return, _recover, _recover, _edit, _edit, _edit, _delete, _relist, _drain,
    _slow_disk, _stall,
)  # fmt: skip
SPLIT: tuple[Step, ...] = (*HONEST, _split, _split, _split, _heal, _recover, _restart)


def run_story(
    seed: int,
    steps: int = 30,
    make_core: CoreFactory = make_node,
    trace: Callable[[str], None] | None = None,
) -> Story:
    """One seed: losses, recoveries and edits one after the other, then everything heals."""
    random = Random(seed * 7 + 109)
    honest = random.random() < 0.4
    world = recovery_world(seed, make_core, trace)
    world.checker.ignored = TAMED
    world.checker.leases.by_force = not honest
    if not honest:
        world.network.quality = random.choice((network.LAN, network.LAN, network.LOSSY))
    for _ in range(steps):
        step = random.choice(HONEST if honest else SPLIT)
        world.log(None, f"step: {step.__name__}")
        step(world, random, honest=honest)
        longest = random.choice((50, 300, 2500))
        world.run_for(random.randrange(1, longest) * MILLISECOND)
        if world.checker.failed:
            break
    if honest:
        world.run_for(UNHEARD_NS)
    _in_the_end(world)
    told = tuple(map(str, world.checker.violations))
    return Story(seed, honest, told, world.checker.seen)


def _in_the_end(world: World) -> None:
    """All are there and hear each other: order is back."""
    everybody = list(range(len(world.machines)))
    world.network.quality = network.LAN
    world.network.heal_all(world.now, everybody)
    for index in everybody:
        world.machines[index].disk.fsync_ns = MILLISECOND // 2
        world.start(index)
    world.run_for(TOGETHER_NS)
    if not world.checker.failed:
        liveness.check(world, everybody)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--replay", type=int, metavar="SEED", help="trace one seed")
    options = parser.parse_args()
    if options.replay is not None:
        print(run_story(options.replay, trace=print).violations)
        return
    seen: Counter[str] = Counter()
    broken = 0
    for seed in range(options.first, options.first + options.seeds):
        story = run_story(seed)
        seen.update(story.seen)
        broken += bool(story.violations)
        for text in story.violations:
            print(f"seed {seed} ({'honest' if story.honest else 'split'}): {text}", flush=True)
    print("\n".join(f"{number:9d} {name}" for name, number in sorted(seen.items())))
    print(f"{broken} of {options.seeds} seeds broken")


if __name__ == "__main__":
    main()
