"""Passive checks: connections that a gateway does not answer have it checked at once.

The primary looks once a second for half-open flows in the kernel's table: a
client's SYN went to a gateway, and nothing has come back. A flow that is so in
two looks is evidence. Evidence alone takes no gateway down, for a client that
the gateway's own firewall drops looks the same: it brings the check to its last
failure but one and makes it now, and the gateway's answer decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import islice

from agent.clock import next_round
from agent.conntrack import unanswered
from agent.ctnetlink import versions_of
from agent.distribution import GatewayKey
from agent.lasting import lasting
from protocol.errors import HalbError
from protocol.flows import TCP
from protocol.objects import VirtualServer

LOOK_S = 1.0
"""Between two looks: longer than a client waits before it sends a lost SYN again."""
MAX_FLOWS = 10_000
"""Half-open flows that are read in one look."""


_log = logging.getLogger("halb.passive")


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """A flow that no answer has come to."""

    entry: bytes
    """The client's side of it, as the kernel has it: who, from which port."""
    vip: str
    port: int
    gateway: str


def half_open(vips: Iterable[str]) -> tuple[HalfOpen, ...]:
    """Flows of TCP to ``vips`` that no answer has come to, at most :data:`MAX_FLOWS`."""
    wanted = {ip_address(vip).packed: vip for vip in vips}
    found = (
        HalfOpen(client, wanted[vip], int.from_bytes(port, "big"), str(ip_address(gateway)))
        for version in versions_of(wanted)
        for vip, protocol, port, gateway, client in unanswered(version, wanted)
        if protocol == TCP
    )
    return tuple(islice(found, MAX_FLOWS))


class Evidence:
    """What of the half-open flows is news. Pure."""

    def __init__(self) -> None:
        self._before: frozenset[HalfOpen] = frozenset()
        self._counted: frozenset[HalfOpen] = frozenset()

    def of(
        self, servers: Iterable[VirtualServer], flows: Iterable[HalfOpen]
    ) -> Mapping[tuple[GatewayKey, str], int]:
        """Flows that were half-open in the look before as well, by gateway and listener.

        Each flow counts once for a gateway; only listeners that are ``passive`` count.
        """
        now = frozenset(flows)
        fresh = (now & self._before) - self._counted
        self._counted = (self._counted & now) | fresh
        self._before = now
        where = {
            (vip, gateway.address): (server, gateway.name)
            for server in servers
            for vip in server.addresses
            for gateway in server.gateways
        }
        found: Counter[tuple[GatewayKey, str]] = Counter()
        for flow in fresh:
            place = where.get((flow.vip, flow.gateway))
            if place is None:
                continue
            server, name = place
            for listener in server.listeners:
                first, last = listener.ports
                if listener.passive and listener.protocol == "tcp" and first <= flow.port <= last:
                    found[(server.uid, name), listener.key] += 1
        return found


class Passive:
    """Looks while this device is primary of a Virtual Server that wants it."""

    def __init__(
        self,
        servers: Callable[[], Iterable[VirtualServer]],
        suspect: Callable[[GatewayKey, str, str], None],
    ) -> None:
        """``servers``: those that this device is primary of.

        ``suspect(gateway, listener, why)`` has its check made at once.
        """
        self._servers = servers
        self._suspect = suspect
        self._trouble = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.get_running_loop().create_task(
            lasting(self._look_forever), name="passive"
        )

    async def _look_forever(self) -> None:
        evidence = Evidence()
        while True:
            await next_round(LOOK_S)
            servers = [s for s in self._servers() if any(each.passive for each in s.listeners)]
            if not servers:
                continue
            vips = [vip for server in servers for vip in server.addresses]
            try:
                flows = await asyncio.to_thread(half_open, vips)
                self._trouble = ""
            except HalbError as error:
                if error.message != self._trouble:
                    _log.error("no passive checks: %s", error.message)
                self._trouble = error.message
                continue
            for (gateway, listener), count in evidence.of(servers, flows).items():
                some = "a connection" if count == 1 else f"{count} connections"
                self._suspect(gateway, listener, f"no answer to {some}")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
