"""Gateways as all devices see them, side by side. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from agent.checks import HealthChecks
from agent.kernel import Counts
from agent.ruleset import remembers_all
from protocol.assignment import carriers_of
from protocol.config import Config
from protocol.errors import Refused
from protocol.ids import NO_REVISION, DeviceId, GroupId
from protocol.insight import Gateways, GatewayView, GatewayViews
from protocol.messages import MAX_FAULT, GatewaySeen, Report
from protocol.objects import VirtualServer


def seen(
    server: VirtualServer, checks: HealthChecks, counts: Counts | None
) -> tuple[GatewaySeen, ...]:
    """What this device tells of the gateways of a Virtual Server that it carries."""
    faults = checks.reasons()
    return tuple(
        GatewaySeen(
            gateway.name,
            checks.checks((server.uid, gateway.name)),
            faults.get((server.uid, gateway.name), "")[:MAX_FAULT],
            _known(counts, (server.uid, gateway.name)),
        )
        for gateway in server.gateways
    )


def _known(counts: Counts | None, gateway: tuple[GroupId, str]) -> int | None:
    """Its flows; None where they are not counted now, or never."""
    count = -1 if counts is None else counts.get(gateway, -1)
    return None if count < 0 else count


def side_by_side(
    config: Config,
    server: VirtualServer,
    me: str,
    primary: str | None,
    told: Mapping[DeviceId, Report],
) -> Gateways:
    """What the devices that may carry ``server`` told of its gateways, best rank first.

    What a device counted that has yet to apply ``config`` says nothing of it: to drain a
    gateway may be what it lacks.
    """
    by_device = {d: {g.name: g for g in report.gateways} for d, report in told.items()}
    applied = {d: report.group.applied for d, report in told.items() if report.group}
    counted = remembers_all(server)
    names = {d: config.devices[d].name for d in carriers_of(config, server) if d in config.devices}

    def view(device: DeviceId, gateway: str) -> GatewayView:
        role = "primary" if names[device] == primary else "secondary"
        found = by_device.get(device, {}).get(gateway)
        if found is None:
            return GatewayView(names[device], role, "unknown", "", -1)
        state = "down" if found.fault else "up" if found.checked else "unchecked"
        known = applied.get(device, NO_REVISION) >= config.revision
        count = found.connections if known and found.connections is not None else -1
        if count == 0 and not counted:
            # None of what is counted, which is not all.
            count = -1
        return GatewayView(names[device], role, state, found.fault, count)

    return Gateways(
        server.name,
        me,
        primary,
        tuple(
            GatewayViews(
                each.name,
                each.address,
                each.weight,
                each.state,
                each.drain_until,
                tuple(view(device, each.name) for device in names),
                each.backup,
                each.max_connections,
            )
            for each in server.gateways
        ),
        counted,
    )


def lacks_counts(gateways: Gateways) -> bool:
    """Whether a primary that answered has yet to count."""
    return gateways.counted and any(
        view.role == "primary" and view.state != "unknown" and view.connections < 0
        for gateway in gateways.gateways
        for view in gateway.devices
    )


def refuse_used(gateways: Gateways, name: str) -> None:
    """Raise Refused if a gateway that is to be removed still has connections, or may have some.

    Where the kernel keeps no count, or nobody serves, a gateway that was drained or disabled
    before may go.
    """
    for gateway in gateways.gateways:
        if gateway.name != name:
            continue
        counts = [view.connections for view in gateway.devices if view.role == "primary"]
        known = [count for count in counts if count >= 0]
        if known and not any(known):
            return
        unsaid = gateways.counted and bool(counts)
        if not known and not unsaid and gateway.state != "enabled":
            return
        if known:
            has = f"has {known[0]} connections"
        elif unsaid:
            has = f"may have connections: {gateways.primary} has not said in time how many"
        else:
            has = "takes connections that nobody counts"
        raise Refused(
            f"gateway {gateways.virtual_server}/{name} {has}",
            "`--drain 10m` lets them end first and then removes it; `--force` ends them now.",
        )
