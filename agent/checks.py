"""Health checks of gateways: who is down, and why.

Every device that carries a Virtual Server checks its gateways. Equal checks
of several listeners or Virtual Servers are made once. A gateway is down while
any check of its listeners is down; a check goes down after ``fall`` bad
answers in a row and comes back after ``rise`` good ones. Until its first
answer a check counts as good, but for gateways that were down in a former life
of the agent, and the first answer decides at once: a device that has just
started neither drops all gateways nor waits for ``fall`` to learn that one is
dead. One that is added to others which take connections, or given another address,
is avoided until its first answer. Only silence is asked about once more, at once:
as a network comes up, frames get lost. An answer that only says something about
this host (no file descriptors left, no carrier, a full connection table) is not counted,
but shown.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from random import Random

import msgspec

from agent.conntrack_limit import Crowding
from agent.distribution import GatewayKey, takes_flows
from agent.probes import Answer, Cancel, Start, Verdict
from agent.repertoire import repertoire
from agent.rise_and_fall import Course
from protocol.addresses import family
from protocol.health import check_for
from protocol.ids import GroupId
from protocol.objects import Check, VirtualServer

Down = frozenset[GatewayKey]

MAX_IN_FLIGHT = 256
"""Checks under way at once; more wait for their turn. Each takes one file descriptor."""
JITTER = 0.1
"""Each interval is shortened or lengthened by up to this share, so that devices spread."""
TICK_S = 0.1
"""TCP checks start on multiples of this, several in one wake-up, which costs more than a check."""
FIRST_WITHIN_S = 0.2
"""A new check is first made within this time."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is checked and how; equal targets are checked once."""

    address: str
    port: int
    check: Check
    """Without its port, which is ``port`` here."""


def targets_of(server: VirtualServer) -> dict[str, dict[Target, str]]:
    """Targets of each gateway that is checked, with the listener that asks for each."""
    checks = [(c, listener) for listener in server.listeners if (c := check_for(listener))]
    found: dict[str, dict[Target, str]] = {}
    for gateway in server.gateways:
        if gateway.state == "disabled":
            continue
        of_gateway = found.setdefault(gateway.name, {})
        for check, listener in checks:
            port = check.port or listener.gateway_port
            target = Target(gateway.address, port, msgspec.structs.replace(check, port=None))
            of_gateway.setdefault(target, listener.key)
    return found


def _avoidable(servers: Iterable[VirtualServer], unasked: Down, down: Down) -> Iterator[GatewayKey]:
    """Those of ``unasked`` in whose place another gateway takes connections."""
    concerned = {uid for uid, _ in unasked}
    for vs in (server for server in servers if server.uid in concerned):
        takers = (g for g in vs.gateways if takes_flows(vs, g, down | unasked))
        versions = {family(taker.address) for taker in takers}
        for gateway in vs.gateways:
            if (vs.uid, gateway.name) in unasked and family(gateway.address) in versions:
                yield vs.uid, gateway.name


class Watched:
    """One target with its course, its timer and the check under way."""

    __slots__ = ("cancel", "course", "excused", "gone", "target", "timer", "unclear")

    def __init__(self, target: Target) -> None:
        self.target = target
        self.course = Course(target.check)
        self.timer: asyncio.Handle | None = None
        """Of the next check; None while one is under way or has its turn soon."""
        self.cancel: Cancel | None = None
        self.unclear = ""
        """Why the newest check could not be made; empty if it could."""
        self.excused = False
        """Whether that is over soon for all checks together."""
        self.gone = False
        """Whether nobody asks for it any more."""

    @property
    def new(self) -> bool:
        """Nothing is known yet, and may be soon."""
        return self.course.up is None and (self.excused or not self.unclear)


