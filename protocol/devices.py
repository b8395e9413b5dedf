"""Edits of the devices of a Site that stay in it: renamed, replaced by another.

References are ids, so a name changes nothing else. A replacement takes the place
of the old device in every list and in the order of age; the voters in force
follow one at a time, as after any change, so it is refused where too few are left to
confirm that.
"""

from __future__ import annotations

import msgspec

from protocol.admission import device_named, refuse_id_as_name
from protocol.config import Config, Edit
from protocol.departure import refuse_lost_majority
from protocol.errors import InvalidInput, Refused
from protocol.ids import DeviceId
from protocol.objects import Value, VirtualServer
from protocol.validate import check_device_name


def rename(config: Config, name: str, new_name: str) -> Edit:
    """Give a device another name; the ``--name`` of its agent no longer matters."""
    device = device_named(config, name)
    check_device_name(new_name)
    if new_name == name:
        return Edit()
    if config.device_named(new_name) is not None:
        raise Refused(
            f"the Site has a device named {new_name!r} already", "Use a name that is free."
        )
    refuse_id_as_name(config, new_name, device.id)
    return Edit(put=(msgspec.structs.replace(device, name=new_name),))


def replace(config: Config, old_name: str, new_name: str) -> Edit:
    """Put a device that has joined in the place of another, which leaves the Site.

    The newcomer takes over rank, votes and age; its name, keys and addresses
    are its own.
    """
    old, new = device_named(config, old_name), device_named(config, new_name)
    if old.id == new.id:
        raise InvalidInput(
            f"device {old_name!r} cannot replace itself", "Name the device that has joined for it."
        )
    if old.witness != new.witness:
        kinds = ("a witness", "no witness") if old.witness else ("no witness", "a witness")
        raise Refused(
            f"device {old_name!r} is {kinds[0]} and {new_name!r} is {kinds[1]}",
            "Join a device of the same kind, or remove the old one.",
        )
    refuse_lost_majority(config, old)
    put: list[Value] = [msgspec.structs.replace(new, joined=old.joined)]
    for server in config.virtual_servers.values():
        changed = _with(server, old.id, new.id)
        if changed != server:
            put.append(changed)
    return Edit(put=tuple(put), delete=(("device", old.id),))


def _with(server: VirtualServer, old: DeviceId, new: DeviceId) -> VirtualServer:
    return msgspec.structs.replace(
        server,
        devices=_swapped(server.devices, old, new),
        witnesses=_swapped(server.witnesses, old, new),
    )


def _swapped(listed: tuple[DeviceId, ...], old: DeviceId, new: DeviceId) -> tuple[DeviceId, ...]:
    if old not in listed:
        return listed
    return tuple(new if d == old else d for d in listed if d != new)
