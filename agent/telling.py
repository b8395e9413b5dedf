"""Figures for operators and their monitoring: ``halbctl top`` and ``halbctl metrics``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agent.clock import unix_ms
from agent.conntrack_limit import room
from agent.metrics import Figures, render
from agent.tallies import traffic_of
from protocol import api
from protocol.assignment import carriers_of
from protocol.traffic import Counters, VirtualServerTraffic

if TYPE_CHECKING:
    from agent.agent import Agent


async def counters(agent: Agent) -> Counters:
    """Traffic of the Virtual Servers that this device carries; none on a witness."""
    return Counters(agent.name, unix_ms(), await _traffic(agent))


async def metrics(agent: Agent, status: api.Status) -> str:
    """All figures as OpenMetrics text."""
    figures = Figures(
        version=agent.version,
        events=agent.history.counts,
        lateness_ns=agent.lateness.p99(),
        faults=agent.faults.count,
        frames={str(fate): number for fate, number in agent.frames().items()},
        room=None if agent.settings.witness else room(),
    )
    return await asyncio.to_thread(render, status, await _traffic(agent), figures)


async def _traffic(agent: Agent) -> tuple[VirtualServerTraffic, ...]:
    samples = await agent.samples()
    if samples is None:
        return ()
    config = agent.config
    carried = {
        uid
        for uid, server in config.virtual_servers.items()
        if agent.device in carriers_of(config, server)
    }
    primary = {g.group for g in agent.view().groups if g.leader == agent.device}
    # Beside the loop: with 1000 Virtual Servers it takes longer than a lease lasts.
    return await asyncio.to_thread(traffic_of, config, carried, primary, *samples)
