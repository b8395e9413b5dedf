"""Listeners that remember where their clients, or their connections, belong. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from agent.direct import KNOWN_S, known_map
from agent.distribution import chain_of, seat_number
from agent.gated import numbers, sticky_map
from agent.staying import amid
from protocol.objects import Listener, VirtualServer
from protocol.seats import seats


@dataclass(frozen=True)
class StickyListener:
    """A listener whose clients, or connections, keep their gateway, for one IP version."""

    server: VirtualServer
    listener: Listener
    version: int

    @property
    def name(self) -> str:
        """Of its map."""
        chain = chain_of(self.server, self.listener, self.version)
        return sticky_map(chain) if self.listener.sticky else known_map(chain)

    @property
    def seconds(self) -> int:
        """For so long one is remembered."""
        return self.listener.sticky or KNOWN_S

    @property
    def numbers(self) -> frozenset[int]:
        """What may be said of where one belongs."""
        if self.listener.sticky:
            return frozenset(numbers(self.server).values())
        return frozenset(map(seat_number, seats(self.server.gateways).values()))

    @property
    def remembers(self) -> bool:
        """Whether there is such a map."""
        direct = self.server.forwarding == "dsr"
        return bool(self.listener.sticky) or (
            direct and amid(self.server, self.listener, self.version)
        )
