"""Tells the service manager that the agent is up; :manpage:`sd_notify(3)`, without its library.

So ``systemctl start`` returns when the device can take over, and who restarts one device after
the other never takes the second away while the first is not back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable

from protocol.ids import DeviceId
from protocol.view import NodeView, Role

VARIABLE = "NOTIFY_SOCKET"
READY = b"READY=1"
PATIENCE_S = 10.0
"""A device that cannot take over by then is up all the same: others may be dead."""
LOOK_S = 0.1

_log = logging.getLogger("halb.agent")


def service_manager() -> str:
    """Where the service manager listens, once; empty where there is none.

    Children do not get to know of it: a program of a check would be heard as the agent.
    """
    return os.environ.pop(VARIABLE, "")


def lacking(view: NodeView, device: DeviceId) -> str:
    """What keeps a device that has just started from taking over; empty if nothing does."""
    if view.coordinator is None:
        return "it hears of no coordinator"
    for group in view.groups:
        if device not in group.voters:
            continue
        if group.role is Role.WAITING:
            return "its vote may still be promised"
        if group.leader is None:
            return f"it hears of no primary of {group.group}"
        if group.behind:
            return group.behind
    return ""


async def settle(lacks: Callable[[], str], stop: asyncio.Event) -> None:
    """Return once nothing is lacking any more, or patience or the agent ends."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    stopped = loop.create_task(stop.wait())
    try:
        while (why := lacks()) and not stopped.done():
            if loop.time() >= deadline:
                _log.warning("this device is up, but cannot take over yet: %s", why)
                break
            await asyncio.wait([stopped], timeout=LOOK_S)
    finally:
        stopped.cancel()


def tell_ready(manager: str) -> None:
    """Tell the service manager, if there is one, that the agent is up.

    A name that begins with ``@`` is of the abstract namespace.
    """
    if not manager:
        return
    address = manager.replace("@", "\0", 1) if manager.startswith("@") else manager
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(READY, address)
    except OSError as error:
        _log.warning("the service manager is not told that the agent is up: %s", error)
