"""The simulated world: one heap of events, machines, the network, and real time.

Everything random is drawn from generators seeded by the world's seed, so one
seed is one history. Real time is an integer number of nanoseconds that no
device ever sees; each has its own clock.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any, Protocol

from protocol.config import Config
from protocol.effects import (
    Adopt,
    Effect,
    Event,
    Fitness,
    GatewayHealth,
    Input,
    KeepConflict,
    Outcome,
    Paused,
    Received,
    Stop,
)
from protocol.ids import GroupId
from protocol.timing import MILLISECOND, SECOND, Profile, Timing
from protocol.view import NodeView
from tests.sim.checkers import Checker
from tests.sim.machine import Machine
from tests.sim.network import Network
from tests.sim.segment import Segment
from tests.sim.shell import Core, Process
from tests.sim.site import FIRST_BALLOTS, Setup, build_site, device_id, device_name, vip_of

STOP_LIMIT_NS = 3 * SECOND
"""A clean stop that takes longer ends by kill, as an init system does it."""


class CoreFactory(Protocol):
    """Builds a core; :class:`protocol.node.Node` unless a test breaks something on purpose."""

    def __call__(self, **arguments: Any) -> Core: ...


class World:
    """One simulation run."""

    def __init__(
        self,
        seed: int,
        setup: Setup,
        make_core: CoreFactory,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self.seed = seed
        self.setup = setup
        self.make_core = make_core
        self.trace = trace
        self.news: Callable[[Process, Event | Outcome | KeepConflict], None] = _unheeded
        """Told of what a device remembers for people."""
        self.now = 0
        self.events = 0
        self.hash = seed
        """Digest of the history: when each device stepped, with how much in and out."""
        self.random = Random(seed * 7 + 1)
        self._heap: list[tuple[int, int, Callable[[Any, Any], None], Any, Any]] = []
        self._sequence = 0
        self.leases = {p: Timing.of(p).lease for p in Profile}
        """Timeout of the element that a refresh renews, as the ruleset has it."""
        ids = tuple(device_id(i) for i in range(setup.devices))
        self.index_of = {d: i for i, d in enumerate(ids)}
        self.network = Network(
            ids, Random(seed * 7 + 2), self.push, self._deliver, codec=setup.codec
        )
        self.config = build_site(setup, self.random)
        self.machines = [Machine(i, ids[i], Random(seed * 7 + 3 + i)) for i in range(setup.devices)]
        self.processes: list[Process | None] = [None] * setup.devices
        self.frozen: frozenset[int] = frozenset()
        """Machines that are not started any more."""
        self.unflushed = 0.0
        """Share of the barriers before planned moves that nobody passes."""
        self.flushing = 0
        """Successors that enter the flows of a planned move."""
        self.segment = Segment(self)
        self.checker = Checker(self)
        for machine in self.machines[: setup.founders]:
            machine.disk.config = self.config
            machine.disk.committed = self.config.revision
            machine.disk.ballots = dict(FIRST_BALLOTS)

    # Time

    def push(
        self, time: int, function: Callable[[Any, Any], None], first: Any, second: Any
    ) -> None:
        """Schedule ``function(first, second)`` at the real time ``time``."""
        self._sequence += 1
        heappush(self._heap, (time, self._sequence, function, first, second))

    def run_until(self, end: int) -> None:
        """Let everything happen that is due up to ``end``, unless a check failed."""
        heap, checker = self._heap, self.checker
        while heap and heap[0][0] <= end and not checker.failed:
            self.now, _, function, first, second = heappop(heap)
            self.events += 1
            function(first, second)
        if not checker.failed:
            self.now = end

    def run_for(self, duration: int) -> None:
        self.run_until(self.now + duration)

    # Messages and steps

    def _deliver(self, target: int, received: Received) -> None:
        process = self.processes[target]
        if process is not None and process.alive:
            process.inbox.append(received)
            if not process.blocked:
                process.step()

    def tell(self, process: Process, inputs: list[Input], effects: list[Effect]) -> None:
        """One step of a core in the trace, before its effects are carried out."""
        local = process.machine.clock.local(self.now)
        got = " ".join(_short(i) for i in inputs) or "timer"
        done = " ".join(_short(e) for e in effects)
        self.log(process.machine.index, f"[{local / MILLISECOND:.3f}] {got} -> {done}")

    def log(self, index: int | None, text: str) -> None:
        """One line of the trace: real time in ms, a column per device."""
        if self.trace:
            column = "  " * (index or 0) + (device_name(index) if index is not None else "*")
            width = 2 * len(self.machines)
            self.trace(f"{self.now / MILLISECOND:12.3f} {column:<{width}} {text}")

    # Processes

    def start(self, index: int) -> None:
        """Start the agent of a machine, which must have power."""
        machine = self.machines[index]
        running = self.processes[index]
        if index in self.frozen or (running is not None and running.alive):
            return
        if machine.paused_at is not None:
            self.start_after(index, 100 * MILLISECOND)
            return
        if not machine.powered:
            machine.boot(self.now)
        if self.random.random() < 0.5:  # both must be safe: cleared at once, or left to expire
            machine.kernel.clear()
        self.checker.starting(machine)
        self.log(index, "start")
        process = Process(self, machine)
        self.processes[index] = process
        process.step()

    def start_all(self) -> None:
        for index in range(len(self.machines)):
            self.start(index)

    def _start_later(self, index: int, _: None) -> None:
        self.start(index)

    def start_after(self, index: int, delay: int) -> None:
        self.push(self.now + delay, self._start_later, index, None)

    def running(self, index: int) -> Process | None:
        process = self.processes[index]
        return process if process is not None and process.alive else None

    def kill(self, index: int) -> None:
        process = self.running(index)
        if process is not None and self.machines[index].paused_at is None:
            self.log(index, "kill -9")
            process.kill()

    def crash(self, index: int) -> None:
        """Cut the power: the process and the kernel state are gone."""
        process = self.running(index)
        self.log(index, "power lost")
        if process is not None:
            process.kill()
        self.machines[index].lose_power()
        self.checker.power_lost(self.machines[index])

    def stall(self, index: int, duration: int) -> None:
        process = self.running(index)
        if process is not None:
            self.log(index, f"stalled for {duration / MILLISECOND:.1f} ms")
            process.stall(duration)

    def pause(self, index: int, duration: int) -> None:
        """Pause the whole device, as a hypervisor does: its clock stands still, too."""
        machine = self.machines[index]
        if not machine.powered or machine.paused_at is not None:
            return
        self.log(index, f"device paused for {duration / MILLISECOND:.1f} ms")
        self.checker.paused(machine)
        machine.pause(self.now)
        # Comes before the process goes on at the same instant, for it is pushed first.
        self.push(self.now + duration, self._unpause, index, self.now)
        process = self.running(index)
        if process is not None:
            process.stall(duration)

    def _unpause(self, index: int, since: int) -> None:
        if self.machines[index].paused_at == since:
            self.unpause(index)

    def unpause(self, index: int) -> None:
        """Let a paused device go on."""
        machine = self.machines[index]
        if machine.paused_at is not None:
            lost = self.now - machine.paused_at
            machine.resume(self.now)
            self.log(index, "device goes on")
            self.checker.resumed(machine)
            self._notice(index, lost)

    def _notice(self, index: int, lost: int) -> None:
        """The agent of a device that was paused finds that out, where it can and when it can."""
        watch, process = self.machines[index].pause_watch, self.running(index)
        if process is None or watch is None or lost <= watch.least:
            return
        if not watch.every:
            process.inbox.insert(0, Paused(lost))  # before what waited meanwhile
            return
        self.checker.seen["pause noticed late"] += 1
        late = self.machines[index].random.randrange(watch.every)
        self.push(self.now + late, Process.hand_in, process, Paused(lost))

    def stop(self, index: int) -> None:
        """Ask the agent to stop cleanly."""
        process = self.running(index)
        if process is not None and not process.stopping:
            self.log(index, "stop")
            process.stopping = True
            process.hand_in(Stop())
            self.push(self.now + STOP_LIMIT_NS, self._end_stop, process, None)

    def _end_stop(self, process: Process, _: None) -> None:
        if process.alive:
            self.checker.seen["stop by force"] += 1
            process.kill()

    # Local inputs

    def hand_in(self, index: int, item: Input) -> bool:
        """Give an input to a running agent; False where none runs."""
        process = self.running(index)
        if process is None or process.stopping:
            return False
        self.log(index, f"input {item}")
        process.hand_in(item)
        return True

    def adopt(self, index: int, config: Config) -> None:
        self.hand_in(index, Adopt(config))

    def set_unfit(
        self, index: int, groups: tuple[GroupId, ...], outdated: tuple[GroupId, ...] = ()
    ) -> None:
        unfit = tuple((g, "interface is down") for g in groups)
        refused = tuple((g, "the kernel refused the newest change") for g in outdated)
        if self.hand_in(index, Fitness(unfit, refused)):
            self.checker.unfit[index] = frozenset(groups)

    def set_gateways_down(self, index: int, down: tuple[tuple[GroupId, str], ...]) -> None:
        self.hand_in(index, GatewayHealth(down))

    # Views

    def view(self, index: int) -> NodeView:
        process = self.running(index)
        assert process is not None, f"device {device_name(index)} does not run"
        return process.core.view()

    def vips_of(self, group: GroupId) -> tuple[str, ...]:
        """VIPs of a group by the newest configuration in force."""
        assignment = self.checker.configs.newest.assignments.get(group)
        return assignment.vips if assignment else ()

    @property
    def first_vip(self) -> str:
        return vip_of(0)

    def announcers(self, vip: str) -> list[int]:
        """Machines whose kernel announces ``vip`` now."""
        return [m.index for m in self.machines if m.kernel.announces(vip, self.now)]


def _unheeded(process: Process, effect: Event | Outcome | KeepConflict) -> None:
    pass


def _short(item: Input | Effect) -> str:
    """An input or effect in a few words, for the trace."""
    name = type(item).__name__
    if isinstance(item, Received):
        return f"<{int(item.sender, 16)}:{item.message}"
    text = str(item)
    return text if len(text) < 200 else f"{name}(...)"
