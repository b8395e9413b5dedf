"""Connections that stay where they are although their slots move. Pure.

Where nobody remembers a connection its slot leads it. While slots move, what opens a
connection goes by the slots of now, and is remembered; what is neither that nor remembered is
older, and goes by the slots of before. Of datagrams none says whether it opens anything.

Which slots were before follows from the configuration, so that all devices agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf

from msgspec.structs import replace

from agent.clock import Deadlines
from agent.distribution import GatewayKey
from protocol.objects import Former, FormerHash, Gateway, Listener, VirtualServer
from protocol.settling import STAY_S

NEVER = inf
LONGEST_S = 2 * STAY_S
"""What is noted for longer than this was noted by a clock that is wrong, and does not count."""


def settled(
    servers: Iterable[VirtualServer], deadlines: Deadlines
) -> tuple[tuple[VirtualServer, ...], float]:
    """``servers`` without what is over of their slots before, and when, by the clock of
    ``deadlines``, the next of it is over."""
    found = tuple(_settled(vs, deadlines) for vs in servers)
    ends = (_left(vs, name, note, deadlines) for vs in found for name, note in _notes(vs))
    return found, deadlines.now() + min(ends, default=NEVER)


def _notes(vs: VirtualServer) -> Iterator[tuple[str, Former | FormerHash]]:
    yield from ((g.name, g.former) for g in vs.gateways if g.former is not None)
    yield from ((each.key, each.former) for each in vs.listeners if each.former is not None)


def _settled(vs: VirtualServer, deadlines: Deadlines) -> VirtualServer:
    over = {
        name for name, note in _notes(vs) if not 0 < _left(vs, name, note, deadlines) < LONGEST_S
    }
    if not over:
        return vs
    gateways = (replace(g, former=None) if g.name in over else g for g in vs.gateways)
    listeners = (replace(each, former=None) if each.key in over else each for each in vs.listeners)
    return replace(vs, gateways=tuple(gateways), listeners=tuple(listeners))


def _left(vs: VirtualServer, name: str, note: Former | FormerHash, deadlines: Deadlines) -> float:
    return deadlines.left((vs.uid, name, note.until), note.until, LONGEST_S)


def amid(vs: VirtualServer, listener: Listener, version: int) -> bool:
    """Whether slots of the listener move now, or it begins to share connections in another way, and
    those that it has must not follow."""
    return listener.protocol == "tcp" and (
        listener.former is not None
        or any(
            g.state == "draining" or g.former is not None for g in vs.gateways if _is_of(g, version)
        )
    )


def earlier(listener: Listener) -> Listener:
    """``listener`` as it hashed flows, and to which port it led them, before it did as now, if any
    were hashed."""
    former = listener.former
    if former is None or not former.balance:
        return listener
    port = former.gateway_port or listener.gateway_port
    return replace(listener, balance=former.balance, gateway_port=port)


def before(vs: VirtualServer) -> VirtualServer:
    """``vs`` with the gateways as they were before the slots that move now did so."""
    return replace(vs, gateways=tuple(map(_before, vs.gateways)))


def _before(gateway: Gateway) -> Gateway:
    state = "enabled" if gateway.state == "draining" else gateway.state
    former = gateway.former
    if former is None:
        return replace(gateway, state=state)
    backup = gateway.backup if former.backup is None else former.backup
    return replace(gateway, weight=former.weight, state=state, backup=backup)


def answering(vs: VirtualServer, version: int, gone: frozenset[GatewayKey]) -> tuple[Gateway, ...]:
    """Gateways of an IP version that answer what they are sent: not ``gone``, not disabled.

    One that drains, or has no weight, takes no new flows, but answers those that it has.
    """
    return tuple(
        g
        for g in vs.gateways
        if _is_of(g, version) and g.state != "disabled" and (vs.uid, g.name) not in gone
    )


def _is_of(gateway: Gateway, version: int) -> bool:
    return (":" in gateway.address) is (version == 6)
