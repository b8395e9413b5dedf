"""Entries of the connection table that a change of the rules left behind, and that would mislead.

**Of a gateway that goes, before it answered.** A client sends a lost SYN again and again, and
each time it meets the entry that the first one made, which leads to the gateway that is
gone, for two minutes after the last one. So once no slot leads there any more, the entry is
taken out, and the next SYN opens the flow towards a gateway that is up; with UDP the next
datagram does. What was answered is never touched.

**Of a listener that goes without memory again**, as after a drain. No packet meets its entries
any more, and the kernel would keep them for five days; remembering once more, it would send
a client that has its port again where that led.

Every device that carries the Virtual Server does so, for it may forward what others
send it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial

from agent.addresses import local_addresses
from agent.conntrack import Service, end_unanswered, end_unneeded
from agent.distribution import GatewayKey
from agent.forwarding import forgets
from agent.ruleset import Desired, carried
from protocol.errors import HalbError
from protocol.ids import GroupId
from protocol.objects import VirtualServer

GRACE_S = 0.1
"""Seconds from when no slot leads to a gateway until its flows are looked at. A gateway that was
disabled and lives has then answered what was on its way, and no packet is left that met the
old slots. A client sends a SYN again after a second at the earliest."""

Place = tuple[GroupId, str]
"""(Virtual Server, address of a gateway)."""

_log = logging.getLogger("halb.leftovers")


def answering(vs: VirtualServer, down: frozenset[GatewayKey]) -> frozenset[str]:
    """Addresses of the gateways that are to answer what they are sent: not down, not disabled.

    One that drains, or has no weight, takes no new flows, but answers those that it has.
    """
    return frozenset(
        g.address for g in vs.gateways if g.state != "disabled" and (vs.uid, g.name) not in down
    )


def departed(before: Desired, now: Desired) -> frozenset[Place]:
    """Gateways that were to answer ``before``, and are not ``now``: failed, disabled, removed."""
    former = {vs.uid: vs for vs in before.virtual_servers}
    failed = {uid for uid, _ in now.down - before.down}
    return frozenset(
        (vs.uid, address)
        for vs in now.virtual_servers
        # Most are as they were, which costs little to see.
        if (old := former.get(vs.uid)) is not None and (old is not vs or vs.uid in failed)
        for address in answering(old, before.down) - answering(vs, now.down)
    )


def forgotten(of: Desired) -> frozenset[Service]:
    """Where packets pass without an entry."""
    routed = Desired(tuple(vs for vs in of.virtual_servers if vs.forwarding == "routed"), of.vips)
    return frozenset(
        (vip, listener.protocol, listener.ports)
        for _, vs, listener, version, vips in carried(routed)
        if forgets(vs, listener, version, vips)
        for vip in vips
    )


class Leftovers:
    """Of one device; belongs to the loop's thread."""

    def __init__(self) -> None:
        self._in_force = Desired()
        self._gone: frozenset[Place] = frozenset()
        """Gateways whose flows are still to be looked at."""
        self._forgotten: frozenset[Service] = frozenset()
        self._unneeded: frozenset[Service] = frozenset()
        """Of those that pass without an entry, these were not looked at since they do."""
        self._task: asyncio.Task[None] | None = None

    def on_pass(self, in_force: Desired) -> None:
        """The kernel's rules are these now."""
        if in_force is self._in_force:
            return
        self._gone |= departed(self._in_force, in_force)
        before, self._forgotten = self._forgotten, forgotten(in_force)
        self._unneeded = (self._unneeded | (self._forgotten - before)) & self._forgotten
        self._in_force = in_force
        if (self._gone or self._unneeded) and (self._task is None or self._task.done()):
            create = asyncio.get_running_loop().create_task
            self._task = create(self._sweep(), name="leftovers")

    async def _sweep(self) -> None:
        """One look at a time: what comes meanwhile has the next one together."""
        while self._gone or self._unneeded:
            gone, self._gone = self._gone, frozenset()
            unneeded, self._unneeded = self._unneeded, frozenset()
            await asyncio.sleep(GRACE_S)
            if still := self._still(gone):
                what = "flows that were not answered go to other gateways"
                await _ended(partial(end_unanswered, still), what)
            if unneeded := unneeded & self._forgotten:
                await _ended(
                    partial(_end_unneeded, unneeded), "entries that no flow needs are gone"
                )

    def _still(self, gone: frozenset[Place]) -> list[tuple[str, str]]:
        """VIPs with the gateways that went from their Virtual Servers and did not come back."""
        servers = {vs.uid: vs for vs in self._in_force.virtual_servers}
        return [
            (vip, address)
            for uid, address in gone
            if uid in servers and address not in answering(servers[uid], self._in_force.down)
            for vip in self._in_force.vips.get(uid, ())
        ]

    async def close(self) -> None:
        """Stop; flows that were not looked at stay as they are."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


async def _ended(job: Callable[[], int], what: str) -> None:
    try:
        count = await asyncio.to_thread(job)
    except HalbError as error:
        _log.error("not done (%s): %s", what, error.message)
        return
    if count:
        _log.info("%d %s", count, what)


def _end_unneeded(services: Iterable[Service]) -> int:
    # What this host itself opens is translated in every mode, and needs an entry.
    return end_unneeded(services, local_addresses())
