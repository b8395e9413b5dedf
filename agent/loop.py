"""The agent's loop: everything that happened, one step of the core, its effects.

Inputs that arrive together are handled by one step, before timers: a step that
comes late finds the messages that came in time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from agent.clock import boottime
from agent.patience import PatientLoop
from agent.pause import PauseWatch
from protocol.effects import Effect, Input, Paused
from protocol.node import Node

_log = logging.getLogger("halb.loop")

MAX_INPUTS = 100_000
"""Inputs that may wait for a step; more than this means that nobody steps."""


class Loop:
    """Steps a :class:`Node` when it has inputs or is due."""

    def __init__(
        self,
        node: Node,
        on_woken: Callable[[int, int], None],
        pauses: PauseWatch | None = None,
    ) -> None:
        """``on_woken(due, now)`` is told when each timed step was due and when it came."""
        self._pauses = pauses or PauseWatch(())
        self.node = node
        self._carry_out: Callable[[list[Effect]], None] | None = None
        self._on_woken = on_woken
        self._inputs: list[Input] = []
        self._loop = asyncio.get_running_loop()
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0
        self._closed = False

    def start(self, carry_out: Callable[[list[Effect]], None]) -> None:
        """Take the first step, with what was delivered before."""
        self._carry_out = carry_out
        _log.info("pauses of this machine are noticed by %s", self._pauses)
        self._step()

    def deliver(self, item: Input) -> None:
        """Hand an input to the core; it is handled in this pass of the event loop."""
        assert len(self._inputs) < MAX_INPUTS
        self._inputs.append(item)
        if self._soon is None and self._carry_out is not None and not self._closed:
            self._soon = self._loop.call_soon(self._step)

    def _on_timer(self) -> None:
        self._timer = None
        self._on_woken(self._timer_due, boottime())
        self._step()
        if isinstance(self._loop, PatientLoop):
            self._loop.asked()

    def _step(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        inputs, self._inputs = self._inputs, []
        assert self._carry_out is not None
        now = boottime()
        if lost := self._pauses.lost(now):
            _log.warning("this machine was paused for %.1f s", lost / 1e9)
            # Before what waited meanwhile: it answers questions from before the pause.
            inputs.insert(0, Paused(lost))
        effects = self.node.step(now, inputs)
        try:
            self._carry_out(effects)
        finally:
            # Whatever could not be done: the core is due again.
            self._plan()

    def _plan(self) -> None:
        """Wake up when the core is due next; a timer that is early enough stays."""
        if self._closed:
            return
        due = self.node.wake_at()
        if self._timer is not None:
            if self._timer_due == due:
                return
            self._timer.cancel()
        self._timer_due = due
        delay = max(0, due - boottime()) / 1e9
        self._timer = self._loop.call_later(delay, self._on_timer)

    def close(self) -> None:
        """Step no more."""
        self._closed = True
        for handle in (self._soon, self._timer):
            if handle is not None:
                handle.cancel()
