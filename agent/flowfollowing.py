"""A secondary is told the flows of primaries, and has them in its kernel.

What this device lacks, it says: no planned move goes to it then, and after a crash others
stand before it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial

from agent.flowstream import Incoming, Step, kept
from agent.flowworker import FlowWorker
from agent.keptflows import WORTH_S, KeptFlows
from agent.mirror import Entered, Mirror, enter
from agent.tellers import DRAIN_S, Tellers
from agent.toldflows import ToldFlows
from protocol.flows import Behind, Flow, FlowsPart
from protocol.ids import DeviceId, GroupId
from protocol.messages import Message

KEEP_S = 2.0
"""Seconds between two signs of life of a stream."""
QUIET_S = 3 * KEEP_S
"""After so long without one, this device lacks what it was not told."""
ROUNDS, AGAIN_S = 8, KEEP_S / 8
"""How often a stream is asked for that does not begin, and seconds until the next time."""
COMPARE_S = 300.0
"""After so long a stream begins anew: what went wrong unseen is mended."""
BEHIND_S = 30.0
"""After so long a device may be moved to although it still lacks flows."""
BEHIND = "is still being told the flows of the primary"
FULL = "lacks flows of the primary: its connection table is full"
FULL_S = 30.0
"""After so long a device tries anew to enter all flows, if its kernel had no room for some."""
RETURN_S = 0.05
"""Between two messages to a new primary about what it lacks: 20,000 flows in a second."""

_log = logging.getLogger("halb.flows")


class Following:
    """What this device is told, as secondary of some groups. Times are seconds."""

    def __init__(
        self,
        send: Callable[[DeviceId, Message], None],
        worker: FlowWorker,
        tellers: Tellers,
        deliver: Callable[[Behind], None],
    ) -> None:
        self._send = send
        self._worker = worker
        self._tellers = tellers
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._wanted: Mapping[DeviceId, frozenset[GroupId]] = {}
        self._in: dict[DeviceId, Incoming] = {}
        self._mirrors: dict[DeviceId, Mirror] = {}
        self._in_step: set[GroupId] = set()
        """Groups whose flows are in this kernel, as far as any primary told."""
        self._lacking: dict[GroupId, float] = {}
        """Other groups, and since when."""
        self._full: frozenset[GroupId] = frozenset()
        """Those of them for whose flows the kernel had no room."""
        self._behind: tuple[tuple[GroupId, str], ...] = ()
        self._compared: dict[DeviceId, float] = {}
        """When the newest stream of each device began to come."""
        self._kept = KeptFlows()
        self._known: set[GroupId] = set()
        """Groups that this agent led, or was told all flows of."""

    def arrange(self) -> None:
        """Who is primary of what has changed: ask each primary for its groups' flows."""
        before, self._wanted = self._wanted, self._tellers.wanted()
        for leader, groups in before.items():
            source, lost = self._in.get(leader), groups - self._wanted.get(leader, frozenset())
            if lost and source is not None and source.complete:
                self._kept.lost(lost & source.covered, source.heard)
        for leader, groups in self._wanted.items():
            if not groups <= before.get(leader, frozenset()):
                # Also of those that it told of before: what it said meanwhile was not heeded.
                source = self._in.setdefault(leader, Incoming(groups))
                source.wanted, source.anew = groups, True
                self._ask_anew(leader)
        self._in_step &= self._tellers.carried
        self._in_step |= self._tellers.led()
        self._known &= self._tellers.carried
        self._known |= self._tellers.led()
        self._judge()

    def told(self, leader: DeviceId) -> ToldFlows:
        """The flows that a primary told of; none where that was long ago."""
        source, mirror = self._in.get(leader), self._mirrors.get(leader)
        lately = source is not None and self._loop.time() - source.heard < WORTH_S
        return mirror.told if mirror is not None and lately else ToldFlows()

    def was_away(self, group: GroupId) -> None:
        """This device lost its office, and handed it to nobody: for a while it heard nothing, or
        was not heard, and what began elsewhere meanwhile is not in its kernel."""
        self._in_step.discard(group)

    def _judge(self) -> None:
        """Tell the core for which groups this device is no choice of a planned move yet."""
        now = self._loop.time()
        wanted = frozenset().union(*self._wanted.values())
        self._lacking = {g: self._lacking.get(g, now) for g in wanted - self._in_step}
        self._full &= self._lacking.keys()
        lacking = dict.fromkeys((g for g, t in self._lacking.items() if now - t < BEHIND_S), BEHIND)
        behind = tuple(sorted((lacking | dict.fromkeys(self._full, FULL)).items()))
        if behind != self._behind:
            self._behind = behind
            self._deliver(Behind(behind))

    def _ask_anew(self, leader: DeviceId, times: int = ROUNDS) -> None:
        """What is sent while a connection is made may be lost."""
        if times and leader in self._in and self._in[leader].anew:
            self._ask(leader)
            self._loop.call_later(AGAIN_S, self._ask_anew, leader, times - 1)

    def _ask(self, leader: DeviceId) -> None:
        for question in self._in[leader].questions() if leader in self._in else ():
            self._send(leader, question)

    def on_part(self, leader: DeviceId, part: FlowsPart) -> None:
        """A primary tells of its flows, or that it has nothing to tell."""
        source, table = self._in.get(leader), self._worker.table
        if source is None or table is None:
            return
        now, told = self._loop.time(), self.told(leader)
        step = source.take(part, now)
        if step is Step.GAP:
            _log.info("flows of %s have to be told anew", leader)
            self._forget(leader, source)
            self._ask(leader)
        elif step is not Step.SIGN:
            vips = self._tellers.vips_of(self._tellers.believed(leader, source.covered))
            if step is Step.FIRST:
                self._compared[leader] = now
                source.vips = self._tellers.vips_of(source.covered)
                source.blurred = self._tellers.draining(source.covered, now)
                worth = self._kept.worth(source.covered & self._in_step, now)
                # What the agent before this one did, only the kernel knows.
                unknown = source.covered - self._known
                kept = map(self._tellers.vips_of, (worth, unknown))
                self._mirrors[leader] = Mirror(table, told, *kept)
            mirror = self._mirrors[leader]
            mine = self._tellers.mine(now)
            work = partial(enter, mirror, part, vips, mine, first=step is Step.FIRST)
            entered = partial(self._entered, leader, source, part)
            self._worker.do(work, entered, partial(entered, None))

    def _entered(
        self, leader: DeviceId, source: Incoming, part: FlowsPart, entered: Entered | None
    ) -> None:
        if entered is None:
            self._forget(leader, source)
        else:
            if entered.refused:
                self._is_full(leader, source)
            if source.enter(part):
                if not entered.refused:
                    _log.info("in step with the flows of %s", leader)
                    self._in_step |= source.covered
                self._known |= source.covered
                self._kept.settle(source.covered)
                self._return(leader, entered.untold)
                self._judge()
        self._ask(leader)

    def _is_full(self, leader: DeviceId, source: Incoming) -> None:
        """The kernel had no room for some flows of this stream."""
        groups = self._groups(leader, source)
        if not groups <= self._full:
            _log.warning("the connection table is full: flows of %s are missing here", leader)
        self._full |= groups
        self._in_step -= groups
        self._judge()

    def _return(self, leader: DeviceId, flows: tuple[Flow, ...]) -> None:
        """Tell a new primary of flows that it seems to lack. Once, and unasked: what is lost
        on the way is lost, and the streams that tell of all go on meanwhile."""
        if flows:
            _log.info("%s lacks %d flows of the primary before", leader, len(flows))
        for place, message in enumerate(kept(flows)):
            self._loop.call_later(place * RETURN_S, self._send, leader, message)

    def _forget(self, leader: DeviceId, source: Incoming) -> None:
        """The stream has ended, and this device lacks what it would have told."""
        self._in_step -= self._groups(leader, source)
        source.forget()
        self._judge()

    def _groups(self, leader: DeviceId, source: Incoming) -> set[GroupId]:
        """What the present stream of a primary is about, and it still leads."""
        return {g for g in source.covered if self._tellers.leads(leader, g)}

    def keep(self, now: float) -> None:
        """Signs of life to whom something is asked of; let go of others."""
        for leader, source in list(self._in.items()):
            if leader in self._wanted:
                source.unwanted = None
                if source.complete and now - source.heard > QUIET_S:
                    _log.info("%s tells nothing of its flows", leader)
                    self._forget(leader, source)
                patience = FULL_S if self._full & source.covered else COMPARE_S
                old = now - self._compared.get(leader, now) > patience
                old |= source.blurred and not self._tellers.draining(source.covered, now)
                uncovered = not self._wanted[leader] <= source.covered
                uncovered |= not self._tellers.vips_of(source.covered) <= source.vips
                source.anew = source.anew or (source.complete and (old or uncovered))
            elif source.unwanted is None:
                source.unwanted = now
            if source.unwanted is not None and now - source.unwanted > DRAIN_S:
                del self._in[leader]
                self._mirrors.pop(leader, None)
                self._compared.pop(leader, None)
            else:
                self._ask(leader)
        self._judge()

    def forget_all(self) -> None:
        """Nothing more is asked of anybody."""
        self._in.clear()
