"""Two devices of real cores, their kernels' leases, and the segment that clients use.

Three paths that fail one by one: the links between the agents (``drop``), the
segment between the devices, and each device's way to the arbiter.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.config import Config, Edit
from protocol.effects import Acquire, Effect, Input, Lame, ProbeArbiter, Probed, Refresh, Release
from protocol.ids import DeviceId
from protocol.objects import VirtualServer
from protocol.timing import MILLISECOND, Timing
from protocol.view import Role
from tests.unit.cluster import RDP, Cluster, server

ANSWER_NS = MILLISECOND // 10
VIP = "10.0.0.1"
ARBITER = "10.0.0.254"


@dataclass(frozen=True)
class Round:
    """Questions on their way; the input that they become is made when they end."""

    at: int
    question: ProbeArbiter


def pair_server(**changes: object) -> VirtualServer:
    return server(**{"arbiter": ARBITER, **changes})


class Pair(Cluster):
    """Devices ``first`` (best rank) and ``second`` (higher id) with one Virtual Server."""

    def __init__(self, **changes: object) -> None:
        self.leases: dict[DeviceId, list[list[int]]] = {}
        """By device: [from, to] of each time in which its kernel answers for the VIP."""
        self.segment = True
        self.arbiter = True
        super().__init__(2, (pair_server(**changes),))
        self.first, self.second = (d.id for d in self.devices)
        self.cut_off: set[DeviceId] = set()
        """Devices that the segment does not reach at all."""

    def other(self, device: DeviceId) -> DeviceId:
        return self.second if device == self.first else self.first

    def cut_links(self) -> None:
        """The agents hear each other no more."""
        self.drop = lambda a, b, m: True

    def heal_links(self) -> None:
        self.drop = lambda a, b, m: False

    def crash(self, device: DeviceId) -> None:
        """Cut the power: the kernel falls silent with the agent."""
        self.kill(device)
        self._end(device)

    def primaries(self) -> list[DeviceId]:
        return [i for i in self.nodes if self.view(i).role is Role.PRIMARY]

    def change(self, **changes: object) -> Config:
        """A configuration in which the Virtual Server is another."""
        return self.config.edited(Edit(put=(pair_server(**changes),)), 1)

    def overlap_ms(self) -> float:
        """Milliseconds in which both kernels answered for the VIP."""
        overlap = 0
        for one in self.leases.get(self.first, []):
            for two in self.leases.get(self.second, []):
                overlap += max(0, min(one[1], two[1], self.now) - max(one[0], two[0]))
        return overlap / MILLISECOND

    # Effects

    def _step(self, id_: DeviceId, items: list[Input]) -> None:
        if id_ not in self.nodes:
            return
        seen = len(self.effects)
        super()._step(id_, [self._report(id_, i) if isinstance(i, Round) else i for i in items])
        for _, who, effect in self.effects[seen:]:
            self._carry_out(who, effect)

    def _carry_out(self, who: DeviceId, effect: Effect) -> None:
        leases = self.leases.setdefault(who, [])
        match effect:
            case Acquire(lease=lease):
                self._end(who)
                leases.append([self.now, self.now + lease])
            case Refresh(profile=profile):
                if leases and leases[-1][1] > self.now:
                    leases[-1][1] = self.now + Timing.of(profile).lease
            case Release() | Lame():
                self._end(who)
            case ProbeArbiter():
                self._ask(who, effect)

    def _end(self, device: DeviceId) -> None:
        leases = self.leases.get(device, [])
        if leases:
            leases[-1][1] = min(leases[-1][1], self.now)

    def _ask(self, who: DeviceId, question: ProbeArbiter) -> None:
        early = question.holding or not question.vips
        after = ANSWER_NS if early else question.patience
        self.give(who, Round(self.now, question), after)  # type: ignore[arg-type]

    def _report(self, who: DeviceId, asked: Round) -> Probed:
        question, other = asked.question, self.other(who)
        reached = self.arbiter and who not in self.cut_off
        met = self.segment and not self.cut_off
        times = [asked.at + question.patience * i // 3 for i in range(3)]
        owned = any(a <= t < b for t in times for a, b in self.leases.get(other, []))
        first = other < who
        rival = first and any(
            e.vips and not e.holding and asked.at <= at <= self.now
            for at, w, e in self.all_of(ProbeArbiter, asked.at)
            if w == other
        )
        answered = met and (owned and first if question.holding else owned or rival)
        whole = bool(question.vips) and not question.holding
        heard = reached and question.arbiter is not None
        return Probed(RDP, asked.at, heard, whole, answered)
