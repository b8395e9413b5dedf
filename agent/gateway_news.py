"""Gateways that go down and come back, for the history: when, and why.

The primary's view decides where connections go, so the primary alone tells, and
every device of the Site remembers it. Gateways that come and go without end
must not push everything else out of the history: so many are told, and how many
were not is said with the next one.
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

    def observe(
        self,
        servers: Iterable[VirtualServer],
        down: Down,
        reasons: Mapping[GatewayKey, str],
        held: Container[GroupId],
    ) -> None:
        """Tell what changed of the Virtual Servers that are ``held``."""
        turned = self._down ^ down
        self._down = down
        for server in servers:
            for gateway in server.gateways:
                key = (server.uid, gateway.name)
                # One that is disabled is checked no more, which is no recovery.
                if key in turned and gateway.state != "disabled" and server.uid in held:
                    self._say(key, reasons[key] if key in down else None)

    def _say(self, key: GatewayKey, reason: str | None) -> None:
        if not self._rate.admit(self._clock()):
            self._left_out += 1
            return
        uid, name = key
        state = "is up again" if reason is None else f"is down: {reason}"
        more = f" ({self._left_out} more such changes were left out)" if self._left_out else ""
        self._left_out = 0
        self._tell(Event("gateway", uid, f"gateway {name} {state}{more}"))
