"""Gateways that go down and come back, for the history: when, and why.

The primary's view decides where connections go, so the primary alone tells, and
every device of the Site remembers it. Gateways that come and go without end
must not push everything else out of the history: so many are told, and how many
were not is said with the next one. What is told last of each is true: where that
was left out it is told later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable, Mapping

from agent.checks import Down
from agent.distribution import GatewayKey
from agent.rate import Rate
from protocol.effects import Event
from protocol.ids import GroupId
from protocol.objects import VirtualServer

PER_SECOND, BURST = 0.1, 20.0


class GatewayNews:
    """Of one device; belongs to the loop's thread."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self._clock = asyncio.get_running_loop().time
        self._rate = Rate(PER_SECOND, BURST)
        self._left_out = 0
        self._down: Down = frozenset()
        self._told: Down = frozenset()
        """Those that are down by what the history has."""

    def observe(
        self,
        servers: Iterable[VirtualServer],
        down: Down,
        why: Callable[[], Mapping[GatewayKey, str]],
        held: Container[GroupId],
    ) -> None:
        """Tell what changed of the Virtual Servers that are ``held``, now or before.

        ``why`` gives the reasons of all that are down.
        """
        turned, untold = self._down ^ down, self._told ^ down
        if not turned and not untold:
            return
        self._down = self._told = down
        reasons = why()
        for server in servers:
            for gateway in server.gateways:
                key = (server.uid, gateway.name)
                # One that is disabled is checked no more, which is no recovery.
                if gateway.state == "disabled" or server.uid not in held:
                    continue
                if key in untold and self._rate.admit(self._clock()):
                    self._say(key, reasons[key] if key in down else None, late=key not in turned)
                    continue
                self._left_out += key in turned
                self._told ^= untold & {key}

    def _say(self, key: GatewayKey, reason: str | None, *, late: bool) -> None:
        """``late``: it was counted as left out."""
        uid, name = key
        self._left_out -= late and self._left_out > 0
        state = "is up again" if reason is None else f"is down: {reason}"
        more = f" ({self._left_out} more such changes were left out)" if self._left_out else ""
        self._left_out = 0
        self._tell(Event("gateway", uid, f"gateway {name} {state}{more}"))
