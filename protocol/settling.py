"""What gateways had of the slots before a change, noted for as long as that is needed. Pure.

Where no device remembers a connection, only this tells it where those belong that are older
than the change (:mod:`agent.staying`). It is configuration: so all devices come to the same
answer, also one that starts anew or takes over meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from protocol.addresses import family
from protocol.config import Config, Edit
from protocol.objects import Former, Gateway, Value, VirtualServer

STAY_S = 86_400
"""Seconds for which connections stay whose slots moved: longer than a day at work, so that what
was open then has as a rule ended by itself. What has not is then reset."""


def kept(gateways: Sequence[Gateway], before: Sequence[Gateway]) -> tuple[Gateway, ...]:
    """``gateways``, each with what was noted of it ``before``, where its slots do not move."""
    old = {each.address: each for each in before}
    return tuple(
        replace(g, former=was.former)
        if (was := old.get(g.address)) is not None and _share(was) == _share(g)
        else g
        for g in gateways
    )


def noted(config: Config, edit: Edit, unix_s: int) -> Edit:
    """``edit``, made at ``unix_s``, with a note of each gateway that wins or loses slots by it.

    Not of one that begins to drain, whose state says enough; nor with ``snat``, which remembers.
    """
    return Edit(tuple(_noted(config, value, unix_s) for value in edit.put), edit.delete)


def _noted(config: Config, value: Value, unix_s: int) -> Value:
    if not isinstance(value, VirtualServer) or value.forwarding == "snat":
        return value
    present = config.virtual_servers.get(value.uid)
    before = present.gateways if present is not None else ()
    old = {each.address: each for each in before}
    served = {family(each.address) for each in before if each.state != "disabled" and each.weight}
    gateways = (
        g
        if family(g.address) not in served
        or ((was := old.get(g.address)) is not None and _share(was) == _share(g))
        else replace(g, former=_note(g, was, unix_s))
        for g in value.gateways
    )
    return replace(value, gateways=tuple(gateways))


def _note(gateway: Gateway, was: Gateway | None, unix_s: int) -> Former | None:
    if gateway.state == "disabled":
        return None
    if was is not None and was.former is not None and was.former.until > unix_s:
        # What is older than both changes belongs where it was before the first. Noted also if
        # that is where it is again: what began in between is remembered elsewhere.
        return Former(was.former.weight, unix_s + STAY_S)
    weight = 0 if was is None or was.state == "disabled" else was.weight
    taken_back = was is not None and was.state == "draining"
    if weight == gateway.weight and not (taken_back and gateway.state == "enabled"):
        return None
    return Former(weight, unix_s + STAY_S)


def _share(gateway: Gateway) -> tuple[str, int]:
    return gateway.state, gateway.weight
