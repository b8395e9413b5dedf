"""How flows found their gateways before a change, noted for as long as that is needed. Pure.

Of a gateway what it had of the slots, of a listener by which hash they were shared, or that each
flow was remembered, and where its gateways listened.

Where no device remembers a connection, only this tells it where those belong that are older
than the change (:mod:`agent.staying`). It is configuration: so all devices come to the same
answer, also one that starts anew or takes over meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec.structs import replace

from protocol.addresses import family
from protocol.config import Config, Edit
from protocol.forwarding import hashed_by
from protocol.ids import GroupId
from protocol.objects import (
    MAX_WEIGHT,
    Former,
    FormerHash,
    Gateway,
    Listener,
    Value,
    VirtualServer,
)
from protocol.ports import overlap

STAY_S = 86_400
"""Seconds for which connections stay whose slots moved: longer than a day at work, so that what
was open then has as a rule ended by itself. What has not is then reset."""
AGAIN_S = 3600
"""Of a gateway that comes and goes, what is noted lasts for so much longer, and is noted anew no
sooner."""
MAX_ABSENCES = 512
"""Gateways that one change notes."""


class Absence(msgspec.Struct, frozen=True, array_like=True):
    """What a device saw of a gateway that went down, or is up again."""

    group: GroupId
    gateway: str
    """Its name."""
    weight: Annotated[int, msgspec.Meta(ge=0, le=MAX_WEIGHT)]
    """What it had of the slots before; 0: all is at others that nothing remembers."""


def kept(gateways: Sequence[Gateway], before: Sequence[Gateway]) -> tuple[Gateway, ...]:
    """``gateways``, each with what was noted of it ``before``, where its slots do not move."""
    old = {each.address: each for each in before}
    return tuple(
        replace(g, former=was.former)
        if (was := old.get(g.address)) is not None and _share(was) == _share(g)
        else g
        for g in gateways
    )


def kept_of(listeners: Sequence[Listener], before: Sequence[Listener]) -> tuple[Listener, ...]:
    """``listeners``, each with what was noted ``before`` of it, or of what had its ports."""
    return tuple(replace(each, former=_former(each, _same(each, before))) for each in listeners)


def _same(listener: Listener, before: Sequence[Listener]) -> Listener | None:
    """What ``listener`` was, or else the first that had some of its ports."""
    some = [
        each
        for each in before
        if each.protocol == listener.protocol and overlap(each.ports, listener.ports)
    ]
    return next((each for each in some if each.ports == listener.ports), (*some, None)[0])


def _former(listener: Listener, was: Listener | None) -> FormerHash | None:
    """What was noted of ``was``, as that is true of ``listener``, which has its ports now."""
    if was is None or was.former is None or was.ports == listener.ports:
        return None if was is None else was.former
    return replace(was.former, gateway_port=0)


def absent(config: Config, absences: Iterable[Absence], unix_s: int) -> Edit:
    """A note of each of these gateways, whose slots others have, or had until now."""
    seen = {(each.group, each.gateway): each.weight for each in absences}
    changed = []
    for uid in dict.fromkeys(uid for uid, _ in seen):
        server = config.virtual_servers.get(uid)
        if server is None or server.forwarding == "snat":
            continue
        gateways = tuple(
            replace(g, former=away(g, seen[uid, g.name], unix_s, STAY_S + AGAIN_S))
            if (uid, g.name) in seen and g.state != "disabled"
            else g
            for g in server.gateways
        )
        if gateways != server.gateways:
            changed.append(replace(server, gateways=gateways))
    return Edit(tuple(changed))


def away(gateway: Gateway, weight: int, unix_s: float, last_s: int = STAY_S) -> Former:
    """The note of a gateway that had so much of the slots before others had them."""
    until = int(unix_s) + last_s
    before = _in_force(gateway, unix_s)
    if before is None:
        return Former(weight, until)
    return replace(before, weight=weight, until=max(before.until, until))


def had(gateway: Gateway, unix_s: float) -> int:
    """The weight that gives the slots by which what is not remembered of it is found now."""
    before = _in_force(gateway, unix_s)
    return gateway.weight if before is None else before.weight


def _in_force(gateway: Gateway, unix_s: float) -> Former | None:
    former = gateway.former
    return former if former is not None and former.until > unix_s else None


def noted(config: Config, edit: Edit, unix_s: int) -> Edit:
    """``edit``, made at ``unix_s``, with a note of each gateway that wins or loses slots by it, and
    of each listener that shares connections in another way.

    Not of one that begins to drain, whose state says enough; nor with ``snat``, which remembers.
    """
    return Edit(tuple(_noted(config, value, unix_s) for value in edit.put), edit.delete)


def _noted(config: Config, value: Value, unix_s: int) -> Value:
    if not isinstance(value, VirtualServer) or value.forwarding == "snat":
        return value
    present = config.virtual_servers.get(value.uid)
    before = present.gateways if present is not None else ()
    old = {each.address: each for each in before}
    served = _served(before, unix_s)
    gateways = (
        g
        if family(g.address) not in served
        or ((was := old.get(g.address)) is not None and _share(was) == _share(g))
        else replace(g, former=_note(g, was, unix_s))
        for g in value.gateways
    )
    listeners = (_another_way(present, value, each, unix_s) for each in value.listeners)
    return replace(value, gateways=tuple(gateways), listeners=tuple(listeners))


def _served(gateways: Sequence[Gateway], unix_s: float) -> set[int]:
    """IP versions of which connections may be open."""
    # Where all take nothing new for a while, what is older is still led by the slots of before.
    some = (g for g in gateways if g.state != "disabled" and (g.weight or had(g, unix_s)))
    return {family(each.address) for each in some}


def unnoted(before: VirtualServer, now: VirtualServer, unix_s: float) -> dict[str, int]:
    """Gateways of ``now``, by name, whose slots move without a note of it, and what each had.

    Local edits that end take their notes along.
    """
    old = {each.address: each for each in before.gateways}
    served = _served(before.gateways, unix_s)
    notes = {
        g.name: _note(g, old.get(g.address), int(unix_s))
        for g in now.gateways
        if _in_force(g, unix_s) is None and family(g.address) in served
    }
    return {name: note.weight for name, note in notes.items() if note is not None}


def _another_way(
    before: VirtualServer | None, now: VirtualServer, listener: Listener, unix_s: int
) -> Listener:
    """``listener`` with a note where its connections found their gateways otherwise ``before``."""
    was = _same(listener, before.listeners) if before is not None else None
    lasting = listener.protocol == "tcp" and before is not None and outlived(before, now)
    if before is None or was is None or not lasting:
        return replace(listener, former=None)
    balance, is_now = hashed_by(before, was), hashed_by(now, listener)
    # Where a range begins or ends otherwise each port is still the same on the gateways.
    port = was.gateway_port if was.ports == listener.ports else listener.gateway_port
    if (balance, port) == (is_now, listener.gateway_port):
        return listener
    former = _former(listener, was)
    if former is not None and former.until > unix_s:
        # What is older than both changes found its gateway as before the first.
        balance, port = former.balance, former.gateway_port or port
    elif balance == is_now == "":
        return listener  # each entry knows its port
    port = 0 if not balance or port == listener.gateway_port else port
    return replace(listener, former=FormerHash(balance, unix_s + STAY_S, port))


def outlived(before: VirtualServer, now: VirtualServer) -> bool:
    """Whether connections can outlive the change of mode, if there is one: whether gateways still
    have their end of them, and a way for their answers."""
    modes = before.forwarding, now.forwarding
    return modes[0] == modes[1] or modes == ("snat", "routed")


def _note(gateway: Gateway, was: Gateway | None, unix_s: int) -> Former | None:
    if gateway.state == "disabled":
        return None
    remarked = was is not None and was.backup != gateway.backup
    mark = was.backup if was is not None and remarked else None
    if was is not None and (first := _in_force(was, unix_s)) is not None:
        # What is older than both changes belongs where it was before the first. Noted also if
        # that is where it is again: what began in between is remembered elsewhere.
        first = first if first.backup is not None else replace(first, backup=mark)
        return replace(first, until=max(first.until, unix_s + STAY_S))
    weight = 0 if was is None or was.state == "disabled" else was.weight
    taken_back = was is not None and was.state == "draining" and gateway.state == "enabled"
    if weight == gateway.weight and not (taken_back or remarked):
        return None
    return Former(weight, unix_s + STAY_S, mark)


def _share(gateway: Gateway) -> tuple[str, int, bool]:
    return gateway.state, gateway.weight, gateway.backup
