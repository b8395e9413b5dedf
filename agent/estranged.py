"""A device that nobody answers any more asks whether it still belongs to the Site.

Members drop a removed device from their allow-lists, so it hears nothing and
could believe in an outage for ever. The door for joining is open to all; a
member answers there, over a connection pinned to its key, whether it knows
the device.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from agent.clock import next_round
from agent.joining import ask_member
from agent.keys import KeyPair
from agent.lasting import lasting
from protocol.config import Config
from protocol.errors import HalbError
from protocol.joining import JoinRequest
from protocol.objects import Device
from protocol.view import NodeView, PeerState

SILENCE_S = 5.0
"""Seconds without any other device before it asks, and between two rounds of asking."""
ANSWER_S = 2.0

_log = logging.getLogger("halb.estranged")


class Estranged:
    """Watches for loneliness; calls ``on_removed`` once when a member says so."""

    def __init__(
        self,
        keys: KeyPair,
        look: Callable[[], tuple[Config, NodeView]],
        me: Callable[[], Device],
        on_removed: Callable[[str], None],
    ) -> None:
        self._keys = keys
        self._look = look
        self._me = me
        self._on_removed = on_removed
        self._task: asyncio.Task[None] | None = None
        self._told: str | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(lasting(self._watch), name="estranged")

    async def _watch(self) -> None:
        lonely = False
        while True:
            await next_round(SILENCE_S)
            config, view = self._look()
            heard = any(p.state is PeerState.ALIVE for p in view.peers)
            if config.site is None or heard or self._told == config.site.id:
                lonely = False
            elif not lonely:
                lonely = True
            elif await self._removed(config):
                self._told = config.site.id
                self._on_removed(config.site.name)

    async def _removed(self, config: Config) -> bool:
        """Whether a member that can be reached does not know this device."""
        me, site = self._me(), config.site
        assert site is not None
        request = JoinRequest("", "", me, asks_membership_of=site.id)
        for other in config.devices.values():
            if other.id == me.id:
                continue
            for address in other.addresses:
                try:
                    reply = await ask_member(
                        other.public_key, address, request, self._keys, ANSWER_S
                    )
                except HalbError as error:
                    _log.debug("%s does not say whether we belong: %s", address, error.message)
                else:
                    return reply.member is False
        return False

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
