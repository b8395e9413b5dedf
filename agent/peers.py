"""The devices that this one keeps connections to."""

from __future__ import annotations

import asyncio

from agent.transport import Peer, Transport
from protocol.effects import Connect
from protocol.objects import Device

FAREWELL_S = 1.0
"""Seconds for which a device that was removed from the Site can still be told so."""


class Peers:
    """Follows the core's choice of peers; lets go of removed ones after a last word."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._present: tuple[Device, ...] = ()
        self._farewell: asyncio.TimerHandle | None = None

    def on_connect(self, connect: Connect) -> None:
        """Connect to the devices of ``connect``, and let go of those that it does not name."""
        present = {d.id for d in connect.site}
        leaving = [d for d in self._present if d.id not in present]
        self._present = connect.site
        self._transport.set_peers(
            (Peer(d.id, d.public_key, d.addresses) for d in (*connect.site, *leaving)),
            (*connect.peers, *(d.id for d in leaving)),
        )
        self.close()
        if leaving:
            loop = asyncio.get_running_loop()
            self._farewell = loop.call_later(FAREWELL_S, self.on_connect, connect)

    def forget(self) -> None:
        """Let go of all at once."""
        self.close()
        self._present = ()
        self._transport.set_peers(())

    def close(self) -> None:
        """Wait for no last word any more."""
        if self._farewell is not None:
            self._farewell.cancel()
        self._farewell = None
