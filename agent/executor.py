"""Carries out the effects of a step, in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from agent.bundles import Bundles
from agent.carrier import Carrier
from agent.storage import Storage
from protocol.bundle import Frame
from protocol.config import Config
from protocol.conflicts import Conflict
from protocol.effects import (
    Acquire,
    Announce,
    Apply,
    Connect,
    Effect,
    Event,
    KeepConflict,
    Lame,
    Outcome,
    PersistBallots,
    PersistConfig,
    PersistLocal,
    ProbeArbiter,
    Refresh,
    Release,
    Send,
    Stopped,
)
from protocol.flows import Flush
from protocol.ids import DeviceId


class Listener(Protocol):
    """What the agent does with effects that are news rather than deeds."""

    def on_config(self, config: Config) -> None: ...
    def on_conflict(self, conflict: Conflict) -> None: ...
    def on_connect(self, connect: Connect) -> None: ...
    def on_event(self, event: Event) -> None: ...
    def on_outcome(self, outcome: Outcome) -> None: ...
    def on_stopped(self) -> None: ...


class Executor:
    """Turns effects into deeds."""

    def __init__(
        self,
        *,
        send: Callable[[DeviceId, Frame], None],
        storage: Storage,
        carrier: Carrier | None,
        listener: Listener,
    ) -> None:
        """``carrier``, once started; None on a witness, which has no part in the kernel."""
        self._bundles = Bundles(send)
        self._storage = storage
        self._carrier = carrier
        self._vips = carrier.vips if carrier else None
        self._prober = carrier.prober if carrier else None
        self._listener = listener

    def carry_out(self, effects: list[Effect]) -> None:
        """All effects of one step, in their order."""
        try:
            self._do(effects)
        finally:
            self._bundles.flush()

    def _do(self, effects: list[Effect]) -> None:
        renewed = opened = closed = 0
        for at, effect in enumerate(effects):
            if isinstance(effect, Send):
                self._bundles.send(effect.to, effect.message)
            elif isinstance(effect, Refresh):
                if at >= renewed:
                    renewed = self._renew(effects, at)
            elif isinstance(effect, PersistBallots):
                self._bundles.flush()
                self._storage.save_ballots(effect.number, effect.ballots)
            elif isinstance(effect, Acquire):
                if at >= opened:
                    self._bundles.flush()
                    if at >= renewed:
                        # What lives does not wait for what opens.
                        renewed = self._renew(effects, at)
                    opened = self._acquire(effects, at)
            elif isinstance(effect, Release | Lame):
                if at >= closed:
                    closed = self._end_leases(effects, at)
            elif isinstance(effect, Announce | ProbeArbiter | Flush):
                self._speak(effect)
            else:
                self._tell(effect)

    def _renew(self, effects: list[Effect], at: int) -> int:
        """Renew together all leases that come before the next end of one; where that is."""
        end = _next_end(effects, at)
        if self._vips is not None:
            self._vips.refresh([e for e in effects[at:end] if isinstance(e, Refresh)])
        return end

    def _acquire(self, effects: list[Effect], at: int) -> int:
        """Open together all leases that come before the next end of one; where that is."""
        end = _next_end(effects, at)
        if self._vips is not None:
            self._vips.acquire([e for e in effects[at:end] if isinstance(e, Acquire)])
        return end

    def _end_leases(self, effects: list[Effect], at: int) -> int:
        """Close together, or let drain, all leases until one begins, goes on or ends otherwise;
        where that is.

        Sooner than their turn is no harm: what is told comes after.
        """
        kind = type(effects[at])
        later = range(at + 1, len(effects))
        others = Acquire | Refresh | (Lame if kind is Release else Release)
        end = next((i for i in later if isinstance(effects[i], others)), len(effects))
        if self._vips is not None and kind is Lame:
            self._vips.lame([e for e in effects[at:end] if isinstance(e, Lame)])
        elif self._vips is not None:
            self._vips.release([e for e in effects[at:end] if isinstance(e, Release)])
        return end

    def _speak(self, effect: Announce | ProbeArbiter | Flush) -> None:
        match effect:
            case Announce() if self._vips is not None:
                self._vips.announce([effect.group])
            case ProbeArbiter() if self._prober is not None:
                self._prober.ask(effect)
            case Flush() if self._carrier is not None:
                self._carrier.clients.flush(effect, self._carrier.flows.flush)

    def _tell(
        self,
        effect: PersistConfig
        | KeepConflict
        | PersistLocal
        | Apply
        | Connect
        | Event
        | Outcome
        | Stopped,
    ) -> None:
        match effect:
            case PersistConfig(config, committed):
                self._storage.save_config(config, committed)
                if self._carrier is not None:
                    self._carrier.on_stored(config)
            case PersistLocal(local):
                self._storage.save_local(local)
            case KeepConflict(conflict):
                self._listener.on_conflict(conflict)
            case Apply(config):
                self._listener.on_config(config)
            case Connect():
                self._listener.on_connect(effect)
            case Event():
                self._listener.on_event(effect)
            case Outcome():
                self._listener.on_outcome(effect)
            case Stopped():
                self._listener.on_stopped()


def _next_end(effects: list[Effect], at: int) -> int:
    """Where the next lease after ``at`` ends; the number of effects if none does."""
    later = range(at, len(effects))
    return next((i for i in later if isinstance(effects[i], Release | Lame)), len(effects))
