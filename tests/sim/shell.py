"""One run of an agent: takes inputs in, steps the core, carries its effects out in order.

The process may be stalled at any effect, killed between two, or paused with
its whole device. What each effect does is in ``executor``.
"""

from __future__ import annotations

import traceback
from collections import deque
from random import Random
from typing import TYPE_CHECKING, Protocol

from protocol.config import Config
from protocol.effects import Ballot, Effect, Input, Paused
from protocol.ids import GroupId, Revision
from protocol.local import Local
from protocol.timing import MILLISECOND, SECOND
from protocol.tombstones import Retention
from protocol.view import NodeView
from tests.sim.executor import HANDLERS
from tests.sim.machine import Machine

if TYPE_CHECKING:
    from tests.sim.world import World

MAX_SPINS = 50
"""Steps without input within 1 ms before the core counts as spinning."""
LATE_NS = 3 * MILLISECOND
"""After a stall all that waits in the connections is read within this."""
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
        "_scheduled", "again", "alive", "ambush", "asked", "ballots", "blocked", "blocks", "core",
        "in_force", "inbox", "local", "machine", "opened", "position", "rest", "retrying",
        "spin_from", "spins", "stalled", "stalled_until", "started", "stepped_at", "stopping",
        "wake", "wake_local", "world", "writes", "writing",
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
        self.stalled = False
        """It was, and has not read what came meanwhile."""
        self.ambush = 0
        self.stopping = False
        self.started = world.now
        self.inbox: list[Input] = []
        self.rest: list[Effect] = []
        self.position = 0
        self.spins = 0
        self.spin_from = 0
        self.wake = -1
        """Real time of the next wake-up; -1 where none is scheduled."""
        self._scheduled = 0
        """What it was scheduled for, on the own clock."""
        self.wake_local = 0
        self.stepped_at = 0
        """Own clock, at which the step under way was made."""
        self.in_force: Config | None = None
        """The newest configuration that this run put in force."""
        self.ballots = dict(disk.ballots)
        """What should be on disk; more than is there while the disk refuses."""
        self.asked = 0
        """Number of the newest ballots that the core wants there."""
        self.writing: tuple[int, dict[GroupId, Ballot]] | None = None
        """Ballots on their way there, and the number of the newest of them."""
        self.again = False
        """The disk refused something, and is being tried again."""
        self.local: Local | None = disk.local
        """Break-glass edits of this run."""
        self.retrying = False
        self.opened: set[str] = set()
        """VIPs whose lease this run opened at some time."""
        self.writes: deque[tuple[Config, Revision]] = deque()
        self.core: Core = world.make_core(
            device=machine.id,
            config=disk.config,
            committed=disk.committed,
            in_force=disk.former,
            ballots=dict(disk.ballots),
            now=machine.clock.local(world.now),
            random=Random(world.seed * 1009 + machine.index * 31 + disk.incarnation),
            incarnation=disk.incarnation,
            version="0.0.0-sim",
            retention=RETENTION,
            local=disk.local,
            ballots_lost=disk.torn,
            unix_offset=machine.unix_offset(world.now),
            protocol=machine.speaks,
        )

    @property
    def name(self) -> str:
        return chr(ord("a") + self.machine.index)

    # Inputs and timers

    def hand_in(self, item: Input) -> None:
        """Give the core an input as soon as the process runs."""
        self.inbox.append(item)
        if not self.blocked:
            self.step()

    def step(self) -> None:
        """Step the core until it has nothing to do at this instant."""
        world, machine = self.world, self.machine
        while True:
            inputs = self.inbox
            self.inbox = []
            now = machine.clock.local(world.now)
            self.stepped_at = now
            world.checker.stepping(machine.id, inputs)
            try:
                effects = self.core.step(now, inputs)
                self.wake_local = self.core.wake_at()
            except Exception:  # noqa: BLE001  whatever it is, it breaks S15
                world.checker.fail("S15", f"{self.name} raised\n{traceback.format_exc()}")
                self.kill()
                return
            world.hash = hash((world.hash, world.now, machine.index, len(effects), len(inputs)))
            if world.trace:
                world.tell(self, inputs, effects)
            if effects:
                self.rest = effects
                self.position = 0
                if not self.carry_out():
                    return
            if not self.inbox:
                break
        self._sleep(now, bool(inputs))

    def _sleep(self, now: int, had_inputs: bool) -> None:
        """Schedule the next wake-up; a later one than scheduled is found out then."""
        if had_inputs or now > self.spin_from + MILLISECOND:
            self.spins, self.spin_from = 0, now
        self.spins += 1
        if self.spins > MAX_SPINS:
            text = f"{self.name} asks to be woken {MAX_SPINS} times within 1 ms"
            self.world.checker.fail("S15", text)
            self.kill()
        elif self.wake < 0 or self.wake_local < self._scheduled:
            world = self.world
            self._scheduled = self.wake_local
            self.wake = max(self.machine.clock.real(self.wake_local), world.now + 1)
            world.push(self.wake, Process.woken, self, self.wake)

    def woken(self, real: int) -> None:
        if not self.alive or real != self.wake:
            return
        self.wake = -1
        if self.blocked:
            return
        now = self.machine.clock.local(self.world.now)
        if now >= self.wake_local:
            self.step()
        else:
            self._sleep(now, True)

    # Faults

    def stall(self, duration: int) -> None:
        """Stop running for a while; messages wait, the kernel goes on."""
        self.stalled_until = max(self.stalled_until, self.world.now + duration)
        self.stalled = True
        if not self.blocked:
            self.block_until(self.stalled_until)

    def unstall(self) -> None:
        """Run again now."""
        if self.stalled_until > self.world.now:
            self.stalled_until = self.world.now
            self.block_until(self.world.now)

    def kill(self) -> None:
        """kill -9: what is durable and what is in the kernel stays."""
        self.alive = False
        self.blocked = True
        # What is under way may be on disk already.
        if self.writing and not self.machine.disk.full and self.world.random.random() < 0.5:
            self.write_ballots()
        if self.writes and not self.machine.disk.full and self.world.random.random() < 0.5:
            self.write_config()

    def resume(self, block: int) -> None:
        """Go on where the process was stopped, if nothing else keeps it."""
        if not self.alive or block != self.blocks:
            return
        if self.stalled_until > self.world.now:
            self.block_until(self.stalled_until)
            return
        self.blocked = False
        late = self.stalled and self.world.random.random() < 0.5
        self.stalled = False
        if not self.carry_out():
            return
        if late:
            self._look_too_early()
        else:
            self.step()

    def _look_too_early(self) -> None:
        """After a stall the first step may find nothing of what came meanwhile.

        The threads that read connections stood still, too, and have only begun.
        """
        waiting = self.inbox
        self.inbox = [item for item in waiting if type(item) is Paused]
        self.step()
        self.inbox = [item for item in waiting if type(item) is not Paused] + self.inbox
        if not self.blocked:
            self.block_until(self.world.now + self.world.random.randrange(LATE_NS))

    def block_until(self, real: int) -> None:
        self.blocked = True
        self.blocks += 1
        self.world.push(real, Process.resume, self, self.blocks)

    # Effects

    def carry_out(self) -> bool:
        """Carry out the rest of the effects; False where the process must wait."""
        rest = self.rest
        stop = -1
        if self.ambush and len(rest) > 1:
            self.stalled_until = max(self.stalled_until, self.world.now + self.ambush)
            self.ambush = 0
            stop = self.world.random.randrange(len(rest))
        for position in range(self.position, len(rest)):
            self.position = position
            if position == stop:
                self.block_until(self.stalled_until)
                return False
            effect = rest[position]
            wait = HANDLERS[type(effect)](self, effect)
            if wait:
                self.position = position + 1
                self.block_until(self.world.now + wait)
                return False
            if not self.alive:
                return False
        self.position = len(rest)
        return True

    def write_ballots(self) -> None:
        """The ballots that were on their way to the disk are durable."""
        assert self.writing is not None
        _, ballots = self.writing
        self.writing = None
        self.world.checker.persisting(self, ballots)
        self.machine.disk.ballots = ballots
        self.machine.disk.torn = False

    def write_config(self) -> None:
        """The oldest configuration that waits for the disk becomes durable."""
        config, committed = self.writes.popleft()
        self.world.checker.storing(self, config, committed)
        self.machine.disk.former = self.machine.disk.config
        self.machine.disk.config = config
        self.machine.disk.committed = committed
