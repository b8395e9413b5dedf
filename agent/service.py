"""How one Virtual Server is: up for its clients, and safe against the next failure.

``down``: no primary is known, or no gateway can take a new connection.
``degraded``: it works, but a gateway or device of it does not, or the next
failure would end it; or its primary is not heard, and nobody knows yet whether it
works. Each state but ``ok`` says why, in sentences.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from agent.picture import Picture
from protocol.addresses import family
from protocol.api import (
    GatewayStatus,
    ListenerStatus,
    VirtualServerDevice,
    VirtualServerStatus,
)
from protocol.durations import say, utc
from protocol.ids import DeviceId
from protocol.objects import Assignment, Gateway, VirtualServer
from protocol.timing import SECOND
from protocol.view import PeerState

SEEN = {
    PeerState.SUSPECT: "not heard for a moment",
    PeerState.DEAD: "not heard",
    PeerState.STOPPED: "stopped",
}
"""What is wrong with a device that is not alive."""


def virtual_server_status(picture: Picture, server: VirtualServer) -> VirtualServerStatus:
    """Everything about one Virtual Server as seen from this device."""
    primary = picture.primary(server.uid)
    seen = picture.groups.get(server.uid)
    devices = _devices(picture, server, primary)
    gateways = _gateways(picture, server, primary)
    down = tuple(_why_down(picture, server, primary, gateways))
    degraded = tuple(_why_degraded(picture, server, devices, gateways))
    return VirtualServerStatus(
        name=server.name,
        vips=server.vips,
        state="down" if down else "degraded" if degraded else "ok",
        primary=None if primary is None else picture.name(primary),
        term=seen.term if seen else 0,
        since=None if primary is None else _iso(picture.since(server.uid, primary)),
        profile=server.profile.value,
        devices=devices,
        listeners=tuple(
            ListenerStatus(
                each.protocol, each.port, each.gateway_port, each.balance, each.last_port
            )
            for each in server.listeners
        ),
        gateways=gateways,
        reasons=(*down, *degraded),
        notes=tuple(_notes(picture, server)),
        peer_loss=_peer_loss(picture, server),
        forwarding=server.forwarding,
        inner_vips=server.inner_vips,
        virtual_mac=server.virtual_mac,
    )


def _peer_loss(picture: Picture, server: VirtualServer) -> str:
    """What one of two voters does when it loses the other; empty with other numbers."""
    assignment = picture.assignment(server.uid)
    if assignment is None or len(assignment.voters) != 2:
        return ""
    if not assignment.lone:
        return "stop"
    return f"arbiter {server.arbiter}" if server.arbiter else server.on_peer_loss or "stop"


def _iso(unix_ms: int | None) -> str | None:
    if not unix_ms:
        return None  # unknown
    text = datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _devices(
    picture: Picture, server: VirtualServer, primary: DeviceId | None
) -> tuple[VirtualServerDevice, ...]:
    carriers = picture.carriers(server)
    found = []
    for device in picture.voters(server):
        witness = device not in carriers and device != primary
        role = "primary" if device == primary else "witness" if witness else "secondary"
        reason = _why_not_eligible(picture, server, device, carriers)
        found.append(VirtualServerDevice(picture.name(device), role, not reason, reason))
    return tuple(found)


def _why_not_eligible(
    picture: Picture, server: VirtualServer, device: DeviceId, carriers: tuple[DeviceId, ...]
) -> str:
    """Why a device may not become or stay primary; empty if it may."""
    known = picture.config.devices.get(device)
    if known is None:
        return "no device of the Site any more"
    if device in server.witnesses or known.witness:
        return "votes only" if picture.alive(device) else SEEN[picture.state(device)]
    if device not in carriers:
        return "does not carry this Virtual Server any more"
    if known.drained:
        return "drained"
    if not picture.alive(device):
        return SEEN[picture.state(device)]
    if reason := picture.unfit(device, server.uid):
        return reason
    assignment = picture.assignment(server.uid)
    if assignment is None or device not in assignment.voters:
        return "waits for the coordinator to make it a voter"
    return picture.lags_in(device, server.uid) or picture.behind(device, server.uid)


def _gateways(
    picture: Picture, server: VirtualServer, primary: DeviceId | None
) -> tuple[GatewayStatus, ...]:
    facts, uid = picture.facts, server.uid
    counted = facts.connections if facts.device in picture.carriers(server) else None
    # What the primary sees decides, as it does for the traffic; without one, what we see.
    judge = facts.device if primary is None else primary
    found = []
    for gateway in server.gateways:
        state: str = "up" if gateway.state == "enabled" else gateway.state
        reason = ""
        observers = picture.observers((uid, gateway.name))
        if observers and state != "disabled":
            state = "down" if judge in observers else state
            reason = _why_gateway_down(picture, server, gateway, observers)
        count = -1 if counted is None else counted.get((uid, gateway.name), 0)
        note = facts.shares.get((uid, gateway.name), "") if state == "up" else ""
        if state == "up" and not _has_vip(server, gateway.address):
            note = "takes nothing: no VIP has its IP version"
        shown = (gateway.name, gateway.address, state, gateway.weight, count, reason, note)
        found.append(GatewayStatus(*shown))
    return tuple(found)


def _why_gateway_down(
    picture: Picture, server: VirtualServer, gateway: Gateway, observers: set[DeviceId]
) -> str:
    """The reason as this device knows it, and who sees it where not all do."""
    reason = picture.facts.down.get((server.uid, gateway.name), "")
    if all(c in observers for c in picture.carriers(server) if picture.alive(c)):
        return reason
    seen = f"down as seen from {', '.join(sorted(map(picture.name, observers)))}"
    return f"{seen}: {reason}" if reason else seen


def _has_vip(server: VirtualServer, gateway: str) -> bool:
    """Whether a VIP has the IP version of a gateway's address."""
    return family(gateway) in map(family, server.vips)


