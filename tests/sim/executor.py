"""What each effect of the core does to disk, kernel and network.

Votes are written by a worker, the newest of all groups at a time; configurations and local
edits by another one. The process goes on meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from protocol.effects import (
    Acquire,
    Apply,
    BallotsStored,
    ConfigApplied,
    ConfigStored,
    Connect,
    Event,
    KeepConflict,
    Lame,
    LeaseLapsed,
    Outcome,
    PersistBallots,
    PersistConfig,
    PersistFailed,
    PersistLocal,
    PersistWorks,
    Refresh,
    Release,
    Send,
    Stopped,
)
from protocol.flows import Flush, Flushed
from protocol.ids import GroupId, Revision
from protocol.local import Local
from protocol.timing import MILLISECOND, SECOND

if TYPE_CHECKING:
    from tests.sim.shell import Process

ACQUIRE_NS = MILLISECOND // 2
"""One nftables transaction."""
DISK_RETRY_NS = SECOND
"""A full disk is tried again after this."""


def _send(process: Process, effect: Send) -> int:
    world, to, message = process.world, effect.to, effect.message
    if say := world.checker.says.get(type(message)):
        say(process, to, message)
    if (target := world.index_of.get(to)) is not None:
        world.network.send(world.now, process.machine.index, target, message)
    return 0


# The disk


def _persist_ballots(process: Process, effect: PersistBallots) -> int:
    process.world.checker.votes.deciding(process, effect.ballots)
    process.ballots.update(effect.ballots)
    process.asked = effect.number
    if process.writing is None:
        _start_ballots(process)
    return 0


def _start_ballots(process: Process) -> None:
    process.writing = process.asked, dict(process.ballots)
    wait = process.machine.disk.write_ns(process.world.random)
    process.world.push(process.world.now + wait, _ballots_written, process, None)


def _ballots_written(process: Process, _: None) -> None:
    if not process.alive:
        return
    assert process.writing is not None
    number, _ballots = process.writing
    if process.machine.disk.full:
        process.writing = None
        _disk_failed(process)
    else:
        process.write_ballots()
        process.inbox.append(BallotsStored(number))
        if process.again:
            process.again = False
            process.inbox.append(PersistWorks())
        if number < process.asked:
            _start_ballots(process)
    if not process.blocked:
        process.step()


def _disk_failed(process: Process) -> None:
    process.inbox.append(PersistFailed())
    if not process.retrying:
        process.retrying = True
        process.world.push(process.world.now + DISK_RETRY_NS, try_disk, process, None)


def try_disk(process: Process, _: None = None) -> None:
    """Write what the disk refused, if it is well now; else try again later."""
    if not (process.alive and process.retrying):
        return
    if process.machine.disk.full:
        process.world.push(process.world.now + DISK_RETRY_NS, try_disk, process, None)
        return
    process.retrying, process.again = False, True
    if process.writing is None:
        _start_ballots(process)


def _persist_config(process: Process, effect: PersistConfig) -> int:
    process.writes.append((effect.config, effect.committed))
    if len(process.writes) == 1:
        _start_write(process)
    return 0


def _start_write(process: Process) -> None:
    wait = process.machine.disk.write_ns(process.world.random)
    process.world.push(process.world.now + wait, _written, process, None)


def _written(process: Process, _: None) -> None:
    if not process.alive:
        return
    if process.machine.disk.full:
        process.writes.popleft()
        _disk_failed(process)
    else:
        revision = process.writes[0][0].revision
        process.write_config()
        process.inbox.append(ConfigStored(revision))
    if process.writes:
        _start_write(process)
    if not process.blocked:
        process.step()


def _persist_local(process: Process, effect: PersistLocal) -> int:
    """Of no weight for the votes: written some time later, or lost with the process."""
    process.world.checker.seen["local changes" if effect.local else "local changes ended"] += 1
    process.local = effect.local
    wait = process.machine.disk.write_ns(process.world.random)
    process.world.push(process.world.now + wait, _local_written, process, effect.local)
    return 0


def _local_written(process: Process, local: Local | None) -> None:
    if process.alive and not process.machine.disk.full:
        process.machine.disk.local = local


# The kernel


def _apply(process: Process, effect: Apply) -> int:
    process.world.checker.applying(process, effect.config)
    wait = MILLISECOND + int(process.world.random.expovariate(1.0) * 10 * MILLISECOND)
    process.world.push(process.world.now + wait, _applied, process, effect.config.revision)
    return 0


def _applied(process: Process, revision: Revision) -> None:
    if process.alive:
        process.hand_in(ConfigApplied(revision))


def _acquire(process: Process, effect: Acquire) -> int:
    world, machine = process.world, process.machine
    late = max(0, machine.clock.local(world.now) - effect.deadline)
    if late > effect.lease * 2 // 5:
        return _too_late(process, "acquire", effect.group)
    lease = effect.lease - late
    until = machine.lease_end(world.now, lease)
    world.checker.acquiring(process, replace(effect, lease=lease), until)
    machine.kernel.acquire(effect.vips, until)
    return ACQUIRE_NS


def _refresh(process: Process, effect: Refresh) -> int:
    world, machine = process.world, process.machine
    if machine.clock.local(world.now) > effect.deadline:
        world.checker.seen["refresh too late"] += 1
        return 0
    until = machine.lease_end(world.now, world.leases[effect.profile])
    if machine.kernel.refresh(effect.vips, world.now, until):
        world.checker.refreshed(process, effect, until)
    elif effect.vips:
        world.checker.seen["refresh of a dead lease"] += 1
        process.inbox.append(LeaseLapsed((effect.group,)))
    return 0


def _too_late(process: Process, what: str, group: GroupId) -> int:
    process.world.checker.seen[f"{what} too late"] += 1
    process.inbox.append(LeaseLapsed((group,)))
    return 0


def _release(process: Process, effect: Release) -> int:
    process.machine.kernel.release(effect.vips)
    process.world.checker.released(process, effect)
    return 0


def _lame(process: Process, effect: Lame) -> int:
    now = process.world.now
    process.machine.kernel.lame(effect.vips, now, process.machine.lease_end(now, effect.drain))
    process.world.checker.lamed(process, effect)
    return 0


def _flush(process: Process, effect: Flush) -> int:
    """Mostly soon; some flows cannot be told in time."""
    world = process.world
    if world.random.random() < world.unflushed:
        world.checker.seen["flush without end"] += 1
    else:
        wait = MILLISECOND + int(world.random.expovariate(1.0) * 20 * MILLISECOND)
        world.flushing += 1
        world.push(world.now + wait, _flushed, process, Flushed(effect.group, effect.to))
    return 0


def _flushed(process: Process, item: Flushed) -> None:
    process.world.flushing -= 1
    if process.alive:
        process.hand_in(item)


# News


def _connect(process: Process, effect: Connect) -> int:
    return 0


def _outcome(process: Process, effect: Outcome) -> int:
    process.world.checker.ended(process, effect)
    process.world.news(process, effect)
    return 0


def _event(process: Process, effect: Event) -> int:
    process.world.checker.happened(process, effect)
    process.world.news(process, effect)
    return 0


def _keep_conflict(process: Process, effect: KeepConflict) -> int:
    process.world.checker.seen[f"conflict: {effect.conflict.kind}"] += 1
    process.world.news(process, effect)
    return 0


def _stopped(process: Process, effect: Stopped) -> int:
    """The core holds nothing any more: take the kernel state down and exit."""
    process.world.checker.stopped(process)
    process.machine.kernel.clear()
    process.kill()
    return 0


HANDLERS: dict[type[Any], Callable[[Process, Any], int]] = {
    Send: _send,
    Connect: _connect,
    PersistBallots: _persist_ballots,
    PersistConfig: _persist_config,
    PersistLocal: _persist_local,
    Apply: _apply,
    Acquire: _acquire,
    Refresh: _refresh,
    Release: _release,
    Flush: _flush,
    Lame: _lame,
    Outcome: _outcome,
    Event: _event,
    KeepConflict: _keep_conflict,
    Stopped: _stopped,
}
"""By the type of the effect; returns for how long the process waits. A type that is missing
is not modelled, and a core that uses it fails loudly."""
