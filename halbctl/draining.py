"""Waiting for what is drained to become empty, and saying how far it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from halbctl.errors import note
from halbctl.session import ask, ask_all, get_status
from halbctl.settings import settings_of
from protocol.durations import utc
from protocol.errors import InvalidInput, Refused, TimedOut
from protocol.nearest import nearest

if TYPE_CHECKING:
    import typer

    from halbctl.replies import Gateways, GatewayViews

PAUSE_S = 1.0
"""Between two looks at a gateway; counts are as old."""
PATIENCE_S = 24 * 3600.0
"""A gateway without a deadline is waited for so long."""
DEVICE_S = 60.0
"""A device hands over in seconds, unless there is nobody to take."""
GRACE_S = 15.0
"""After its deadline, until the gateway is disabled and empty."""


def get_views(ctx: typer.Context, vs: str) -> Gateways:
    """The gateways of a Virtual Server as all devices see them."""
    return cast("Gateways", ask(ctx, {"op": "gateways", "virtual_server": vs}))


def ask_views(ctx: typer.Context, vs: str) -> Gateways:
    """The same for who asks once, and may wait for devices that are slow to answer."""
    return cast("Gateways", ask_all(ctx, {"op": "gateways", "virtual_server": vs}))


def gateway_of(views: Gateways, name: str) -> GatewayViews:
    """The gateway of this name; InvalidInput with the nearest name otherwise."""
    for gateway in views["gateways"]:
        if gateway["name"] == name:
            return gateway
    names = [gateway["name"] for gateway in views["gateways"]]
    vs = views["virtual_server"]
    raise InvalidInput(f"Virtual Server {vs!r} has no gateway named {name!r}", nearest(name, names))


def refuse_endless(ctx: typer.Context, vs: str, deadline: str | None) -> None:
    """Raise Refused if nothing would end the wait for a gateway of this Virtual Server.

    That is so where nobody counts connections, and neither a deadline nor the operator's own
    timeout comes.
    """
    if deadline is not None or settings_of(ctx).timeout is not None:
        return
    if not get_views(ctx, vs).get("counted", True):
        raise Refused(
            f"--wait would have no end: nobody counts the connections of Virtual Server {vs!r} as "
            "it forwards now",
            "Give it a --deadline, such as 30m, at which what is left is ended; or do not wait.",
        )


def wait_until_empty(ctx: typer.Context, vs: str, name: str) -> None:
    """Return when the gateway has no connections; tell each change of their number.

    Where nobody counts them, it has none once it is disabled, and that is said once. Raises
    TimedOut after the operator's own timeout, or some time after its deadline.
    """
    began, told, warned = time.time(), None, False
    limit = settings_of(ctx).timeout_or(PATIENCE_S)
    while True:
        views = get_views(ctx, vs)
        gateway = gateway_of(views, name)
        left = connections(gateway)
        if left != told and left is not None:
            note(f"{name}: {left} connections left" if left else f"{name} has no connections")
            told = left
        # An agent of another release may not say whether anybody could count them.
        uncounted = left is None and not views.get("counted", False)
        if left == 0 or (uncounted and gateway["state"] == "disabled"):
            return
        if gateway["state"] == "enabled":
            raise TimedOut(f"gateway {vs}/{name} is not drained any more: it was enabled again")
        end = began + limit
        if gateway["drain_until"] is not None:
            end = min(end, gateway["drain_until"] + GRACE_S)
        if uncounted and not warned:
            note(f"{name}: nobody counts its connections as {vs} forwards; {_until(gateway, end)}")
            warned = True
        if time.time() > end:
            raise _late(f"{vs}/{name}", left, uncounted=uncounted)
        time.sleep(PAUSE_S)


def _until(gateway: GatewayViews, end: float) -> str:
    """What will end the wait for a gateway whose connections nobody counts."""
    deadline = gateway["drain_until"]
    if deadline is None or deadline > end:
        return f"waiting until {utc(end)}"
    return f"waiting until it is disabled at its deadline, {utc(deadline)}"


def _late(gateway: str, left: int | None, *, uncounted: bool) -> TimedOut:
    if uncounted:
        return TimedOut(
            f"gateway {gateway} may still have connections: nobody counts them",
            "It is sent nothing new; with a --deadline what it still has is ended then.",
        )
    still = f"still has {left}" if left is not None else "may still have"
    return TimedOut(
        f"gateway {gateway} {still} connections",
        "It is sent nothing new; `halbctl gateway show` counts them.",
    )


def connections(gateway: GatewayViews) -> int | None:
    """Connections as the primary counts them; None where it does not say."""
    for view in gateway["devices"]:
        if view["role"] == "primary" and view["connections"] >= 0:
            return view["connections"]
    return None


def wait_until_idle(ctx: typer.Context, name: str) -> None:
    """Return when the device is primary of nothing; raises TimedOut with what it still has."""
    end, told = time.time() + settings_of(ctx).timeout_or(DEVICE_S), None
    while True:
        status = get_status(ctx)
        device = next((d for d in status["devices"] if name in (d["name"], d["id"])), None)
        left = 0 if device is None else device["primary_of"]
        if left != told:
            note(f"{name} is primary of {left or 'nothing'}")
            told = left
        if not left:
            return
        if time.time() > end:
            listed = ", ".join(
                vs["name"] for vs in status["virtual_servers"] if vs["primary"] == name
            )
            raise TimedOut(
                f"device {name} is still primary of {listed or left}",
                "`halbctl explain VS` says who could take each, and why not.",
            )
        time.sleep(min(PAUSE_S, 0.2))