def _usable(gateways: Iterable[GatewayStatus]) -> list[GatewayStatus]:
    return [g for g in gateways if g.state == "up" and g.weight > 0]


def _why_down(
    picture: Picture,
    server: VirtualServer,
    primary: DeviceId | None,
    gateways: tuple[GatewayStatus, ...],
) -> Iterator[str]:
    if primary is None:
        yield _why_no_primary(picture, server)
    if not server.listeners:
        yield "it has no listener"
    fitting = [g for g in gateways if _has_vip(server, g.address)]
    if not server.gateways:
        yield "it has no gateway"
    elif not fitting:
        yield "no gateway has an address of the VIPs' family"
    elif not _usable(fitting):
        states = ", ".join(f"{g.name} {g.state if g.weight else 'weight 0'}" for g in fitting)
        yield f"no gateway can take a connection ({states})"


def _why_no_primary(picture: Picture, server: VirtualServer) -> str:
    assignment = picture.assignment(server.uid)
    if assignment is None:
        return "no primary: the coordinator has not assigned it to devices yet"
    gone = [v for v in assignment.voters if not picture.alive(v)]
    former = [v for v in assignment.former if not picture.alive(v)]
    total = len(assignment.voters)
    seen = picture.groups.get(server.uid)
    if seen is not None and seen.waits:
        force = (
            f"; `halbctl failover {server.name} --force` on it decides" if gone or former else ""
        )
        return f"no primary: {picture.name(picture.facts.device)} {seen.waits}{force}"
    if total - len(gone) <= total // 2:
        return (
            f"no primary: only {total - len(gone)} of {total} voters can be heard"
            f" (missing: {picture.names(gone)})"
        )
    if server.frozen:
        return "no primary: it is frozen, so only its last primary takes it; `halbctl vs unfreeze`"
    return "no primary: an election is under way, or no device is eligible"


def _why_degraded(
    picture: Picture,
    server: VirtualServer,
    devices: tuple[VirtualServerDevice, ...],
    gateways: tuple[GatewayStatus, ...],
) -> Iterator[str]:
    primary, seen = picture.primary(server.uid), picture.groups.get(server.uid)
    silent = seen is not None and seen.unheard
    if primary is not None and (silent or picture.state(primary) is PeerState.SUSPECT):
        yield f"{picture.name(primary)} is not heard: whether it still serves is not known here"
    for gateway in gateways:
        if gateway.state == "down":
            yield f"gateway {gateway.name} is down{_because(gateway.reason)}"
        elif gateway.reason:
            yield f"gateway {gateway.name} is {gateway.reason}"
    yield from _families_without_gateway(server, gateways)
    quiet = ("votes only", "drained")
    for device in devices:
        if not device.eligible and device.reason not in quiet:
            yield f"device {device.name}: {device.reason}"
    assignment = picture.assignment(server.uid)
    if assignment is None:
        return
    waiting = [vip for vip in server.leased if vip not in assignment.vips]
    if waiting:
        yield f"{', '.join(waiting)} waits until its former holder has let go of it"
    if seen is not None and seen.alone:
        name = picture.name(picture.facts.device)
        yield f"{name} serves alone: it does not hear the other device"
    yield from _deaf(picture, assignment.voters)
    yield from _no_reserve(len(assignment.voters), assignment.lone, devices)


