"""A planned move that an operator waits for: who is primary then, in words.

The device that is asked may take no part in it, and hear of the new primary later than of
the move, or not at all.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agent.errands import patience
from protocol import api
from protocol.effects import Promote

if TYPE_CHECKING:
    from agent.agent import Agent

HEARD_S, LOOK_S = 0.5, 0.02
"""How long a new primary that nobody named is waited for, and seconds between two looks."""


async def promote(agent: Agent, request: str, op: api.PromoteTo) -> api.Done:
    """Have it moved; raises HalbError with the reason where it is not."""
    now, limit = asyncio.get_running_loop().time, patience(op.timeout)
    future = agent.errands.begin(request)
    began, before = now(), _primary(agent, op)
    agent.deliver(Promote(request, op.virtual_server, op.to))
    outcome = await agent.errands.wait(future, limit)
    ended = now()
    if outcome.detail == "is primary already":
        return api.Done(f"{op.to} is primary of {op.virtual_server} already", changed=False)
    took = f"after {1000 * (ended - began):.0f} ms"
    to = op.to or await _heard(agent, op, before, min(ended + HEARD_S, began + limit))
    if to is None:
        return api.Done(f"{op.virtual_server} has moved, {took}; where to is not heard here yet")
    return api.Done(f"{to} is primary of {op.virtual_server}, {took}")


async def _heard(agent: Agent, op: api.PromoteTo, before: str | None, until: float) -> str | None:
    """Who is primary in place of the one ``before``, if that is heard in time."""
    while (to := _primary(agent, op)) in (None, before):
        if asyncio.get_running_loop().time() >= until:
            return None
        await asyncio.sleep(LOOK_S)
    return to


def _primary(agent: Agent, op: api.PromoteTo) -> str | None:
    """Its name, as far as it is known here."""
    server = agent.config.virtual_server_named(op.virtual_server)
    return agent.primary_name(server.uid) if server else None
