"""The service segment of the devices, and the arbiter on it: a path of its own.

Questions and answers take a fraction of a millisecond, may be lost, and cross
only where the segment is whole. A device's kernel answers for what its lease
sets announce, whether its agent runs or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from protocol.effects import Announce, ProbeArbiter, Probed
from protocol.timing import MILLISECOND
from tests.sim.executor import HANDLERS

if TYPE_CHECKING:
    from tests.sim.shell import Process
    from tests.sim.world import World

QUESTIONS = 3
DELAY_NS = MILLISECOND // 10
"""Mean of one way."""


@dataclass(slots=True)
class Round:
    """Questions of one device under way."""

    process: Process
    effect: ProbeArbiter
    at: int
    """Own clock of the device."""
    sent: int = 0
    arbiter: bool = False
    vip: bool = False
    over: bool = False


class Segment:
    """Who reaches whom by ARP."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = Random(world.seed * 7 + 104)
        self.whole = True
        """Frames pass between devices."""
        self.arbiter = True
        """The arbiter is there."""
        self.reached = [True] * len(world.machines)
        """Which devices the segment reaches, and so the arbiter."""
        self.loss = 0.0
        self._rounds: dict[tuple[int, str], Round] = {}

    def ask(self, process: Process, effect: ProbeArbiter) -> None:
        """Begin a round; it replaces one of the same group."""
        world, clock = self._world, process.machine.clock
        key = (process.machine.index, effect.group)
        if key in self._rounds:
            self._rounds[key].over = True
        asked = self._rounds[key] = Round(process, effect, clock.local(world.now))
        for number in range(QUESTIONS):
            at = world.now + effect.patience * number // QUESTIONS
            world.push(at, self._question, asked, None)
        world.push(world.now + effect.patience, self._end, asked, None)

    def _lost(self) -> bool:
        return self._random.random() < self.loss

    def _delay(self) -> int:
        return 10_000 + int(self._random.expovariate(1.0) * DELAY_NS)

    def _question(self, asked: Round, _: None) -> None:
        process = asked.process
        # A stalled process sends nothing, and its round proves nothing.
        if asked.over or not process.alive or (asked.sent and process.blocked):
            return
        asked.sent += 1
        here = process.machine.index
        if asked.effect.arbiter and self.reached[here] and self.arbiter and not self._lost():
            self._world.push(self._world.now + self._delay(), self._answer, asked, "arbiter")
        for there in range(len(self._world.machines)) if asked.effect.vips else ():
            if there != here and self._passes(here, there) and not self._lost():
                self._world.push(self._world.now + self._delay(), self._arrive, asked, there)

    def _passes(self, here: int, there: int) -> bool:
        return self.whole and self.reached[here] and self.reached[there]

    def _arrive(self, asked: Round, there: int) -> None:
        """A question for the VIPs comes to another device."""
        kernel, now = self._world.machines[there].kernel, self._world.now
        here = asked.process.machine.index
        answered = any(kernel.announces(vip, now) for vip in asked.effect.vips)
        if answered and self._passes(here, there) and not self._lost():
            # Who holds a VIP itself heeds nobody who goes after it.
            heeded = not asked.effect.holding or there < here
            self._world.push(now + self._delay(), self._answer, asked, "vip" if heeded else "")
        rival = self._rounds.get((there, asked.effect.group))
        if rival and here < there and not rival.over and not rival.effect.holding:
            self._hear(rival, "vip")

    def _answer(self, asked: Round, who: str) -> None:
        if who:
            self._hear(asked, who)

    def _hear(self, asked: Round, who: str) -> None:
        if asked.over or getattr(asked, who):
            return
        setattr(asked, who, True)
        effect = asked.effect
        everything = (asked.vip or not effect.vips) and (asked.arbiter or not effect.arbiter)
        if everything:
            self._end(asked, None)
        elif effect.holding:
            self._report(asked)

    def _end(self, asked: Round, _: None) -> None:
        if asked.over:
            return
        asked.over = True
        self._report(asked)

    def _report(self, asked: Round) -> None:
        process, effect = asked.process, asked.effect
        whole = bool(effect.vips) and not effect.holding and asked.sent == QUESTIONS
        if process.alive:
            process.hand_in(Probed(effect.group, asked.at, asked.arbiter, whole, asked.vip))


def _probe(process: Process, effect: ProbeArbiter) -> int:
    process.world.segment.ask(process, effect)
    return 0


def _announce(process: Process, effect: Announce) -> int:
    process.world.checker.seen["announced again"] += 1
    return 0


HANDLERS[ProbeArbiter] = _probe
HANDLERS[Announce] = _announce
