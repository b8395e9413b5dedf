"""Edits of planned moves: made by an operator, taken back, taken in hand by the primary."""

from __future__ import annotations

from protocol.admission import device_named
from protocol.assignment import carriers_of
from protocol.config import Config, Edit
from protocol.durations import say
from protocol.errors import InvalidInput, Refused
from protocol.objects import PlannedMove
from protocol.validate import check_id
from protocol.virtual_servers import server_named

MAX_AHEAD_S = 30 * 24 * 3600
"""A move is planned for at most this far ahead."""


def plan(config: Config, name: str, to: str | None, at: int, id_: str, unix_s: int) -> Edit:
    """Hand ``name`` over to ``to`` at Unix time ``at``; replaces an earlier plan."""
    server = server_named(config, name)
    check_id("id", id_)
    if not unix_s < at <= unix_s + MAX_AHEAD_S:
        when = f"{say(unix_s - at)} ago" if at <= unix_s else f"{say(at - unix_s)} ahead"
        raise InvalidInput(
            f"the time of the move is {when}", "Name one within the next 30 days, such as +90s."
        )
    if server.frozen:
        raise Refused(
            f"Virtual Server {name!r} is frozen, and a planned move would not be carried out",
            f"Let it move again with `halbctl vs unfreeze {name}`, or promote it by hand.",
        )
    device = None if to is None else device_named(config, to)
    if device is not None and device.id not in carriers_of(config, server):
        raise Refused(
            f"device {device.name!r} may not carry Virtual Server {name!r}",
            "`halbctl vs show` lists the devices that may.",
        )
    to_id = None if device is None else device.id
    return Edit(put=(PlannedMove(uid=server.uid, id=id_, at=at, to=to_id),))


def cancel(config: Config, name: str, id_: str | None) -> Edit:
    """Take the plan back; only the one of this id, where one is given."""
    server = server_named(config, name)
    found = config.planned_moves.get(server.uid)
    if found is None or id_ not in (None, found.id):
        raise Refused(
            f"no move of Virtual Server {name!r} is planned", "`halbctl status` shows what is."
        )
    return Edit(delete=(("planned-move", server.uid),))
