"""Faults: schedules made from a seed before the run, so that they can be shrunk.

Styles are those of FoundationDB and TigerBeetle's VOPR: uniform partitions,
isolate one, asymmetric cuts, swizzle-clog (links are stopped one by one and
freed in another order), long quiet, and bursts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from protocol.messages import PROTOCOL_MAX, PROTOCOL_MIN
from protocol.timing import MILLISECOND, SECOND
from tests.sim import network, operators
from tests.sim.site import group_id
from tests.sim.world import World

PRIMARY = -1
"""As a target: whoever announces the first VIP at that moment."""
NEXT_RELEASE = (PROTOCOL_MIN, PROTOCOL_MAX + 1)
QUALITIES = (network.LAN, network.LOSSY, network.BAD, network.SLOW, network.FAR)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, or an operator's command."""

    at: int
    """Real time, nanoseconds."""
    kind: str
    target: int = 0
    """Device index, or :data:`PRIMARY`."""
    other: int = 0
    """Second device, bit mask of devices, or index of a quality; by kind."""
    duration: int = 0

    def __str__(self) -> str:
        length = f" for {self.duration / MILLISECOND:.1f} ms" if self.duration else ""
        return f"{self.kind} {self.target} {self.other}{length}"


@dataclass(frozen=True, slots=True)
class Style:
    """Which faults a schedule draws, by weight, and how often."""

    gap: int
    """Mean time between two faults, nanoseconds."""
    weights: dict[str, float]
    aim: float = 0.4
    """Share of the faults that hit whoever is primary at that moment."""
    lulls: bool = False
    """Now and then nothing happens for a while."""


PROCESS = {"kill": 3.0, "stall": 4.0, "ambush": 3.0, "pause": 1.0, "crash": 1.0, "stop": 0.7}
LOCAL = {
    "bulk-cut": 0.7,
    "slow-disk": 0.5,
    "full-disk": 0.3,
    "torn-disk": 0.2,
    "unfit": 0.5,
    "gateways": 0.5,
    "upgrade": 0.2,
    "suspend": 0.5,
    "quality": 1.0,
}
COMMANDS = {"promote": 1.5, "command": 2.0}
CALM = {"heal": 5.0}
OPERATORS = {"promote": 2.0, "command": 6.0, "kill": 1.0, "bulk-cut": 0.5, "heal": 1.0}
GAP = 250 * MILLISECOND
PARTINGS = {"remove": 3.0, "relist": 2.0, "slow-disk": 1.0, "crash": 1.0}
TOGETHER_NS = 800 * MILLISECOND

RARE = Style(
    150 * MILLISECOND,
    {"suspend": 1.5, "torn-disk": 1.0, "full-disk": 0.7, "slow-disk": 0.5, "upgrade": 0.7,
     "unfit": 0.5, "gateways": 0.5, "isolate": 1.0, "bulk-cut": 0.3, "ambush": 1.0, "stop": 0.5,
     "crash": 0.3, "promote": 1.0, "command": 6.0, "local": 2.0, "heal": 2.0},
)  # fmt: skip
"""What the other styles seldom do, often."""

STYLES: dict[str, Style] = {
    "uniform": Style(GAP, PROCESS | LOCAL | COMMANDS | CALM | {"partition": 4.0}),
    "isolate": Style(GAP, PROCESS | LOCAL | COMMANDS | CALM | {"isolate": 4.0}),
    "asymmetric": Style(GAP, PROCESS | LOCAL | COMMANDS | CALM | {"one-way": 6.0}),
    "swizzle": Style(GAP, PROCESS | COMMANDS | {"swizzle": 2.0, "heal": 2.0}),
    "quiet": Style(4 * SECOND, PROCESS | COMMANDS | CALM | {"partition": 2.0}),
    "burst": Style(
        15 * MILLISECOND, PROCESS | LOCAL | COMMANDS | CALM | {"one-way": 2.0}, lulls=True
    ),
    "operators": Style(150 * MILLISECOND, OPERATORS),
    "rare": RARE,
}
HUNT = Style(
    200 * MILLISECOND,
    {"kill": 10.0, "crash": 0.5, "hidden": 3.0, "deaf": 3.0, "stall": 3.0, "heal": 1.0,
     "suspend": 0.3, "ambush": 1.0, "quality": 0.1, "partition": 0.2},
    aim=0.95,
)  # fmt: skip
"""As many takeovers as possible: whoever is primary is hit, again and again."""


def schedule(
    random: Random, devices: int, start: int, end: int, hunt: bool = False
) -> tuple[str, list[Fault]]:
    """The name of a style, and faults in order of time from ``start`` to ``end``."""
    name = "hunt" if hunt else random.choice(sorted(STYLES))
    style = HUNT if hunt else STYLES[name]
    return name, drawn(style, random, devices, start, end)


