"""The answer to ``halbctl status``, built from what this device knows at one moment.

Pure: the agent gathers the facts, this file words them. Built anew for each
request; 100 Virtual Servers with ten gateways each take some milliseconds, a
Site of 1000 devices and 500 Virtual Servers some 60.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

from agent.picture import Facts, Picture
from agent.service import SEEN, virtual_server_status
from protocol.api import DeviceStatus, Status
from protocol.config import Config
from protocol.ids import DeviceId
from protocol.objects import Device
from protocol.quorum import majority
from protocol.view import NodeView, PeerState

AT_ONCE = 200
"""Groups and devices for which the answer is built within the event loop."""


async def status_of(view: NodeView, config: Config, facts: Facts) -> Status:
    """:func:`build_status`, beside the event loop where it would hold up heartbeats."""
    if len(view.groups) + len(view.peers) <= AT_ONCE:
        return build_status(view, config, facts)
    return await asyncio.to_thread(build_status, view, config, facts)


def build_status(view: NodeView, config: Config, facts: Facts) -> Status:
    """The Site as seen from this device; ``took_us`` is left to the caller."""
    picture = Picture(view, config, facts)
    coordinator = picture.coordinator()
    servers = tuple(virtual_server_status(picture, s) for s in config.virtual_servers.values())
    return Status(
        site=config.site.name if config.site else "",
        revision=str(view.committed),
        device=picture.name(facts.device),
        coordinator=None if coordinator is None else picture.name(coordinator),
        virtual_servers=servers,
        devices=_devices(picture),
        warnings=tuple(_warnings(picture)),
    )


def _devices(picture: Picture) -> tuple[DeviceStatus, ...]:
    primaries = (picture.primary(uid) for uid in picture.config.virtual_servers)
    offices = Counter(primary for primary in primaries if primary is not None)
    return tuple(
        DeviceStatus(
            name=device.name,
            id=device.id,
            addresses=device.addresses,
            state=picture.state(device.id).value,
            version=_version(picture, device.id),
            drained=device.drained,
            witness=device.witness,
            revision=_revision(picture, device),
            primary_of=offices[device.id],
        )
        for device in picture.config.devices.values()
    )


def _version(picture: Picture, device: DeviceId) -> str:
    if device == picture.facts.device:
        return picture.facts.version
    info = picture.infos.get(device)
    return info.version if info else ""


def _revision(picture: Picture, device: Device) -> str:
    """What the device applies; of a witness, which has nothing to apply, what it has."""
    if device.id == picture.facts.device:
        return str(picture.config.revision if device.witness else picture.facts.applied)
    info = picture.infos.get(device.id)
    if info is None:
        return ""
    return str(info.committed if device.witness else info.applied)


def _warnings(picture: Picture) -> Iterator[str]:
    facts = picture.facts
    if picture.config.site:
        for device in picture.config.devices.values():
            yield from _about_device(picture, device)
        yield from _about_coordinator(picture)
        yield from _about_releases(picture)
    if not facts.lease_enforced:
        yield (
            f"on {picture.name(facts.device)} the kernel does not enforce the lease:"
            " a hung agent may leave two devices with one VIP"
        )
    for found in facts.drift:
        yield f"drift on {picture.name(facts.device)}: {found}"
    yield from facts.notes


def _about_device(picture: Picture, device: Device) -> Iterator[str]:
    if not picture.alive(device.id):
        yield silence(device.name, picture.state(device.id))
    elif lags := picture.lags(device.id):
        yield (
            f"device {device.name}: {lags}, and does not get a newer one: let it and the others"
            " reach each other's port 7481 (PORT + 1), also with large packets, or install their"
            " release on it"
        )


def silence(name: str, state: PeerState) -> str:
    """The warning of a device that is not alive."""
    return f"device {name}: {SEEN[state]}"


def _about_coordinator(picture: Picture) -> Iterator[str]:
    if picture.coordinator() is not None:
        return
    assert picture.config.site is not None
    voters = picture.config.site.voters
    gone = [v for v in voters if not picture.alive(v)]
    missing = f"; missing: {picture.names(gone)}" if gone else ""
    if len(voters) - len(gone) >= majority(voters):
        yield f"no coordinator: the configuration cannot be changed until one is elected{missing}"
    else:
        yield (
            "no coordinator: the configuration cannot be changed until a majority of"
            f" {picture.names(voters)} can be heard{missing}"
        )
    if picture.view.stored > picture.view.committed:
        yield f"revision {picture.view.stored} is stored here but not committed"


def _about_releases(picture: Picture) -> Iterator[str]:
    by_version: dict[str, list[DeviceId]] = {}
    for device in picture.config.devices:
        if version := _version(picture, device):
            by_version.setdefault(version, []).append(device)
    if len(by_version) > 1:
        listed = "; ".join(f"{v}: {picture.names(d)}" for v, d in sorted(by_version.items()))
        yield f"devices run different releases ({listed})"
