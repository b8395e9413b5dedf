"""Gateways that are drained with a deadline: disabled when it comes, and emptied.

The primary of the Virtual Server has the gateway disabled, by a change of the
configuration as an operator would make, if nothing was changed meanwhile. Then
each device takes what flows the gateway still has out of its connection table:
their clients are reset at their next packet and connect again, elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass

from agent.clock import Deadlines
from agent.conntrack import end_flows
from agent.ruleset import remembers_all
from agent.tellers import FRESH_S
from protocol.changes import SetGateway
from protocol.effects import Event
from protocol.errors import HalbError
from protocol.ids import GroupId
from protocol.objects import Gateway, VirtualServer

LONGEST_S = 60 * 86_400.0
"""What is further ahead was written by a clock that is wrong, or is read by one."""
AGAIN_S = 2.0
"""Until a change that may have failed is proposed again."""
SWEEPS_S = (0.0, 2.0, 6.0)
"""When flows are ended, counted from when the gateway was found disabled. Not once: another
device may have handed some over in the middle of it."""
LAST_S = FRESH_S
"""When that is done once more. A device that was away when the deadline came has the flows still,
and tells a new primary of them for so long."""

_log = logging.getLogger("halb.draining")

_Key = tuple[GroupId, str, int]


@dataclass(frozen=True)
class _Sweep:
    """Flows of a gateway that are being ended."""

    address: str
    timers: tuple[asyncio.TimerHandle, ...]
    ends: float
    """When the last of them is due, by the loop's clock."""

    def cancel(self) -> None:
        for timer in self.timers:
            timer.cancel()


class Draining:
    """Looks from time to time; belongs to the loop's thread."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._proposed: dict[_Key, float] = {}
        self._looked = False
        """Whether what was disabled before this agent started is known."""
        self._swept: dict[_Key, _Sweep] = {}
        """By gateway, also after it was removed, until it may have connections again."""

    def due(
        self, servers: Iterable[VirtualServer], held: Container[GroupId], deadlines: Deadlines
    ) -> Iterator[SetGateway]:
        """The changes that are due now, of Virtual Servers that this device is primary of.

        Begins to end the flows of gateways that were disabled at their deadline.
        """
        now, over, used = self._loop.time(), set(), set()
        for server in servers:
            for gateway in server.gateways:
                if gateway.state != "disabled":
                    used.add((server.uid, gateway.address))
                until = gateway.drain_until
                if until is None:
                    continue
                key = (server.uid, gateway.name, until)
                if gateway.state == "disabled":
                    over.add(key)
                    if key not in self._swept:
                        news = self._looked and server.uid in held
                        self._sweep(key, server, gateway, news=news)
                    continue
                left = deadlines.left(key, until, LONGEST_S)
                waits = left > 0 or now < self._proposed.get(key, 0.0)
                if not waits and server.uid in held:
                    self._proposed[key] = now + AGAIN_S
                    yield SetGateway(server.name, gateway.name, state="disabled", drain_until=until)
        self._looked = True
        for key in self._swept.keys() - over:
            sweep = self._swept[key]
            if (key[0], sweep.address) in used or now > sweep.ends:
                sweep.cancel()
                del self._swept[key]
            self._proposed.pop(key, None)

    def _sweep(self, key: _Key, server: VirtualServer, gateway: Gateway, *, news: bool) -> None:
        vips, address, total = server.addresses, gateway.address, [0]

        def end(last: bool) -> None:
            ending = self._loop.run_in_executor(None, end_flows, vips, (address,))
            ending.add_done_callback(lambda done: ended(done, last))

        def ended(done: asyncio.Future[int], last: bool) -> None:
            if done.cancelled():
                return
            error = done.exception()
            if isinstance(error, HalbError):
                _log.error("cannot end the flows of gateway %s: %s", gateway.name, error.message)
            elif error is not None:
                raise error
            else:
                total[0] += done.result()
            if last and news:
                what = f"gateway {gateway.name} is disabled at its deadline"
                count = _ended(total[0], counted=remembers_all(server))
                self._tell(Event("drained", server.uid, f"{what}: {count}"))

        last = SWEEPS_S[-1]
        timers = [self._loop.call_later(after, end, after == last) for after in SWEEPS_S]
        timers.append(self._loop.call_later(LAST_S, end, False))
        self._swept[key] = _Sweep(address, tuple(timers), self._loop.time() + LAST_S)

    def close(self) -> None:
        for sweep in self._swept.values():
            sweep.cancel()


def _ended(number: int, *, counted: bool) -> str:
    """What became of the connections of a gateway, in words."""
    if not counted:
        others = "what it still had, which nobody counts, was ended"
        return f"{number} connections were ended; {others}" if number else others
    return f"{number} connections were ended" if number else "it was empty"
