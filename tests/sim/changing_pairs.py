"""Pairs inside larger Sites whose voter lists change under faults, one path always alive.

What one of two devices may do alone by the list before, and what a majority may do by the
new one, must never be done at once. Some stories begin where a device that was one of the
two knows nothing of the change: it was cut off, or was taken out of the Site, and serves on.

``python -m tests.sim.changing_pairs --seeds 300`` prints what became of so many.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from random import Random

import msgspec

from protocol.changes import Change, DeleteVirtualServer, PutVirtualServer, RemoveDevice
from protocol.config import Config, Edit
from protocol.document import VirtualServerDocument
from protocol.listener_document import ListenerDocument
from protocol.objects import Assignment, VirtualServer
from protocol.quorum import has_majority
from protocol.timing import MILLISECOND, SECOND, Profile
from tests.sim import network, operators
from tests.sim.checkers import Checker
from tests.sim.pairs import (
    QUORUM_ONLY,
    SEGMENT_LOSS,
    WARM_UP_NS,
    Story,
    heal,
    lose_arbiter,
    mend,
    primary,
    stall,
    told,
)
from tests.sim.run import make_node
from tests.sim.site import ARBITER, Setup, device_id, device_name, group_id, vip_of
from tests.sim.world import CoreFactory, World

DEVICES = 4
UID = group_id(0)
MODES = ("arbiter", "serve", "hold")
BEGINNINGS = ("pair", "pair", "left", "grew")
LISTS = ("ab", "ab", "abc", "ac", "bc", "b", "abcd")
SETTLED_NS = 12 * SECOND
"""After healing: hand-overs end, lists settle, and somebody serves."""


def change(mode: str, devices: str, witnesses: str, profile: Profile) -> Change:
    """An edit of the Virtual Server."""
    return PutVirtualServer(
        VirtualServerDocument(
            name="vs0",
            vips=(f"{vip_of(0)}/24",),
            devices=tuple(devices),
            witnesses=tuple(witnesses),
            arbiter=ARBITER if mode == "arbiter" else None,
            on_peer_loss="serve" if mode == "serve" else "hold" if mode == "hold" else None,
            profile=profile,
            listeners=(ListenerDocument(port=443),),
        ),
        must="either",
    )


def _edited(config: Config, **changes: object) -> Edit:
    server, assignment = config.virtual_servers[UID], config.assignments[UID]
    of_server = {k: v for k, v in changes.items() if k in VirtualServer.__struct_fields__}
    of_assignment = {k: v for k, v in changes.items() if k in Assignment.__struct_fields__}
    return Edit(
        put=(
            msgspec.structs.replace(server, **of_server),
            msgspec.structs.replace(assignment, **of_assignment),
        )
    )


def changing_world(
    seed: int, mode: str, beginning: str, make_core: CoreFactory = make_node
) -> World:
    """A Site of four of which the first two have the Virtual Server, or had it, by ``beginning``.

    ``left``: the first was taken out of the Site and does not know; ``grew``: the third was
    added, which the first does not know. Until the end of the warm-up it is cut off.
    """
    world = World(seed, Setup(devices=DEVICES), make_core)
    two, three = (tuple(device_id(i) for i in range(n)) for n in (2, 3))
    arbiter = ARBITER if mode == "arbiter" else None
    loss = None if arbiter else mode
    edit = _edited(world.config, devices=two, arbiter=arbiter, on_peer_loss=loss)
    put = (edit.put[0], msgspec.structs.replace(edit.put[1], voters=two, lone=True))
    before = after = world.config.edited(Edit(put=put), 1)
    former = {"number": 2, "former": two, "formerly_lone": True, "lone": False}
    if beginning == "left":
        edit = _edited(before, devices=two[1:], voters=two[1:], **former)
        assert before.site is not None
        site = msgspec.structs.replace(before.site, voters=before.site.voters[1:])
        after = before.edited(Edit((*edit.put, site), (("device", two[0]),)), 1)
    elif beginning == "grew":
        after = before.edited(_edited(before, devices=three, voters=three, **former), 1)
    for machine in world.machines:
        unaware = machine.index == 0
        machine.disk.config = before if unaware else after
        machine.disk.committed = machine.disk.config.revision
    world.config = after
    world.checker = Checker(world)
    # A Site that an older release let a device out of is in the state that S18 forbids.
    world.checker.ignored = QUORUM_ONLY | ({"S18"} if beginning == "left" else set())
    if after is not before:
        world.network.partition(0, [0])
    world.start_all()
    if after is not before and seed % 2:
        _serve_alone(world)
    world.run_until(WARM_UP_NS + Random(seed).randrange(100) * MILLISECOND)
    return world


def _serve_alone(world: World) -> None:
    """The unaware device takes the VIPs: it may not by itself, so soon after its start."""
    for index in range(1, DEVICES):
        world.kill(index)
    world.run_for(SECOND)
    operators.force(world, 0, "vs0")
    world.run_for(SECOND)
    for index in range(1, DEVICES):
        world.start(index)


def _crash(world: World, random: Random) -> None:
    found = primary(world)
    victim = random.randrange(DEVICES) if found is None or random.random() < 0.3 else found
    act: Callable[[int], None] = random.choice([world.crash, world.kill])
    act(victim)
    world.start_after(victim, random.randrange(1, 2500) * MILLISECOND)


def _cut_links(world: World, random: Random) -> None:
    heal(world)
    side, roll = random.randrange(3), random.random()
    others = [i for i in range(DEVICES) if i != side]
    if roll < 0.3:
        others = [1 - side] if side < 2 else random.sample(others, 2)
    for other in others:
        if not 0.5 < roll < 0.65:
            world.network.cut(side, other)
        if not 0.65 < roll < 0.8:
            world.network.cut(other, side)


def _stranger(world: World) -> bool:
    """Whether a device was taken out of the Site, and may run: nobody hears it over the links."""
    members = world.checker.configs.newest.devices
    return any(machine.id not in members for machine in world.machines)


def _cut_segment(world: World, random: Random) -> None:
    heal(world)
    if _stranger(world):
        return
    if random.random() < 0.5:
        world.segment.whole = False
    else:
        world.segment.reached[random.randrange(3)] = False


def _force(world: World, random: Random) -> None:
    operators.force(world, random.randrange(3), "vs0")


def _slow_disk(world: World, random: Random) -> None:
    disk = world.machines[random.randrange(3)].disk
    disk.fsync_ns = random.choice((MILLISECOND // 2, 40 * MILLISECOND, 300 * MILLISECOND))


def _promote(world: World, random: Random) -> None:
    operators.promote(world, random.randrange(DEVICES), 0, None)


FAULTS = (
    _crash, _crash, _crash, stall, _cut_links, _cut_links, _cut_segment, lose_arbiter, _force,
    _slow_disk, _promote, mend, mend,
)  # fmt: skip


def _edit(world: World, random: Random, mode: str) -> None:
    """An operator changes who carries it, at a device that may know of no change before."""
    at, roll, gone = random.randrange(DEVICES), random.random(), random.randrange(3)
    assignment = world.checker.configs.newest.assignments.get(UID)
    if roll < 0.08 and assignment is not None and assignment.settled:
        left = [v for v in assignment.voters if v != device_id(gone)]
        if has_majority(assignment.voters, left) and world.segment.whole:
            operators.propose(world, at, RemoveDevice(device_name(gone)))
    elif roll < 0.12:
        operators.propose(world, at, DeleteVirtualServer("vs0"))
    elif roll < 0.3:
        operators.propose(world, at, change("", "ab", "c", Profile.NORMAL))
    else:
        profile = Profile.FAST if random.random() < 0.3 else Profile.NORMAL
        operators.propose(world, at, change(mode, random.choice(LISTS), "", profile))


def run_story(seed: int, faults: int = 25, make_core: CoreFactory = make_node) -> Story:
    """One seed: faults and edits one after the other, then everything heals.

    Links and segment are never cut at the same time.
    """
    random = Random(seed * 7 + 106)
    mode, beginning = random.choice(MODES), random.choice(BEGINNINGS)
    world = changing_world(seed, mode, beginning, make_core)
    segment, seen = world.segment, world.checker.seen
    loss = random.choice((0.0, SEGMENT_LOSS))
    quality = random.choice((network.LAN, network.LOSSY))
    for _ in range(faults):
        if random.random() < 0.25:
            _edit(world, random, mode)
        else:
            random.choice(FAULTS)(world, random)
        links_live = all(world.network.whole(0, i) for i in range(1, DEVICES))
        links_live = links_live and world.network.whole(1, 2)
        segment.loss = loss if links_live and not _stranger(world) else 0.0
        segment_lives = segment.whole and all(segment.reached)
        world.network.quality = quality if segment_lives else network.LAN
        before = len(world.checker.leases.gaps)
        waits = unsettled(world)
        world.run_for(random.randrange(50, 2500) * MILLISECOND)
        if waits and unsettled(world):
            seen["taken while the list before may serve"] += len(world.checker.leases.gaps) - before
    return told(world, healed=serves_in_the_end(world))


def unsettled(world: World) -> bool:
    """Whether one of two devices may still serve alone by the voter list before."""
    assignment = world.checker.configs.newest.assignments.get(UID)
    return assignment is not None and assignment.formerly_lone and bool(assignment.former)


def serves_in_the_end(world: World) -> bool:
    """Everything heals, and an operator forces what waits for one: exactly one device serves."""
    heal(world)
    for index in range(DEVICES):
        world.machines[index].disk.fsync_ns = MILLISECOND // 2
        world.start(index)
    world.run_for(SETTLED_NS)
    config = world.checker.configs.newest
    assignment = config.assignments.get(UID)
    if UID not in config.virtual_servers or assignment is None:
        return True
    if not has_majority(assignment.voters, config.devices):
        return True  # a removal at the same time as an edit took the others
    for voter in assignment.voters if primary(world) is None else ():
        operators.force(world, world.index_of[voter], "vs0")
        world.run_for(2 * SECOND)
    return primary(world) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    seen: Counter[str] = Counter()
    takeovers = overlap = 0
    for seed in range(options.first, options.first + options.seeds):
        story = run_story(seed)
        seen.update(story.seen)
        takeovers += len(story.takeovers)
        overlap += story.overlap
        for text in story.violations:
            print(f"seed {seed}: {text}")
        if not (story.healed or story.violations):
            print(f"seed {seed}: no single owner after healing")
    where = f"{takeovers} takeovers in {options.seeds} seeds"
    print(f"{where}: {overlap / MILLISECOND:.3f} ms with two owners")
    print("\n".join(f"{number:9d} {name}" for name, number in sorted(seen.items())))


if __name__ == "__main__":
    main()
