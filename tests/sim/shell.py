"""One run of an agent: carries the core's effects out in order, as the real shell does.

Votes are written before anything that follows them in the same step, and the
process does nothing else meanwhile. Configurations are written by a worker,
one at a time. The process may be stalled at any effect, or killed between two.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from protocol.config import Config
from protocol.effects import (
    Acquire,
    Apply,
    ConfigApplied,
    ConfigStored,
    Connect,
    Effect,
    Event,
    Input,
    KeepConflict,
    Lame,
    LeaseLapsed,
    Outcome,
    PersistBallots,
    PersistConfig,
    PersistFailed,
    PersistWorks,
    Refresh,
    Release,
    Send,
    Stopped,
)
from protocol.ids import GroupId, Revision
from protocol.timing import MILLISECOND, SECOND
from protocol.tombstones import Retention
from protocol.view import NodeView
from tests.sim.machine import Machine

if TYPE_CHECKING:
    from tests.sim.world import World

ACQUIRE_NS = MILLISECOND // 2
"""One nftables transaction."""
DISK_RETRY_NS = SECOND
"""A full disk is tried again after this."""
MAX_SPINS = 50
"""Steps without input within 1 ms before the core counts as spinning."""
RETENTION = Retention(shortest=SECOND // 2, longest=2 * SECOND, every=SECOND // 2)
"""Deletions are forgotten within seconds: collections often pass devices that are cut off."""


class Core(Protocol):
    """What the simulator needs of :class:`protocol.node.Node`."""

    def step(self, now: int, inputs: list[Input]) -> list[Effect]: ...

    def wake_at(self) -> int: ...

    def view(self) -> NodeView: ...


class Process:
    """A running agent on a machine."""

    __slots__ = (
        "alive", "ambush", "ballots", "blocked", "blocks", "core", "in_force",
        "inbox", "machine", "mute", "opened", "position", "rest", "retrying", "spin_from",
        "spins", "stalled_until", "started", "stepped_at", "stopping", "wake", "wake_local",
        "world", "writes",
    )  # fmt: skip

    def __init__(self, world: World, machine: Machine) -> None:
        disk = machine.disk
        disk.incarnation += 1
        self.world = world
        self.machine = machine
        self.alive = True
        self.blocked = False
        self.blocks = 0
        self.stalled_until = 0
        self.ambush = 0
        self.stopping = False
        self.started = world.now
        self.inbox: list[Input] = []
        self.rest: list[Effect] = []
        self.position = 0
        self.mute = False
        self.spins = 0
        self.spin_from = 0
        self.wake = -1
        self.wake_local = 0
        self.stepped_at = 0
        """Own clock, at which the step under way was made."""
        self.in_force: Config | None = None
        """The newest configuration that this run put in force."""
        self.ballots = dict(disk.ballots)
        """What should be on disk; more than is there while the disk refuses."""
        self.retrying = False
        self.opened: set[str] = set()
        """VIPs whose lease this run opened at some time."""
        self.writes: deque[tuple[Config, Revision]] = deque()
        self.core: Core = world.make_core(
            device=machine.id,
            config=disk.config,
            committed=disk.committed,
            ballots=dict(disk.ballots),
            now=machine.clock.local(world.now),
            random=Random(world.seed * 1009 + machine.index * 31 + disk.incarnation),
            incarnation=disk.incarnation,
            version="0.0.0-sim",
            retention=RETENTION,
        )

    # Inputs and timers

    def hand_in(self, item: Input) -> None:
        """Give the core an input as soon as the process runs."""
        self.inbox.append(item)
        if not self.blocked:
            self.step()

    def step(self) -> None:
        """Step the core until it has nothing to do at this instant."""
        world = self.world
        while True:
            inputs, self.inbox = self.inbox, []
            now = self.machine.clock.local(world.now)
            self.stepped_at = now
            world.checker.stepping(self, inputs)
            try:
                effects = self.core.step(now, inputs)
                self.wake_local = self.core.wake_at()
            except Exception:  # noqa: BLE001  whatever it is, it breaks S15
                world.checker.fail("S15", f"{self.name} raised\n{traceback.format_exc()}")
                self.kill()
                return
            world.stepped(self, inputs, effects)
            self.rest = effects
            self.position = 0
            self.mute = False
            if not self.carry_out():
                return
            if not self.inbox:
                break
        self._sleep(now, bool(inputs))

    def _sleep(self, now: int, had_inputs: bool) -> None:
        """Schedule the next wake-up; a later one than scheduled is found out then."""
        world = self.world
        if had_inputs or now > self.spin_from + MILLISECOND:
            self.spins, self.spin_from = 0, now
        self.spins += 1
        if self.spins > MAX_SPINS:
            world.checker.fail("S15", f"{self.name} asks to be woken {MAX_SPINS} times within 1 ms")
            self.kill()
            return
        real = max(self.machine.clock.real(self.wake_local), world.now + 1)
        if self.wake < 0 or real < self.wake:
            self.wake = real
            world.push(real, Process.woken, self, real)

    def woken(self, real: int) -> None:
        if not self.alive or real != self.wake:
            return
        self.wake = -1
        if self.blocked:
            return
        if self.machine.clock.local(self.world.now) >= self.wake_local:
            self.step()
        else:
            self._sleep(self.machine.clock.local(self.world.now), True)

    # Faults

    def stall(self, duration: int) -> None:
        """Stop running for a while; messages wait, the kernel goes on."""
        self.stalled_until = max(self.stalled_until, self.world.now + duration)
        if not self.blocked:
            self._block_until(self.stalled_until)

    def unstall(self) -> None:
        """Run again now."""
        if self.stalled_until > self.world.now:
            self.stalled_until = self.world.now
            self._block_until(self.world.now)

    def kill(self) -> None:
        """kill -9: what is durable and what is in the kernel stays."""
        self.alive = False
        self.blocked = True
        if self.writes and not self.machine.disk.full and self.world.random.random() < 0.5:
            self._write_config()

    def resume(self, block: int) -> None:
        """Go on where the process was stopped, if nothing else keeps it."""
        if not self.alive or block != self.blocks:
            return
        if self.stalled_until > self.world.now:
            self._block_until(self.stalled_until)
            return
        self.blocked = False
        if self.carry_out():
            self.step()

    # Effects

    def carry_out(self) -> bool:
        """Carry out the rest of the effects; False where the process must wait."""
        rest = self.rest
        stop = -1
        if self.ambush and len(rest) > 1:
            self.stalled_until = max(self.stalled_until, self.world.now + self.ambush)
            self.ambush = 0
            stop = self.world.random.randrange(len(rest))
        while self.position < len(rest):
            if self.position == stop:
                stop = -1
                self._block_until(self.stalled_until)
                return False
            effect = rest[self.position]
            self.position += 1
            wait = HANDLERS[type(effect)](self, effect)
            if wait:
                self._block_until(self.world.now + wait)
                return False
            if not self.alive:
                return False
        return True

    def _block_until(self, real: int) -> None:
        self.blocked = True
        self.blocks += 1
        self.world.push(real, Process.resume, self, self.blocks)

    def _send(self, effect: Send) -> int:
        if self.mute:
            return 0
        world = self.world
        world.checker.sent(self, effect.to, effect.message)
        if (target := world.index_of.get(effect.to)) is not None:
            world.network.send(world.now, self.machine.index, target, effect.message)
        return 0

    def _persist_ballots(self, effect: PersistBallots) -> int:
        machine = self.machine
        self.ballots.update(effect.ballots)
        if machine.disk.full:
            self.mute = True
            self._disk_failed()
            return 0
        # Told to nobody before the wait below ends, so it may count as written at once.
        self.world.checker.persisting(self, self.ballots)
        machine.disk.ballots = dict(self.ballots)
        return machine.disk.write_ns(self.world.random)

    def _disk_failed(self) -> None:
        self.inbox.append(PersistFailed())
        if not self.retrying:
            self.retrying = True
            self.world.push(self.world.now + DISK_RETRY_NS, Process.try_disk, self, None)

    def try_disk(self, _: None = None) -> None:
        """Write what the disk refused, if it is well now; else try again later."""
        if not (self.alive and self.retrying):
            return
        if self.machine.disk.full:
            self.world.push(self.world.now + DISK_RETRY_NS, Process.try_disk, self, None)
            return
        self.retrying = False
        self.world.checker.persisting(self, self.ballots)
        self.machine.disk.ballots = dict(self.ballots)
        self.hand_in(PersistWorks())

    def _persist_config(self, effect: PersistConfig) -> int:
        self.writes.append((effect.config, effect.committed))
        if len(self.writes) == 1:
            self._start_write()
        return 0

    def _start_write(self) -> None:
        wait = self.machine.disk.write_ns(self.world.random)
        self.world.push(self.world.now + wait, Process._written, self, None)

    def _write_config(self) -> None:
        config, committed = self.writes.popleft()
        self.world.checker.storing(self, config)
        self.machine.disk.config = config
        self.machine.disk.committed = committed

    def _written(self, _: None) -> None:
        if not self.alive:
            return
        if self.machine.disk.full:
            self.writes.popleft()
            self._disk_failed()
        else:
            revision = self.writes[0][0].revision
            self._write_config()
            self.inbox.append(ConfigStored(revision))
        if self.writes:
            self._start_write()
        if not self.blocked:
            self.step()

    def _apply(self, effect: Apply) -> int:
        self.world.checker.applying(self, effect.config)
        wait = MILLISECOND + int(self.world.random.expovariate(1.0) * 10 * MILLISECOND)
        self.world.push(self.world.now + wait, Process._applied, self, effect.config.revision)
        return 0

    def _applied(self, revision: Revision) -> None:
        if self.alive:
            self.hand_in(ConfigApplied(revision))

    def _acquire(self, effect: Acquire) -> int:
        world, machine = self.world, self.machine
        if self.mute:
            return 0
        if machine.clock.local(world.now) > effect.deadline:
            return self._too_late("acquire", effect.group)
        until = machine.lease_end(world.now, effect.lease)
        world.checker.acquiring(self, effect, until)
        machine.kernel.acquire(effect.vips, until)
        return ACQUIRE_NS

    def _refresh(self, effect: Refresh) -> int:
        world, machine = self.world, self.machine
        if self.mute:
            return 0
        if machine.clock.local(world.now) > effect.deadline:
            return self._too_late("refresh", effect.group)
        until = machine.lease_end(world.now, world.lease_ns(effect.profile))
        if machine.kernel.refresh(effect.vips, world.now, until):
            world.checker.refreshed(self, effect, until)
        elif effect.vips:
            world.checker.seen["refresh of a dead lease"] += 1
        return 0

    def _too_late(self, what: str, group: GroupId) -> int:
        self.world.checker.seen[f"{what} too late"] += 1
        self.inbox.append(LeaseLapsed((group,)))
        return 0

    def _release(self, effect: Release) -> int:
        self.machine.kernel.release(effect.vips)
        self.world.checker.released(self, effect)
        return 0

    def _lame(self, effect: Lame) -> int:
        now = self.world.now
        self.machine.kernel.lame(effect.vips, now, self.machine.lease_end(now, effect.drain))
        self.world.checker.lamed(self, effect)
        return 0

    def _outcome(self, effect: Outcome) -> int:
        self.world.checker.ended(self, effect)
        return 0

    def _event(self, effect: Event) -> int:
        self.world.checker.happened(self, effect)
        return 0

    def _keep_conflict(self, effect: KeepConflict) -> int:
        self.world.checker.seen[f"conflict: {effect.conflict.kind}"] += 1
        return 0

    def _stopped(self, _: Stopped) -> int:
        """The core holds nothing any more: take the kernel state down and exit."""
        self.world.checker.stopped(self)
        self.machine.kernel.clear()
        self.kill()
        return 0

    @property
    def name(self) -> str:
        return chr(ord("a") + self.machine.index)


HANDLERS: dict[type[Any], Callable[[Process, Any], int]] = {
    Send: Process._send,
    Connect: lambda process, effect: 0,
    PersistBallots: Process._persist_ballots,
    PersistConfig: Process._persist_config,
    Apply: Process._apply,
    Acquire: Process._acquire,
    Refresh: Process._refresh,
    Release: Process._release,
    Lame: Process._lame,
    Outcome: Process._outcome,
    Event: Process._event,
    KeepConflict: Process._keep_conflict,
    Stopped: Process._stopped,
}
