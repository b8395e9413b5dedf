"""The gateways of a Virtual Server as all devices see them now, for an operator.

Gateways are removed by what is found here, so a count is of now, or it is unknown.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agent.views import lacks_counts, side_by_side
from protocol.explain import asked_about
from protocol.virtual_servers import server_named

if TYPE_CHECKING:
    from agent.agent import Agent
    from protocol.insight import Gateways

COUNTED_S = 2.0
"""Seconds in which the primary is asked again until it has counted: a host with 100,000 flows
takes one, and rules of many Virtual Servers that are being changed come first."""
AGAIN_S = 0.1


async def survey(agent: Agent, name: str, wait: float = 0.0) -> Gateways:
    """What each device tells; ``wait``: seconds that all of this may take, 0 is as usual."""
    now = asyncio.get_running_loop().time
    end = now() + (wait or COUNTED_S)
    while True:
        config, left = agent.config, end - now()
        server = server_named(config, name)
        asked = asked_about(config, server)
        told = await agent.inquiries.ask(asked, server.uid, min(wait, left))
        primary = agent.primary_name(server.uid)
        found = side_by_side(config, server, agent.name, primary, told)
        if not lacks_counts(found) or end - now() <= AGAIN_S:
            return found
        await asyncio.sleep(AGAIN_S)
