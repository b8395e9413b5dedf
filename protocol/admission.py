"""Who belongs to the Site: founding it, join tokens, devices that come and go.

Each function is pure: it returns the edit, or raises with reason and remedy.
The lists of voters in force are the coordinator's, see :mod:`protocol.assignment`.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from protocol.addresses import endpoints_clash
from protocol.config import Config, Edit
from protocol.departure import refuse_lost_majority
from protocol.errors import InvalidInput, Refused
from protocol.ids import DeviceId, check_name
from protocol.nearest import nearest
from protocol.objects import (
    MAX_DEVICES,
    Device,
    Key,
    SiteRecord,
    Token,
    Value,
    VirtualServer,
)
from protocol.shown import shown
from protocol.token import shows_secret
from protocol.validate import (
    MAX_TOKEN_USES,
    MAX_TOKENS,
    check_device,
    check_digest,
    check_id,
    check_range,
)

_NEW_TOKEN = "Make a new one with `halbctl token create` on a device of the Site."  # noqa: S105


def found_site(name: str, site_id: str, device: Device) -> Config:
    """The first configuration of a new Site, at revision 1.1, with its one device."""
    check_name("Site", name)
    check_id("Site id", site_id)
    first = msgspec.structs.replace(check_device(device), joined=1, drained=False)
    site = SiteRecord(id=site_id, name=name, voters=(first.id,))
    return Config().edited(Edit(put=(site, first)), term=1)


def put_token(config: Config, token: Token, unix_s: int) -> Edit:
    """A new join token; tokens that have expired are deleted with it."""
    check_id("token id", token.id)
    check_digest(token.digest)
    check_range("uses", token.uses_left, 1, MAX_TOKEN_USES)
    if token.expires_at <= unix_s:
        raise InvalidInput(
            f"the token would expire at Unix time {token.expires_at}, now is {unix_s}",
            "Use a time to live of at least 1 second.",
        )
    if config.records.get(("token", token.id)):
        raise Refused(f"token {token.id} exists or existed", "Make one with another id.")
    expired = tuple(t.id for t in config.tokens.values() if t.expires_at <= unix_s)
    if len(config.tokens) - len(expired) >= MAX_TOKENS:
        raise Refused(
            f"the Site has {MAX_TOKENS} join tokens already",
            "Revoke some with `halbctl token revoke ID`.",
        )
    return Edit(put=(token,), delete=tuple(("token", i) for i in expired))


def revoke_token(config: Config, token: str) -> Edit:
    """Delete the join token with this id."""
    if token not in config.tokens:
        raise InvalidInput(f"no join token has id {shown(token)}", nearest(token, config.tokens))
    return Edit(delete=(("token", token),))


def admit(config: Config, token_id: str, secret: str, device: Device, unix_s: int) -> Edit:
    """Let a device in that shows a join token; the token loses one use.

    A device that belongs to the Site already is admitted again if it comes as it
    is known, as after a reply that was lost. A token proves nothing of who a
    newcomer is, so it changes no other device.
    """
    token = _valid_token(config, token_id, secret, unix_s)
    newcomer = check_device(device)
    known = config.devices.get(newcomer.id)
    if known is None and len(config.devices) >= MAX_DEVICES:
        raise Refused(f"the Site has {MAX_DEVICES} devices already", "Remove one of them first.")
    if known is not None:
        _refuse_other_than_known(known, newcomer)
    for other in config.devices.values():
        if other.id != newcomer.id:
            _refuse_twin(other, newcomer)
    refuse_id_as_name(config, newcomer.name, newcomer.id)
    _refuse_vip_as_address(config, newcomer)
    admitted = msgspec.structs.replace(
        newcomer,
        joined=known.joined if known else config.revision.n + 1,
        drained=known.drained if known else False,
    )
    if token.uses_left <= 1:
        return Edit(put=(admitted,), delete=(("token", token.id),))
    used = msgspec.structs.replace(token, uses_left=token.uses_left - 1)
    return Edit(put=(admitted, used))


def set_device(config: Config, name: str, *, drained: bool) -> Edit:
    """Drain a device, or let it take part again; a witness cannot be drained."""
    device = device_named(config, name)
    if device.witness:
        raise Refused(f"device {name!r} is a witness and carries nothing", "There is no need to.")
    if device.drained == drained:
        return Edit()
    return Edit(put=(msgspec.structs.replace(device, drained=drained),))


def remove_device(config: Config, name: str) -> Edit:
    """Take a device out of the Site and out of all Virtual Servers that name it.

    Refused where nothing would be left to carry a Virtual Server: an empty
    list of devices would mean all of them. So it is where too few would be left to
    confirm what follows.
    """
    device = device_named(config, name)
    if len(config.devices) == 1:
        raise Refused(
            f"device {name!r} is the last of the Site",
            "`halbctl leave` on it dissolves the Site.",
        )
    stays = [d for d in config.devices.values() if d.id != device.id]
    put: list[Value] = []
    for server in config.virtual_servers.values():
        if server.devices == (device.id,) or (
            not server.devices and not device.witness and all(d.witness for d in stays)
        ):
            raise Refused(
                f"device {name!r} is the only one that can carry Virtual Server {server.name!r}",
                "Name another device for it (`halbctl vs edit`), or delete it first.",
            )
        if device.id in (*server.devices, *server.witnesses):
            put.append(_without(server, device.id))
    refuse_lost_majority(config, device)
    gone: Key = ("device", device.id)
    return Edit(put=tuple(put), delete=(gone,))


def device_named(config: Config, name: str) -> Device:
    """The device of this name; InvalidInput with the nearest name otherwise."""
    found = config.device_named(name)
    if found is None:
        names = [d.name for d in config.devices.values()]
        raise InvalidInput(f"no device is named {shown(name)}", nearest(name, names))
    return found


def refuse_id_as_name(config: Config, name: str, device: DeviceId) -> None:
    """Refuse a name for ``device`` by which people would get another one, named by its id."""
    other = config.devices.get(DeviceId(name))
    if other is not None and other.id != device:
        raise Refused(f"{name!r} is the id of device {other.name!r}", "Use another name.")


def hosts_of(device: Device) -> Iterator[str]:
    """The IP addresses of a device, without ports."""
    for endpoint in device.addresses:
        yield endpoint.rpartition(":")[0].strip("[]")


def _valid_token(config: Config, token_id: str, secret: str, unix_s: int) -> Token:
    token = config.tokens.get(token_id)
    if token is None and ("token", token_id) in config.records:
        raise Refused("the join token was used up, or revoked, or has expired", _NEW_TOKEN)
    if token is None:
        name = config.site.name if config.site else ""
        raise Refused(
            f"the join token is not known here: it is of another Site than {name!r}", _NEW_TOKEN
        )
    if not shows_secret(secret, token.digest):
        raise Refused(f"the secret of join token {token.id} is wrong", _NEW_TOKEN)
    if token.expires_at <= unix_s:
        raise Refused(f"the join token expired {unix_s - token.expires_at} s ago", _NEW_TOKEN)
    return token


def _refuse_other_than_known(known: Device, newcomer: Device) -> None:
    if known.public_key != newcomer.public_key:
        raise Refused(
            f"device id {known.id} belongs to device {known.name!r}, which has another key",
            "Empty the new device's state directory and start its agent again.",
        )
    if (known.name, known.addresses, known.witness) != (
        newcomer.name, newcomer.addresses, newcomer.witness,
    ):  # fmt: skip
        kind = "witness" if known.witness else "device"
        raise Refused(
            f"this device belongs to the Site already, as {kind} {known.name!r} "
            f"at {', '.join(known.addresses)}",
            f"Start its agent so, or take it out first: `halbctl device remove {known.name}`.",
        )


def _refuse_twin(other: Device, newcomer: Device) -> None:
    if other.name == newcomer.name:
        raise Refused(
            f"the Site has a device named {other.name!r} already",
            "Start this agent with another `--name`, or remove that device first.",
        )
    if other.public_key == newcomer.public_key:
        raise Refused(
            f"device {other.name!r} has the same key as device {newcomer.name!r}",
            "The state directory was copied: empty this one's and start its agent again.",
        )
    for mine in newcomer.addresses:
        for theirs in other.addresses:
            if endpoints_clash(mine, theirs):
                raise Refused(
                    f"address {mine} is taken by device {other.name!r} ({theirs})",
                    "Start this agent with an `--address` of its own, or remove that device first.",
                )


def _refuse_vip_as_address(config: Config, newcomer: Device) -> None:
    hosts = set(hosts_of(newcomer))
    for server in config.virtual_servers.values():
        for vip in server.leased:
            if vip in hosts:
                raise Refused(
                    f"address {vip} of device {newcomer.name!r} is a VIP of {server.name!r}",
                    "Start this agent with an `--address` that belongs to the host alone.",
                )


def _without(server: VirtualServer, device: DeviceId) -> VirtualServer:
    return msgspec.structs.replace(
        server,
        devices=tuple(d for d in server.devices if d != device),
        witnesses=tuple(w for w in server.witnesses if w != device),
    )