def drawn(style: Style, random: Random, devices: int, start: int, end: int) -> list[Fault]:
    """Faults of a style."""
    kinds, weights = list(style.weights), list(style.weights.values())
    faults: list[Fault] = []
    now = start
    while True:
        now += int(random.expovariate(1.0) * style.gap)
        if style.lulls and random.random() < 0.03:
            now += 3 * SECOND
        if now >= end:
            return sorted((f for f in faults if f.at < end), key=lambda f: f.at)
        kind = random.choices(kinds, weights)[0]
        if kind == "swizzle":
            faults += _swizzle(random, devices, now)
        else:
            faults.append(_draw(random, devices, now, kind, style.aim))


def partings(random: Random, devices: int, start: int, end: int) -> list[Fault]:
    """Devices leave or are replaced, often right after each other; others are named."""
    kinds, weights = list(PARTINGS), list(PARTINGS.values())
    faults: list[Fault] = []
    now = start
    while (now := now + int(random.expovariate(0.5) * SECOND)) < end:
        for _ in range(random.randint(1, 3)):
            kind = random.choices(kinds, weights)[0]
            faults.append(_draw(random, devices, now + random.randrange(TOGETHER_NS), kind, 0.3))
    # Nothing fails any more when everything is healed.
    return [fault for fault in faults if fault.at < end]


def _draw(random: Random, devices: int, now: int, kind: str, aim: float) -> Fault:
    target = PRIMARY if random.random() < aim else random.randrange(devices)
    other = random.randrange(devices)
    duration = 0
    match kind:
        case "kill":
            quick = random.random() < 0.7
            duration = random.randint(1, 120) * MILLISECOND if quick else _long(random)
        case "crash" | "stop" | "torn-disk" | "upgrade":
            duration = _long(random)
        case "hidden" | "deaf":
            duration = random.randint(150, 900) * MILLISECOND
        case "stall" | "ambush":
            duration = random.randint(1, 600) * MILLISECOND
        case "pause" | "suspend" | "slow-disk" | "full-disk" | "unfit":
            duration = _long(random)
        case "partition":
            other = random.randrange(1, 1 << devices)
        case "quality":
            other = random.randrange(len(QUALITIES))
    return Fault(now, kind, target, other, duration)


def _long(random: Random) -> int:
    return random.randint(200, 4000) * MILLISECOND


def _swizzle(random: Random, devices: int, now: int) -> list[Fault]:
    """Clog the links of a random subset one by one, free them in another order."""
    links = [(a, b) for a in range(devices) for b in range(devices) if a != b]
    if not links:
        return []
    chosen = random.sample(links, random.randint(1, len(links)))
    step = random.randint(1, 60) * MILLISECOND
    faults = [Fault(now + i * step, "clog", a, b) for i, (a, b) in enumerate(chosen)]
    random.shuffle(chosen)
    freed = now + len(chosen) * step + random.randint(0, 800) * MILLISECOND
    return faults + [Fault(freed + i * step, "free", a, b) for i, (a, b) in enumerate(chosen)]


def inject(world: World, faults: list[Fault], seed: int) -> None:
    """Schedule the faults in the world."""
    for number, fault in enumerate(faults):
        world.push(fault.at, _happen, world, (fault, Random(seed * 65_537 + number)))


def _happen(world: World, item: tuple[Fault, Random]) -> None:
    fault, random = item
    target = fault.target
    if target == PRIMARY:
        found = world.announcers(world.first_vip)
        target = found[0] if found else 0
    world.log(None, f"fault: {fault}")
    APPLY[fault.kind](world, fault, target, random)


Apply = Callable[[World, Fault, int, Random], None]


def _kill(world: World, fault: Fault, target: int, random: Random) -> None:
    world.kill(target)
    world.start_after(target, fault.duration)


def _crash(world: World, fault: Fault, target: int, random: Random) -> None:
    world.crash(target)
    world.start_after(target, fault.duration)


def _stop(world: World, fault: Fault, target: int, random: Random) -> None:
    world.stop(target)
    world.start_after(target, 3 * SECOND + fault.duration)


def _stall(world: World, fault: Fault, target: int, random: Random) -> None:
    world.stall(target, fault.duration)


def _ambush(world: World, fault: Fault, target: int, random: Random) -> None:
    """The next step with several effects is stopped between two of them."""
    process = world.running(target)
    if process is not None:
        process.ambush = fault.duration


def _suspend(world: World, fault: Fault, target: int, random: Random) -> None:
    world.pause(target, fault.duration)


def _torn_disk(world: World, fault: Fault, target: int, random: Random) -> None:
    """A power cut after which the ballots cannot be read; of one device at most in a run."""
    if target == world.seed % len(world.machines) and len(world.machines) > 2:
        world.crash(target)
        disk = world.machines[target].disk
        disk.ballots, disk.torn, disk.lost = {}, True, True
        world.checker.seen["ballots lost"] += 1
        world.start_after(target, fault.duration)