def _notes(picture: Picture, server: VirtualServer) -> Iterator[str]:
    """What moves it without an operator, or keeps it from moving."""
    seen = picture.groups.get(server.uid)
    if server.frozen:
        yield (
            "frozen: it moves on `halbctl promote` only, and if its primary fails nobody else"
            " takes it over"
        )
    assignment = picture.assignment(server.uid)
    voters = 2 if assignment is None else len(assignment.voters)
    changing = assignment is not None and assignment.formerly_lone and bool(assignment.former)
    if assignment is not None and changing:
        yield from _alone_by_the_list_before(picture, assignment)
    if voters != 2 and not changing and (server.arbiter or server.on_peer_loss):
        which = "arbiter" if server.arbiter else "on_peer_loss"
        yield f"`{which}` means nothing while {voters} devices vote: it is for two"
    if assignment is not None and assignment.lone and assignment.profile != server.profile:
        yield (
            f"profile {assignment.profile} stays in force until both devices are there"
            f" to agree on {server.profile}"
        )
    if server.preempt:
        yield f"goes to a better-ranked device that has been fit for {say(server.preempt)}"
    planned = picture.config.planned_moves.get(server.uid)
    if planned is not None:
        to = "the next in rank" if planned.to is None else picture.name(planned.to)
        yield f"moves to {to} at {utc(planned.at)}, as planned"
    if seen is not None and seen.damped:
        left = say(seen.damped // SECOND)
        yield f"moved too often: stays where it is for {left} more, or until `halbctl promote`"
    for device in picture.carriers(server):
        if late := picture.late(device, server.uid):
            yield f"device {picture.name(device)} is ranked last: {late}"


def _alone_by_the_list_before(picture: Picture, assignment: Assignment) -> Iterator[str]:
    """What a change of voters waits for, where one of two devices might still serve alone."""
    gone = [v for v in assignment.former if not picture.alive(v)]
    if gone:
        yield (
            f"{picture.names(gone)} may not know the newest list of voters, and could still serve"
            " alone: who takes it asks for its VIPs first, and the next change of voters waits;"
            " `halbctl recover` gives up what is lost for good"
        )


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _families_without_gateway(
    server: VirtualServer, gateways: tuple[GatewayStatus, ...]
) -> Iterator[str]:
    usable = {family(g.address) for g in _usable(gateways)}
    vips = {family(vip) for vip in server.vips}
    if usable & vips:  # otherwise it is down, and says so
        for missing in sorted(vips - usable):
            yield f"no gateway with an IPv{missing} address can take a connection"


def _deaf(picture: Picture, voters: tuple[DeviceId, ...]) -> Iterator[str]:
    """Voters that live, yet do not hear each other, or badly."""
    for device, (unheard, lossy) in picture.deaf.items():
        if device not in voters or not picture.alive(device):
            continue
        name = picture.name(device)
        for other in voters:
            if other in unheard and picture.alive(other):
                yield f"{name} does not hear {picture.name(other)}; see `halbctl matrix`"
            elif other in lossy and picture.alive(other):
                yield (
                    f"{name} misses more than 5 % of the beats of {picture.name(other)} on a"
                    " connection; see `halbctl matrix`"
                )


def _no_reserve(voters: int, lone: bool, devices: tuple[VirtualServerDevice, ...]) -> Iterator[str]:
    """Why the next failure of a device would end the service."""
    if voters == 1:
        yield "it has one voter: nobody takes over if that device fails"
    elif voters == 2 and not lone:
        yield (
            "it has two voters: if either fails the other may not take over; add a witness,"
            " or choose `arbiter` or `on_peer_loss`"
        )
    elif not any(d.eligible for d in devices if d.role != "primary"):
        yield "no other device could take it over"
