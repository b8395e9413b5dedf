"""Connections that stay where they are although their slots move. Pure.

Where nobody remembers a connection its slot leads it. While slots move, what opens a
connection goes by the slots of now, and is remembered; what is neither that nor remembered is
older, and goes by the slots of before. Of datagrams none says whether it opens anything.

Which slots were before follows from the configuration, so that all devices agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from msgspec.structs import replace

from agent.distribution import GatewayKey
from protocol.objects import Gateway, Listener, VirtualServer
from protocol.settling import STAY_S

NEVER = inf
LONGEST_S = 2 * STAY_S
"""What is noted for longer than this was noted by a clock that is wrong, and does not count."""


def settled(
    servers: Iterable[VirtualServer], unix_s: float
) -> tuple[tuple[VirtualServer, ...], float]:
    """``servers`` without what is over of their slots before, and when the next of it is over."""
    found = tuple(_settled(vs, unix_s) for vs in servers)
    ends = (g.former.until for vs in found for g in vs.gateways if g.former is not None)
    return found, min(ends, default=NEVER)


def _settled(vs: VirtualServer, unix_s: float) -> VirtualServer:
    if all(g.former is None for g in vs.gateways):
        return vs
    gateways = (
        g
        if g.former is None or 0 < g.former.until - unix_s < LONGEST_S
        else replace(g, former=None)
        for g in vs.gateways
    )
    return replace(vs, gateways=tuple(gateways))


def amid(vs: VirtualServer, listener: Listener, version: int) -> bool:
    """Whether slots of the listener move now in a way that its connections must not follow."""
    return listener.protocol == "tcp" and any(
        g.state == "draining" or g.former is not None for g in vs.gateways if _is_of(g, version)
    )


def before(vs: VirtualServer) -> VirtualServer:
    """``vs`` with the gateways as they were before the slots that move now did so."""
    return replace(vs, gateways=tuple(map(_before, vs.gateways)))


def _before(gateway: Gateway) -> Gateway:
    weight = gateway.weight if gateway.former is None else gateway.former.weight
    state = "enabled" if gateway.state == "draining" else gateway.state
    return replace(gateway, weight=weight, state=state)


def answering(vs: VirtualServer, version: int, down: frozenset[GatewayKey]) -> tuple[Gateway, ...]:
    """Gateways of an IP version that answer what they are sent: not down, not disabled.

    One that drains, or has no weight, takes no new flows, but answers those that it has.
    """
    return tuple(
        g
        for g in vs.gateways
        if _is_of(g, version) and g.state != "disabled" and (vs.uid, g.name) not in down
    )


def _is_of(gateway: Gateway, version: int) -> bool:
    return (":" in gateway.address) is (version == 6)
