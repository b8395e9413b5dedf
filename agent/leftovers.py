"""Entries of the connection table that a change of the rules left behind, and that would mislead.

**Of a way that goes, before it was answered**: the gateway fails or is removed, has another port,
or the VIP another Virtual Server. A client sends a lost SYN again and again, and each time it
meets the entry that the first one made, which leads to where nobody answers, for two minutes
after the last one; a client that only sends datagrams meets it for as long as it sends. So once
no rule leads there any more, the entry is taken out, and the next SYN or datagram opens the flow
anew. What was answered is never touched.

**Of a listener that goes without memory again**, as after a drain, or becomes `dsr`. No packet
meets its entries any more, and the kernel would keep them for five days; remembering once more,
it would send a client that has its port again where that led, and count them as connections.

**Of a VIP that the Site has no more**. Its connections end with it; their entries would go on for
as long as neighbours take this device for the VIP, and for five days be counted as connections of
a Virtual Server that gets the VIP again.

**Of a flow that began before this device had the VIP**, or while others had flushed the rules.
It leads to this host, which does not have it, and what its client sends next would meet it again.

**Of flows to gateways that saw the client, where they see the VIP from now on**. Their answers
would go past this device, and the client would wait; without its entry it is reset, and connects
again.

Every device that carries the Virtual Server does so, for it may forward what others
send it; where a VIP goes for good, every device.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container, Iterable
from dataclasses import replace
from functools import partial
from ipaddress import ip_address

from agent.addresses import local_addresses
from agent.conntrack import Route, Service, end_flows_to, end_unanswered, end_unneeded
from agent.distribution import GatewayKey
from agent.forwarding import forgets
from agent.ruleset import Desired, carried
from protocol.addresses import family
from protocol.config import Config
from protocol.errors import HalbError
from protocol.ids import GroupId
from protocol.objects import Forwarding, VirtualServer

GRACE_S = 0.1
"""Seconds from when no rule leads to a gateway until its flows are looked at. A gateway that was
disabled and lives has then answered what was on its way, and no packet is left that met the
old rules. A client sends a SYN again after a second at the earliest."""

_log = logging.getLogger("halb.leftovers")


def answering(vs: VirtualServer, down: frozenset[GatewayKey]) -> frozenset[str]:
    """Addresses of the gateways that are to answer what they are sent: not down, not disabled.

    One that drains, or has no weight, takes no new flows, but answers those that it has.
    """
    return frozenset(
        g.address for g in vs.gateways if g.state != "disabled" and (vs.uid, g.name) not in down
    )


def departed(before: Desired, now: Desired) -> frozenset[Route]:
    """Routes that were to be answered ``before``, and are not ``now``.

    What is new may be what a former life of this agent led, to gateways that are down now.
    """
    former, present = ({vs.uid: vs for vs in each.virtual_servers} for each in (before, now))
    failed = {uid for uid, _ in now.down - before.down}
    # Most are as they were, which costs little to see.
    changed = {
        uid
        for uid, vs in former.items()
        if present.get(uid) is not vs or uid in failed or before.vips.get(uid) != now.vips.get(uid)
    }
    new = {uid for uid, _ in now.down} - former.keys()
    led = _routes(before, changed) | _routes(replace(now, down=frozenset()), new)
    return led - _routes(now, changed | new)


def _routes(of: Desired, uids: Container[GroupId]) -> frozenset[Route]:
    return frozenset(
        Route((vip, listener.protocol, listener.ports), address, listener.gateway_ports)
        for _, vs, listener, version, vips in carried(_only(of, uids))
        for address in answering(vs, of.down)
        if family(address) == version
        for vip in vips
    )


def _only(of: Desired, uids: Container[GroupId]) -> Desired:
    return Desired(tuple(vs for vs in of.virtual_servers if vs.uid in uids), of.vips)


def _in_mode(of: Desired, mode: Forwarding) -> frozenset[GroupId]:
    return frozenset(vs.uid for vs in of.virtual_servers if vs.forwarding == mode)


def forgotten(of: Desired) -> frozenset[Service]:
    """Where packets pass without an entry."""
    routed = frozenset(
        (vip, listener.protocol, listener.ports)
        for _, vs, listener, version, vips in carried(_only(of, _in_mode(of, "routed")))
        if forgets(vs, listener, version, vips)
        for vip in vips
    )
    return routed | _direct(of)


def _direct(of: Desired) -> frozenset[Service]:
    """Where gateways answer clients past this device."""
    return _served(of, _in_mode(of, "dsr"))


def hidden(before: Desired, now: Desired) -> frozenset[Service]:
    """Where gateways saw the clients ``before``, and see the VIP ``now``."""
    return _served(now, _in_mode(before, "routed") & _in_mode(now, "snat"))


def delivered(of: Desired, vips: Container[str]) -> frozenset[Route]:
    """From the listeners of ``vips`` to this host itself, where no rule leads."""
    served = _served(of, {vs.uid for vs in of.virtual_servers})
    return frozenset(Route(each, each[0], each[2]) for each in served if each[0] in vips)


def _served(of: Desired, uids: Container[GroupId]) -> frozenset[Service]:
    return frozenset(
        (vip, listener.protocol, listener.ports)
        for _, _, listener, _, vips in carried(_only(of, uids))
        for vip in vips
    )


class Leftovers:
    """Of one device; belongs to the loop's thread."""

    def __init__(self) -> None:
        self._in_force = Desired()
        self._gone: frozenset[Route] = frozenset()
        """Where flows are still to be looked at."""
        self._forgotten: frozenset[Service] = frozenset()
        self._unneeded: frozenset[Service] = frozenset()
        """Where entries are of no use, and were not looked at since they are not."""
        self._owned: frozenset[str] = frozenset()
        """Addresses that Virtual Servers of the Site are to have."""
        self._given_up: frozenset[str] = frozenset()
        """Those that none is to have any more, and whose flows are still to be ended."""
        self._task: asyncio.Task[None] | None = None

    def on_config(self, config: Config) -> None:
        """What the Site is to serve; the kernel's rules follow."""
        servers = config.virtual_servers.values()
        owned = frozenset(vip for vs in servers for vip in vs.leased)
        self._given_up = (self._given_up | self._owned) - owned
        self._owned = owned

    def on_pass(self, in_force: Desired, *, mended: bool = False) -> None:
        """The kernel's rules are these now; ``mended``: others had changed some."""
        if in_force is self._in_force and not (mended or self._silent):
            return
        came = in_force.addresses if mended else in_force.addresses - self._in_force.addresses
        self._gone |= delivered(in_force, came)
        self._gone |= departed(self._in_force, in_force)
        before, self._forgotten = self._forgotten, forgotten(in_force)
        self._unneeded |= (self._forgotten - before) | hidden(self._in_force, in_force)
        self._in_force = in_force
        if self._due and (self._task is None or self._task.done()):
            create = asyncio.get_running_loop().create_task
            self._task = create(self._sweep(), name="leftovers")

    @property
    def _silent(self) -> frozenset[str]:
        """Given up, and led nowhere any more."""
        return self._given_up - self._in_force.addresses

    @property
    def _due(self) -> bool:
        return bool(self._gone or self._unneeded or self._silent)

    async def _sweep(self) -> None:
        """One look at a time: what comes meanwhile has the next one together."""
        while self._due:
            gone, self._gone = self._gone, frozenset()
            unneeded, self._unneeded = self._unneeded, frozenset()
            await asyncio.sleep(GRACE_S)
            if silent := self._silent:
                self._given_up -= silent
                await _ended(partial(end_flows_to, silent), "flows ended with their VIP")
            if still := gone - _routes(self._in_force, self._having(gone)):
                what = "flows that were not answered go to other gateways"
                await _ended(partial(end_unanswered, still), what)
            if unneeded := unneeded & (self._forgotten | self._hidden()):
                passed_by = {vip for vip, *_ in _direct(self._in_force)}
                job = partial(_end_unneeded, unneeded, passed_by)
                await _ended(job, "entries that no flow needs are gone")

    def _having(self, gone: frozenset[Route]) -> frozenset[GroupId]:
        """Virtual Servers that have VIPs of these now."""
        vips = {route.service[0] for route in gone}
        return frozenset(
            vs.uid
            for vs in self._in_force.virtual_servers
            if any(str(ip_address(vip)) in vips for vip in self._in_force.vips.get(vs.uid, ()))
        )

    def _hidden(self) -> frozenset[Service]:
        """Where gateways see the VIP now."""
        return _served(self._in_force, _in_mode(self._in_force, "snat"))

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


def _end_unneeded(services: Iterable[Service], passed_by: Iterable[str]) -> int:
    # What this host itself opens is translated in every mode, and needs an entry.
    return end_unneeded(services, local_addresses(), passed_by)
