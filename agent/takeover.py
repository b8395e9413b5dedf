"""Is a takeover believed? Asks the neighbours of a VIP, until their answers come here.

After an announcement, and at each refresh, every neighbour that matters (the
router, the arbiter, gateways on the segment) is sent an echo request from the
VIP. Its answer goes to the hardware address that it holds for the VIP. One that
answers this device's own address but not the VIP has not learnt: it is told
again, by name, and if it still has not after 8 s that is an alarm. One
that answers neither cannot be asked, and nothing is said of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agent.clock import boottime
from protocol.ids import GroupId

AFTER_S = (0.05, 0.1, 0.25, 0.6, 0.5, 1.0, 1.5, 2.0)
"""Pauses between the questions to those that have not answered."""
INSIST_FROM = 4
"""From this question on who has not learnt is told by name. Linux takes no second change of
an entry within one second, so less would be in vain."""
PATIENCE_S = 2.0
"""An alarm, if a neighbour has not learnt so long after the last question."""
AT_ONCE = 64
"""Questions sent in one pass of the loop."""
PAUSE_S = 0.005
"""Between two such passes: 12,800 questions a second at most."""

Pair = tuple[str, str]
"""(VIP, neighbour)."""


@dataclass(frozen=True)
class Verdict:
    """The end of a round."""

    group: GroupId
    learnt: tuple[Pair, ...]
    stale: tuple[Pair, ...]
    """Those that answer, and look for the VIP elsewhere."""
    took_ns: int
    """From the announcement until the last one had learnt; 0 if none has."""


@dataclass
class _Round:
    group: GroupId
    began: int
    """Own clock, ns."""
    waiting: set[Pair]
    learnt: dict[Pair, int] = field(default_factory=dict)
    answering: set[str] = field(default_factory=set)
    """Neighbours that answer this device's own address."""
    numbers: list[int] = field(default_factory=list)
    """Of the questions that were not answered."""
    times: int = 0
    """How often those that have not learnt were asked."""
    timer: asyncio.TimerHandle | None = None


class Takeovers:
    """Rounds of questions, one at a time for each group. Belongs to the loop's thread."""

    def __init__(
        self,
        ask: Callable[[str, int, str | None], None],
        insist: Callable[[str, str], None],
        on_verdict: Callable[[Verdict], None],
    ) -> None:
        """``ask(neighbour, number, VIP or None)`` sends; :meth:`answered` takes the numbers."""
        self._ask = ask
        self._insist = insist
        self._on_verdict = on_verdict
        self._loop = asyncio.get_running_loop()
        self._rounds: dict[GroupId, _Round] = {}
        self._asked: dict[int, tuple[_Round, Pair | str]] = {}
        self._number = 0
        self._queue: deque[tuple[_Round, Pair | str]] = deque()
        self._sending: asyncio.TimerHandle | None = None

    def begin(self, group: GroupId, pairs: Sequence[Pair], announced: int) -> None:
        """Ask about these, ``announced`` (own clock, ns); ends an older round unheard."""
        self.end(group)
        if pairs:
            asked = self._rounds[group] = _Round(group, announced, set(pairs))
            self._ask_again(asked)

    def end(self, group: GroupId) -> None:
        """Forget the round of ``group``."""
        asked = self._rounds.pop(group, None)
        if asked is None:
            return
        if asked.timer is not None:
            asked.timer.cancel()
        for number in asked.numbers:
            self._asked.pop(number, None)

    def answered(self, number: int) -> None:
        """The question of this number was answered, to this device."""
        found = self._asked.pop(number, None)
        if found is None:
            return
        asked, about = found
        if isinstance(about, str):
            asked.answering.add(about)
        elif about in asked.waiting:
            asked.waiting.discard(about)
            asked.learnt[about] = boottime()
            if not asked.waiting:
                self._finish(asked)

    def _ask_again(self, asked: _Round) -> None:
        number, asked.times = asked.times, asked.times + 1
        silent = {neighbour for _, neighbour in asked.waiting} - asked.answering
        # In IPv6 the first packet's source is also that of the question where the neighbour is.
        # Asked by the VIP, one that has not learnt would answer elsewhere.
        self._queue.extend((asked, each) for each in sorted(silent) if number or ":" in each)
        for vip, neighbour in sorted(asked.waiting):
            self._queue.append((asked, (vip, neighbour)))
        last = number == len(AFTER_S)
        asked.timer = self._loop.call_later(
            PATIENCE_S if last else AFTER_S[number],
            self._finish if last else self._ask_again,
            asked,
        )
        if self._sending is None:
            # Never from here: a thousand rounds begin at the same time.
            self._sending = self._loop.call_later(0, self._send)

    def _send(self) -> None:
        self._sending = None
        for _ in range(min(AT_ONCE, len(self._queue))):
            asked, about = self._queue.popleft()
            if self._rounds.get(asked.group) is not asked:
                continue
            self._number = self._number % 0xFFFFFFFF + 1
            asked.numbers.append(self._number)
            self._asked[self._number] = (asked, about)
            if isinstance(about, str):
                self._ask(about, self._number, None)
                continue
            vip, neighbour = about
            if asked.times > INSIST_FROM and neighbour in asked.answering:
                self._insist(vip, neighbour)
            self._ask(neighbour, self._number, vip)
        if self._queue:
            self._sending = self._loop.call_later(PAUSE_S, self._send)

    def _finish(self, asked: _Round) -> None:
        self.end(asked.group)
        stale = {pair for pair in asked.waiting if pair[1] in asked.answering}
        took = max(asked.learnt.values(), default=asked.began) - asked.began
        self._on_verdict(Verdict(asked.group, tuple(asked.learnt), tuple(sorted(stale)), took))

    def close(self) -> None:
        for group in list(self._rounds):
            self.end(group)
        if self._sending is not None:
            self._sending.cancel()
