"""A device that serves is taken out of the Site: what it is primary of moves first.

Cut off at once it would be found missing as after a crash, and nobody would serve meanwhile.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING

from protocol.changes import RemoveDevice, ReplaceDevice, foreseen
from protocol.effects import Promote
from protocol.errors import HalbError
from protocol.ids import DeviceId
from protocol.objects import VirtualServer
from protocol.timing import DRAIN_NS, SECOND
from protocol.view import PeerState

if TYPE_CHECKING:
    from agent.agent import Agent

RELIEVE_S = 2.0
"""So long at most: of what a client waits by default enough is left for the change."""
AGAIN_S = 0.1
"""After a move that was refused."""
AT_ONCE = 64
"""Moves under way at a time."""


def runs(agent: Agent, device: DeviceId | None) -> bool:
    """Whether a device is alive, as far as is known here."""
    alive = {p.device for p in agent.view().peers if p.state is PeerState.ALIVE}
    return device == agent.device or device in alive


async def relieve(agent: Agent, change: RemoveDevice | ReplaceDevice, left: float) -> list[str]:
    """Have all moved that the device is primary of that goes by ``change``, and what still
    comes there forwarded.

    Takes three quarters of the seconds that are ``left``, at most; returns a sentence about each
    that stayed. Moves nothing where the change would be refused, as far as is known here, or
    there is nobody who could make it.
    """
    config, began = agent.config, time.monotonic()
    until = began + min(RELIEVE_S, left / 2)
    gone = config.device_named(change.device)
    if gone is None or not runs(agent, gone.id):
        return []
    try:
        foreseen(config, change, int(time.time()), lambda: "")
        await agent.news.wait_until(
            lambda: runs(agent, agent.view().coordinator), until - time.monotonic()
        )
    except HalbError:
        return []  # the coordinator's own answer counts, and says more
    room = asyncio.Semaphore(AT_ONCE)
    led = [s for s in config.virtual_servers.values() if agent.primary_of(s.uid) == gone.id]
    stayed = await asyncio.gather(*(_move(agent, each, gone.id, until, room) for each in led))
    if "" in stayed:
        # Until then its successors are told of flows that were being opened there.
        await asyncio.sleep(min(DRAIN_NS / SECOND, (began + left - time.monotonic()) / 2))
    return [sentence for sentence in stayed if sentence]


async def _move(
    agent: Agent, server: VirtualServer, gone: DeviceId, until: float, room: asyncio.Semaphore
) -> str:
    """Why it stayed; empty if it moved."""
    why = "no time was left"
    async with room:
        while agent.primary_of(server.uid) == gone and (left := until - time.monotonic()) > 0:
            request = f"own-{secrets.token_hex(8)}"
            try:
                future = agent.errands.begin(request)
                agent.deliver(Promote(request, server.name, None))
                await agent.errands.wait(future, left)
            except HalbError as error:
                why = error.message
                await asyncio.sleep(min(AGAIN_S, left))
            else:
                return ""
    stays = agent.primary_of(server.uid) == gone
    return f"{server.name} was not handed over first: {why}" if stays else ""