class HealthChecks:
    """Checks the gateways of the Virtual Servers that this device carries.

    ``on_change`` gets the whole down set at once when it changed, or what is
    avoided did; it is called in the event loop and must not block. All methods
    belong to that loop.
    """

    def __init__(
        self,
        on_change: Callable[[Down], None],
        random: Random,
        *,
        probes: Mapping[str, Start] | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        known: Mapping[GatewayKey, str] | None = None,
        crowded: Callable[[float], str] | None = None,
    ) -> None:
        """``known`` says why gateways were down when another one ended that checked them;
        ``crowded`` why this host cannot begin flows (empty: it can)."""
        self._on_change = on_change
        self._random = random
        self._probes = repertoire() if probes is None else probes
        self._max_in_flight = max_in_flight
        self._loop = asyncio.get_running_loop()
        self._watched: dict[Target, Watched] = {}
        self._gateways: dict[GatewayKey, dict[Target, str]] = {}
        self._users: dict[Target, dict[GatewayKey, None]] = {}
        self._servers: dict[GroupId, VirtualServer] = {}
        """Those whose gateways are checked."""
        self._waiting: deque[Watched] = deque()
        self._in_flight = 0
        self._turned: set[GatewayKey] = set()
        self._telling: asyncio.Handle | None = None
        self._down: Down = frozenset()
        self._unasked: Down = frozenset()
        """Gateways that were added, or moved, and of which nothing is known yet."""
        self._proved: set[GatewayKey] = set()
        self._before: dict[GatewayKey, list[str]] = {}
        """Why gateways were down when the targets were set last."""
        self._known = {key: [why] for key, why in (known or {}).items()}
        """The same before they were ever set."""
        self.made = 0
        """Checks made so far."""
        self._excuse = ""
        self._crowded = Crowding() if crowded is None else crowded

    @property
    def excuse(self) -> str:
        """Why bad answers say nothing about gateways now; empty: they do."""
        return self._excuse

    @excuse.setter
    def excuse(self, why: str) -> None:
        over = bool(self._excuse) and not why
        self._excuse = why
        if over:
            # Of some nothing is known yet: not only in an interval's time.
            for watched in self._watched.values():
                if watched.excused and watched.timer is not None:
                    watched.timer.cancel()
                    self._ask_soon(watched)

    @property
    def down(self) -> Down:
        """Gateways that are down now."""
        return self._down

    @property
    def avoided(self) -> Down:
        """Gateways that take nothing new: those that are down, or were added and have yet to
        answer, while others take connections."""
        return self._down | self._unasked

    @property
    def proved(self) -> Collection[GatewayKey]:
        """Gateways that have been up, as their checks say."""
        return self._proved

    def reasons(self) -> dict[GatewayKey, str]:
        """Why each gateway that is down is: ``tcp/443: connection refused``."""
        return {key: "; ".join(self._bad(key)) for key in sorted(self._down)}

    def checks(self, key: GatewayKey) -> bool:
        """Whether anything about this gateway is checked."""
        return bool(self._gateways.get(key))

    def troubles(self) -> tuple[str, ...]:
        """Why checks cannot be made on this host; empty if they can."""
        return tuple(sorted({w.unclear for w in self._watched.values() if w.unclear}))

    def set_targets(self, servers: Collection[VirtualServer]) -> None:
        """Check these Virtual Servers' gateways from now on; unchanged targets keep their state.

        A gateway that is down stays so until all that is new about it was asked. Only those that
        changed are looked at: with 10,000 gateways a look at all takes half a lease.
        """
        self._before = self._known or {key: self._bad(key) for key in self._down}
        self._known = {}
        before, self._servers = self._servers, {server.uid: server for server in servers}
        changed = [server for server in servers if before.get(server.uid) != server]
        altered = {server.uid for server in changed} | (before.keys() - self._servers.keys())
        former = dict(self._taken_out(server for uid in altered if (server := before.get(uid))))
        new = {
            (server.uid, name): targets
            for server in changed
            for name, targets in targets_of(server).items()
        }
        self._gateways |= new
        for key, targets in new.items():
            for target in targets:
                self._users.setdefault(target, {})[key] = None
        self._watch(former, new)
        gone = former.keys() - new.keys()
        self._proved -= gone
        down = self._judged(self._turned | new.keys()) - gone
        known = {uid for uid, _ in former}
        added = {key for key in new if key[0] in known and self._comes(key, former)}
        self._tell(down, frozenset(_avoidable(servers, self._unasked | added, down)))

    def _taken_out(
        self, servers: Iterable[VirtualServer]
    ) -> Iterator[tuple[GatewayKey, dict[Target, str]]]:
        """Forget who asks for the targets of these, and tell which they were, by gateway."""
        for server in servers:
            for key in ((server.uid, gateway.name) for gateway in server.gateways):
                targets = self._gateways.pop(key, None)
                if targets is None:
                    continue
                for target in targets:
                    del self._users[target][key]
                    if not self._users[target]:
                        del self._users[target]
                yield key, targets

    def _watch(self, *altered: Mapping[GatewayKey, Iterable[Target]]) -> None:
        """Begin or end to ask those targets that somebody asks for now, or nobody any more."""
        for target in {target for each in altered for some in each.values() for target in some}:
            if target not in self._users:
                self._forget(self._watched.pop(target))
            elif target not in self._watched:
                watched = self._watched[target] = Watched(target)
                self._ask_soon(watched)

    def _comes(self, key: GatewayKey, former: Mapping[GatewayKey, Mapping[Target, str]]) -> bool:
        """Whether a gateway was not there before, or at another address."""
        here = {target.address for target in self._gateways[key]}
        return key not in former or any(target.address not in here for target in former[key])

    def suspect(self, key: GatewayKey, listener: str, why: str) -> None:
        """There is evidence against a gateway: check it now, as if for the last time.

        ``why`` is the reason that is shown if the answer is bad, or still under way.
        """
        for target, name in self._gateways.get(key, {}).items():
            watched = self._watched[target]
            waits = watched.timer
            if name == listener and watched.course.suspect(why) and waits is not None:
                waits.cancel()
                watched.timer = self._loop.call_soon(self._due, watched)

    def close(self) -> None:
        """Stop all checks; ``on_change`` is not called any more."""
        self._waiting.clear()
        for watched in self._watched.values():
            self._forget(watched)
        self._watched.clear()
        if self._telling is not None:
            self._telling.cancel()

    def _forget(self, watched: Watched) -> None:
        watched.gone = True
        if watched.timer is not None:
            watched.timer.cancel()
        if watched.cancel is not None:
            watched.cancel()
            self._in_flight -= 1
            self._start_waiting()

    def _ask_soon(self, watched: Watched) -> None:
        first = self._random.random() * min(FIRST_WITHIN_S, watched.target.check.interval)
        watched.timer = self._loop.call_later(first, self._due, watched)

    def _due(self, watched: Watched) -> None:
        watched.timer = None
        self._waiting.append(watched)
        self._start_waiting()

    def _start_waiting(self) -> None:
        while self._waiting and self._in_flight < self._max_in_flight:
            watched = self._waiting.popleft()
            if not watched.gone:
                self._start(watched)

    def _start(self, watched: Watched) -> None:
        self._in_flight += 1
        self.made += 1
        target = watched.target
        # From start to start: a gateway that hangs is checked as often as one that answers.
        following = self._following(target.check)
        excuse = self.excuse

        def done(answer: Answer) -> None:
            why = (excuse or self.excuse) if answer.verdict is Verdict.BAD else ""
            unclear = why or (self._crowded(self._loop.time()) if answer.silent else "")
            watched.cancel = None
            self._in_flight -= 1
            self._take(watched, Answer(Verdict.UNCLEAR, unclear) if unclear else answer, bool(why))
            again = watched.course.doubtful or (watched.excused and not self.excuse)
            at = self._loop.time() if again else following
            watched.timer = self._loop.call_at(at, self._due, watched)
            self._start_waiting()

        start = self._probes[target.check.type]
        watched.cancel = start(self._loop, target.address, target.port, target.check, done)

    def _following(self, check: Check) -> float:
        spread = 1 + JITTER * (2 * self._random.random() - 1)
        at = self._loop.time() + check.interval * spread
        if check.type != "tcp":
            return at  # dearer than waking up: rather one by one than many at once
        tick = min(TICK_S, check.interval * JITTER)
        return math.ceil(at / tick) * tick

    def _take(self, watched: Watched, answer: Answer, excused: bool) -> None:
        was_new, watched.excused = watched.new, excused
        watched.unclear = answer.reason if answer.verdict is Verdict.UNCLEAR else ""
        if not watched.course.take(answer) and not was_new:
            return
        self._turned.update(self._users[watched.target])
        if self._telling is None:
            # Not at once: gateways that fail in one round of the loop are told together.
            self._telling = self._loop.call_soon(self._tell_turned)

    def _tell_turned(self) -> None:
        self._tell(self._judged(self._turned), self._unasked)

    def _judged(self, turned: AbstractSet[GatewayKey]) -> Down:
        """All that are down: those that ``turned`` by what their checks say now."""
        here = turned & self._gateways.keys()
        bad = {key for key in here if self._bad(key)}
        self._proved.update(key for key in here - bad if self._is_up(key))
        return (self._down - here) | bad

    def _tell(self, down: Down, unasked: Down) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        self._turned.clear()
        before = self._down, self._unasked
        self._down, self._unasked = down, frozenset(filter(self._is_new, unasked)) - down
        if before != (self._down, self._unasked):
            self._on_change(down)

    def _is_up(self, key: GatewayKey) -> bool:
        return all(self._watched[target].course.up for target in self._gateways[key])

    def _is_new(self, key: GatewayKey) -> bool:
        return any(self._watched[target].new for target in self._gateways.get(key, ()))

    def _bad(self, key: GatewayKey) -> list[str]:
        """Listeners of a gateway whose checks are down, with the reason."""
        asked = [(name, self._watched[t]) for t, name in self._gateways[key].items()]
        bad = [f"{name}: {w.course.reason}" for name, w in asked if w.course.up is False]
        return bad or (self._before.get(key, []) if self._is_new(key) else [])
