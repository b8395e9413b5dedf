"""The second phase of a run: heal a random majority, freeze every other fault, demand order.

L1 one primary soon, L2 all agree on it, L3 all have the same configuration,
S14 then nothing moves any more, S16 the kernel is as the role says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import cast

from protocol.assignment import carriers_of
from protocol.coordinator import HAND_OVER_NS
from protocol.effects import Ballot
from protocol.ids import SITE_GROUP, GroupId
from protocol.node import Node
from protocol.objects import Assignment
from protocol.quorum import majority
from protocol.timing import INTERVAL_NS, MILLISECOND, SECOND, Profile
from protocol.versions import OURS, SETTLED_NS
from protocol.view import Role
from tests.sim import executor, network
from tests.sim.world import World

Assignments = Mapping[GroupId, Assignment]

CONFIG_NS = 5 * SECOND
"""The core has a coordinator, and one committed configuration, within this (L2, L3)."""
WRITTEN_NS = SECOND // 4
"""A change of the coordinator's own is on all disks, and known to be."""
SETTLE_NS = HAND_OVER_NS + SECOND
"""After the last change of the configuration; longer than its tombstones live, and than a primary
that is to go is left in office for the sake of its hand-over."""
QUIET_NS = 3 * SECOND


def heal_core(world: World, random: Random) -> list[int]:
    """Heal a random majority of the devices; what is wrong outside of it stays wrong."""
    count = len(world.machines)
    size = random.randint(count // 2 + 1, count)
    if world.checker.seen["ballots lost"]:
        size = count  # such a device votes again once it has heard a primary
    if world.checker.seen["device to be removed"]:
        size = count  # who has gone may be missed by those that are left already
    core = sorted(random.sample(range(count), size))
    world.frozen = frozenset(range(count)) - frozenset(core)
    world.network.quality = network.LAN
    world.network.redial(core)
    world.network.heal_all(world.now, core)
    world.log(None, f"heal {core}")
    _shut_out(world, core, random)
    for index in core:
        world.unpause(index)
        machine = world.machines[index]
        machine.disk.full = False
        machine.disk.fsync_ns = 500_000
        process = world.running(index)
        if process is not None and process.stopping:
            world.kill(index)
        world.start(index)
        process = world.running(index)
        if process is not None:
            process.ambush = 0
            process.unstall()
            executor.try_disk(process)
        world.set_unfit(index, ())
        world.set_gateways_down(index, ())
    return core


def _members(world: World, core: list[int]) -> list[int]:
    """Those of the core that are in the Site still."""
    devices = world.checker.configs.newest.devices
    return [index for index in core if world.machines[index].id in devices]


def _shut_out(world: World, core: list[int], random: Random) -> None:
    """The others are deaf for good: some are also mute, some go on disturbing."""
    for outsider in sorted(world.frozen):
        mute = random.random() < 0.5
        for index in core:
            world.network.cut(index, outsider)
            if mute:
                world.network.cut(outsider, index)


def slowest(world: World) -> int:
    """T of the slowest Virtual Server in force, at least that of `normal`."""
    servers = world.checker.configs.newest.virtual_servers.values()
    profiles = [vs.profile for vs in servers] + [Profile.NORMAL]
    return max(INTERVAL_NS[p] for p in profiles)


def servable(world: World, core: list[int], before: InForce | None = None) -> list[GroupId]:
    """Virtual Servers that the core must serve: a majority votes, and somebody may carry.

    With ``before`` only those whose assignment is still as it was then, and is of devices
    that the Virtual Server has: one that changes now may have to wait for leases of its
    VIPs to end, and one whose voters were all replaced, or do not know whether it was
    committed, for a coordinator.
    """
    config = world.checker.configs.newest
    disks = {world.machines[i].id: world.machines[i].disk for i in core}
    found = []
    for uid, assignment in config.assignments.items():
        server = config.virtual_servers.get(uid)
        if server is None or not assignment.vips or server.frozen:
            continue
        if before is not None and before.assignments.get(uid) != assignment:
            continue
        if before is not None and any(v not in config.devices for v in assignment.voters):
            continue  # a command that was under way took one out, which may have been primary
        # One that lost its ballots votes and stands only after it has heard of another's term.
        lost = {v for v, d in disks.items() if d.ballots.get(uid, Ballot(lost=d.lost)).lost}
        voting = sum(1 for v in assignment.voters if v in disks and v not in lost)
        # Another device becomes a voter first, on the word of those that were.
        word = before is None and disks.keys() >= {*assignment.voters, *assignment.former}
        able = [
            v
            for v in carriers_of(config, server)
            if v in disks
            and (v in assignment.voters or word)
            and not config.devices[v].drained
            and v not in lost
        ]
        if voting >= majority(assignment.voters) and able:
            found.append(uid)
    return sorted(found)


@dataclass(frozen=True)
class InForce:
    """What was in force as the core was healed."""

    assignments: Assignments
    """Those that most of their voters knew to be."""
    known: Mapping[int, Assignments]
    """Those that each device knew to be."""


def _in_force(world: World, core: list[int]) -> InForce:
    known: dict[int, Assignments] = {index: {} for index in core}
    for index in core:
        process = world.running(index)
        if process is not None:
            in_force = cast(Node, process.core).configuration.in_force
            known[index] = in_force.assignments
    of = {world.machines[index].id: found for index, found in known.items()}
    newest = world.checker.configs.newest.assignments
    most = {
        uid: assignment
        for uid, assignment in newest.items()
        if sum(of.get(voter, {}).get(uid) == assignment for voter in assignment.voters)
        >= majority(assignment.voters)
    }
    return InForce(most, known)


def check(world: World, core: list[int]) -> None:
    """Demand L1, L2, L3, S16 and S14 of the healed core."""
    unit = slowest(world)
    healed = world.now
    before = _in_force(world, core)
    world.run_until(healed + 10 * unit)
    _finish_move(world, unit)
    _one_primary(world, _members(world, core), before)
    world.run_until(healed + 12 * unit)
    _finish_move(world, unit)
    _agree(world, _members(world, core), before)
    world.run_until(healed + max(CONFIG_NS, 15 * unit))
    _finish_move(world, unit)
    core = _members(world, core)
    _one_primary(world, core)
    _agree(world, core)
    _same_configuration(world, core)
    _kernel_as_role(world, core)
    if any(world.machines[i].speaks != OURS for i in core):
        world.run_for(SETTLED_NS + SECOND)  # the Site's version rises
    _settle(world)
    _finish_move(world, unit)
    _nothing_moves(world, core)
    if not world.checker.failed:
        world.run_for(SECOND)
        world.checker.configs.finish()


def _finish_move(world: World, unit: int) -> None:
    """A hand-over that has just begun ends first, or is undone; and so does the next one."""
    for _ in range(10):
        end = world.checker.moved_at + 3 * unit
        if world.now >= end or world.checker.failed:
            return
        world.run_until(end)


def _one_primary(world: World, core: list[int], before: InForce | None = None) -> None:
    checker = world.checker
    if checker.failed:
        return
    for uid in servable(world, core, before):
        for vip in world.vips_of(uid):
            ghost = checker.leases.is_ghost
            found = [i for i in world.announcers(vip) if i in core or not ghost(i)]
            if len(found) != 1:
                checker.fail("L1", f"{vip} of {uid} is announced by {found}, core is {core}")


def _leaders(
    world: World, core: list[int], before: InForce | None = None
) -> dict[GroupId, set[tuple[str | None, int]]]:
    """(primary, term) of each group as its voters see it, or those who knew it ``before``."""
    leaders: dict[GroupId, set[tuple[str | None, int]]] = {}
    for index in core:
        process = world.running(index)
        if process is None:
            continue
        for view in process.core.view().groups:
            known = before is None or view.group in before.known[index]
            if process.machine.id in view.voters and known:
                leaders.setdefault(view.group, set()).add((view.leader, view.term))
    return leaders


def _agree(world: World, core: list[int], before: InForce | None = None) -> None:
    checker = world.checker
    if checker.failed:
        return
    leaders = _leaders(world, core, before)
    # The coordinator's group has more time: it has an own T.
    site = () if before is not None else (SITE_GROUP,)
    for uid in (*servable(world, core, before), *site):
        found = leaders.get(uid, set())
        if len(found) != 1 or None in {leader for leader, _ in found}:
            text = f"of {uid}, the core {core} believes {sorted(map(str, found))}"
            checker.fail("L2", text)


def _same_configuration(world: World, core: list[int]) -> None:
    """L3, but for what was written at this moment: it is everywhere in the next one."""
    if _revisions_apart(world, core) and not world.checker.failed:
        world.run_for(WRITTEN_NS)
        if text := _revisions_apart(world, core):
            world.checker.fail("L3", text)


def _revisions_apart(world: World, core: list[int]) -> str:
    """Whose configuration is not the newest; empty where all have it."""
    found = {}
    for index in core:
        process = world.running(index)
        if process is not None:
            view = process.core.view()
            found[index] = (view.committed, view.stored)
    newest = world.checker.configs.newest.revision
    if all(pair == (newest, newest) for pair in found.values()):
        return ""
    text = {i: f"{c} {s}" for i, (c, s) in found.items()}
    return f"newest is {newest}, (committed, stored) are {text}"


def _kernel_as_role(world: World, core: list[int]) -> None:
    """S16: exactly the primaries announce, and they announce exactly their VIPs."""
    checker = world.checker
    if checker.failed:
        return
    config = checker.configs.newest
    for index in core:
        process = world.running(index)
        if process is None:
            continue
        expected: set[str] = set()
        for view in process.core.view().groups:
            if view.role is Role.PRIMARY and view.group in config.assignments:
                expected.update(config.assignments[view.group].vips)
        kernel = world.machines[index].kernel
        actual = {vip for vip in kernel.announce if kernel.announces(vip, world.now)}
        if actual != expected:
            text = f"{process.name} announces {sorted(actual)}, is primary of {sorted(expected)}"
            checker.fail("S16", text)


def _settle(world: World) -> None:
    """Let planned moves be made, and what was deleted be forgotten."""
    configs = world.checker.configs
    for _ in range(30):
        busy = bool(configs.newest.planned_moves) or world.now - configs.newest_at < SETTLE_NS
        if not busy or world.checker.failed:
            return
        world.run_for(SECOND)


def _let_moves_end(world: World) -> None:
    """A hand-over that was begun is carried through."""
    while world.flushing:
        world.run_for(100 * MILLISECOND)


def _nothing_moves(world: World, core: list[int]) -> None:
    """S14: without faults no election, no release, no new configuration.

    A Virtual Server that prefers a device may be handed to it, without a gap.
    """
    checker = world.checker
    if checker.failed:
        return
    _let_moves_end(world)
    seen, config = checker.seen, checker.configs.newest
    before = (_leaders(world, core), seen["acquire"], seen["release"])
    wishes = seen["event move"]
    world.run_for(QUIET_NS)
    _let_moves_end(world)
    if checker.failed:
        return
    moved = seen["event move"] - wishes
    leaders = before[0]
    after = (_leaders(world, core), seen["acquire"] - moved, seen["release"])
    if moved:
        wished = {uid for uid, server in config.virtual_servers.items() if server.preempt}
        for uid in wished:
            leaders.pop(uid, None)
            after[0].pop(uid, None)
    if before != after or config.revision != checker.configs.newest.revision:
        now = checker.configs.newest.revision
        checker.fail("S14", f"moved: {before} {config.revision} -> {after} {now}")