def _upgrade(world: World, fault: Fault, target: int, random: Random) -> None:
    """The next release is installed, which speaks one version more."""
    world.machines[target].speaks = NEXT_RELEASE
    if any(machine.speaks != NEXT_RELEASE for machine in world.machines):
        world.checker.seen["two releases at once"] += 1
    world.kill(target)
    world.start_after(target, fault.duration)


def _gateways(world: World, fault: Fault, target: int, random: Random) -> None:
    operators.see_gateways(world, target, random)


def _partition(world: World, fault: Fault, target: int, random: Random) -> None:
    side = [i for i in range(len(world.machines)) if fault.other >> i & 1]
    world.network.partition(world.now, side)


def _isolate(world: World, fault: Fault, target: int, random: Random) -> None:
    world.network.partition(world.now, [target])


def _hidden(world: World, fault: Fault, target: int, random: Random) -> None:
    """Cut off for less than a second."""
    world.network.partition(world.now, [target])
    world.push(world.now + fault.duration, _heal_all, world, None)


def _deaf(world: World, fault: Fault, target: int, random: Random) -> None:
    """Hears nobody for less than a second, and is heard."""
    for other in range(len(world.machines)):
        if other != target:
            world.network.cut(other, target)
    world.push(world.now + fault.duration, _heal_all, world, None)


def _heal_all(world: World, _: None) -> None:
    world.network.heal_all(world.now, range(len(world.machines)))


def _one_way(world: World, fault: Fault, target: int, random: Random) -> None:
    world.network.cut(target, fault.other)


def _bulk_cut(world: World, fault: Fault, target: int, random: Random) -> None:
    world.network.cut_bulk(target, fault.other)


def _heal(world: World, fault: Fault, target: int, random: Random) -> None:
    world.network.heal_all(world.now, range(len(world.machines)))


def _quality(world: World, fault: Fault, target: int, random: Random) -> None:
    world.network.quality = QUALITIES[fault.other]


def _clog(world: World, fault: Fault, target: int, random: Random) -> None:
    world.network.clog(target, fault.other)


def _free(world: World, fault: Fault, target: int, random: Random) -> None:
    world.network.heal(world.now, target, fault.other)


def _slow_disk(world: World, fault: Fault, target: int, random: Random) -> None:
    disk = world.machines[target].disk
    disk.fsync_ns = random.choice((5, 40, 300)) * MILLISECOND
    world.push(world.now + fault.duration, _disk_well, world, target)


def _full_disk(world: World, fault: Fault, target: int, random: Random) -> None:
    world.machines[target].disk.full = True
    world.push(world.now + fault.duration, _disk_well, world, target)


def _disk_well(world: World, target: int) -> None:
    world.machines[target].disk.full = False
    world.machines[target].disk.fsync_ns = MILLISECOND // 2


def _unfit(world: World, fault: Fault, target: int, random: Random) -> None:
    groups = [group_id(i) for i in range(len(world.setup.profiles))]
    unfit = tuple(group for group in groups if random.random() < 0.7)
    world.set_unfit(target, unfit, tuple(group for group in groups if group not in unfit))
    world.push(world.now + fault.duration, _fit, world, target)


def _fit(world: World, target: int) -> None:
    world.set_unfit(target, ())


def _promote(world: World, fault: Fault, target: int, random: Random) -> None:
    to = fault.other if random.random() < 0.7 else None
    operators.promote(world, target, random.randrange(len(world.setup.profiles)), to)


def _command(world: World, fault: Fault, target: int, random: Random) -> None:
    operators.random_command(world, random)


def _local(world: World, fault: Fault, target: int, random: Random) -> None:
    operators.change_locally(world, target, random)


def _remove(world: World, fault: Fault, target: int, random: Random) -> None:
    operators.remove_or_replace(world, fault.other, target, random)


def _relist(world: World, fault: Fault, target: int, random: Random) -> None:
    operators.name_others(world, fault.other, random)


APPLY: dict[str, Apply] = {
    "kill": _kill,
    "crash": _crash,
    "stop": _stop,
    "stall": _stall,
    "pause": _stall,
    "ambush": _ambush,
    "suspend": _suspend,
    "torn-disk": _torn_disk,
    "upgrade": _upgrade,
    "gateways": _gateways,
    "partition": _partition,
    "isolate": _isolate,
    "hidden": _hidden,
    "deaf": _deaf,
    "one-way": _one_way,
    "bulk-cut": _bulk_cut,
    "heal": _heal,
    "quality": _quality,
    "clog": _clog,
    "free": _free,
    "slow-disk": _slow_disk,
    "full-disk": _full_disk,
    "unfit": _unfit,
    "promote": _promote,
    "command": _command,
    "local": _local,
    "remove": _remove,
    "relist": _relist,
}
