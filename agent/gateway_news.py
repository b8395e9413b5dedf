"""Gateways that go down and come back, for the history: when, and why.

The primary's view decides where connections go, so the primary alone tells, and
every device of the Site remembers it. Gateways that come and go without end
must not push everything else out of the history: so many are told, and how many
were not is said with the next one. What is told last of each is true: where that
was left out it is told later, and who becomes primary and sees something else than
the history says tells that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from agent.checks import Down
from agent.distribution import GatewayKey
from agent.history import History
from agent.presence import PresenceNews
from agent.rate import Rate
from protocol.effects import Event
from protocol.ids import GroupId
from protocol.objects import VirtualServer

KIND = "gateway"
PER_SECOND, BURST = 0.1, 20.0
_DOWN = "down: "


class Remembering(PresenceNews, Protocol):
    """Who is told, and what it was told before."""

    @property
    def history(self) -> History: ...


class GatewayNews:
    """Of one device; belongs to the loop's thread."""

    def __init__(
        self,
        tell: Callable[[Event], None],
        said: Callable[[str], Iterable[tuple[GroupId | None, str]]],
    ) -> None:
        """``said`` gives what the history has of a kind of entry, oldest first."""
        self._tell = tell
        self._said = said
        self._clock = asyncio.get_running_loop().time
        self._rate = Rate(PER_SECOND, BURST)
        self._left_out = 0
        self._down: Down = frozenset()
        self._told: Down = frozenset()
        """Those that are down by what the history has."""
        self._held: frozenset[GroupId] = frozenset()

    def observe(
        self,
        servers: Iterable[VirtualServer],
        down: Down,
        why: Callable[[], Mapping[GatewayKey, str]],
        held: Collection[GroupId],
    ) -> None:
        """Tell what changed of the Virtual Servers that are ``held``, now or before.

        ``why`` gives the reasons of all that are down.
        """
        taken, self._held = frozenset(held) - self._held, frozenset(held)
        if taken:
            kept = frozenset(key for key in self._told if key[0] not in taken)
            self._told = kept | self._down_by_history(taken)
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
                new = key in turned or server.uid in taken
                if key in untold and self._rate.admit(self._clock()):
                    self._say(key, reasons[key] if key in down else None, late=not new)
                    continue
                self._left_out += key in turned or (new and key in untold)
                self._told ^= untold & {key}

    def _down_by_history(self, of: Collection[GroupId]) -> Down:
        """Gateways that are down by what was told of each last."""
        down: dict[GatewayKey, bool] = {}
        for uid, text in self._said(KIND):
            match text.split(maxsplit=3):
                case ["gateway", name, "is", state] if uid is not None and uid in of:
                    down[uid, name] = state.startswith(_DOWN)
        return frozenset(key for key, is_down in down.items() if is_down)

    def _say(self, key: GatewayKey, reason: str | None, *, late: bool) -> None:
        """``late``: it was counted as left out."""
        uid, name = key
        self._left_out -= late and self._left_out > 0
        state = "up again" if reason is None else f"{_DOWN}{reason}"
        more = f" ({self._left_out} more such changes were left out)" if self._left_out else ""
        self._left_out = 0
        self._tell(Event(KIND, uid, f"gateway {name} is {state}{more}"))
