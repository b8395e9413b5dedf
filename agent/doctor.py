"""``halbctl doctor``: what is wrong with this device, and what to do about it.

Looks at the host, at what the agent knows, and at the gateways on its network:
whether large frames come through to them and, with ``dsr``, whether each has the
VIPs and keeps silent about them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Interface, IPv6Interface, ip_address
from itertools import islice
from typing import Any

from agent import addresses, echo, host_check, neighbour
from agent.announce import Announcer
from agent.forwarding import memoryless
from agent.ruleset import Desired, carried
from agent.status import silence
from protocol import api
from protocol.addresses import family
from protocol.assignment import carriers_of
from protocol.config import Config
from protocol.diagnosis import Diagnosis, Finding
from protocol.errors import HalbError
from protocol.ids import DeviceId
from protocol.messages import LinkReport
from protocol.objects import Gateway, VirtualServer
from protocol.timing import DEAD_NS, MILLISECOND
from protocol.view import PeerState

PROBE_S = 0.4
"""Seconds that a gateway has to say where it is."""
AT_ONCE = 16
MOST_GATEWAYS = 128
"""Of more, the first are looked at."""
_QUIET = ("votes only", "drained")


async def examine(
    name: str,
    device: DeviceId,
    interface: str,
    config: Config,
    status: api.Status | None,
    mtus: Mapping[str, int],
    links: Iterable[LinkReport] = (),
) -> Diagnosis:
    """Look at everything; ``interface`` is empty on a witness, ``status`` None outside a Site.

    ``mtus`` are those that the devices told of their service interfaces, by name; ``links`` what
    this device hears of others.
    """
    found: list[Finding] = []
    if interface:
        in_site = status is not None
        forgetful = _forgets(_carried(device, config))
        found += await asyncio.to_thread(
            partial(
                host_check.look,
                interface,
                in_site=in_site,
                forgetful=forgetful,
                doubtful=_doubtful(status),
            )
        )
    if status is not None:
        said = {each.text for each in found}
        silent = {config.devices[d].name for d in unheard(links) if d in config.devices}
        found += (each for each in known(name, status, silent) if each.text not in said)
        if interface:
            found += await _network(device, interface, config)
        found += different_mtus(mtus)
    return Diagnosis(name, status.site if status else "", tuple(found))


def _carried(device: DeviceId, config: Config) -> tuple[VirtualServer, ...]:
    servers = config.virtual_servers.values()
    return tuple(each for each in servers if device in carriers_of(config, each))


def _forgets(servers: tuple[VirtualServer, ...]) -> bool:
    """Whether packets pass to and from gateways that no flow is remembered of."""
    wish = Desired(servers, {vs.uid: vs.leased for vs in servers})
    return any(memoryless(vs, listener, some) for _, vs, listener, _, some in carried(wish))


def _doubtful(status: api.Status | None) -> bool:
    """Whether somebody is missing here, or may be once this device belongs to a Site."""
    if status is None:
        return True
    gateways = (gateway for server in status.virtual_servers for gateway in server.gateways)
    peers = any(device.state != "alive" for device in status.devices)
    return peers or any(g.reason or g.state == "down" for g in gateways)


def unheard(links: Iterable[LinkReport]) -> set[DeviceId]:
    """Peers that this device does not hear, whatever others say of them."""
    dead = DEAD_NS // MILLISECOND
    return {each.peer for each in links if each.heard_ms is None or each.heard_ms >= dead}


def known(name: str, status: api.Status, silent: Container[str] = ()) -> Iterator[Finding]:
    """What the agent has found out already. ``silent`` are devices that it does not hear itself."""
    yield from _or_well(_peers(name, status, silent), "peers", "all other devices are heard")
    yield from _or_well(_rules(name, status), "rules", "this device can carry all that it should")
    yield from _or_well(_gateways(status), "gateways", "no gateway is down")
    named = {silence(d.name, PeerState(d.state)) for d in status.devices if d.state != "alive"}
    for warning in status.warnings:
        if warning not in named:
            yield Finding("agent", "warning", warning, "See `halbctl status`.")


def different_mtus(mtus: Mapping[str, int]) -> Iterator[Finding]:
    """After a takeover, packets that went through one device are too large for another."""
    if len(set(mtus.values())) > 1:
        each = ", ".join(f"{name} {mtu}" for name, mtu in sorted(mtus.items()))
        yield Finding(
            "mtu",
            "warning",
            f"the devices' service interfaces have different MTUs: {each}",
            "Give them all the same: ip link set dev INTERFACE mtu BYTES, and in the host's "
            "network settings.",
        )


def two_ways(servers: Iterable[VirtualServer]) -> Iterator[Finding]:
    """Gateways of one Virtual Server that is `routed`, and of another one that is `dsr`.

    Answers to clients of the second that took the first one's route would come to the device from
    an address that it has itself, and be dropped; IPv6 lets that pass.
    """
    some = [(server, gateway) for server in servers for gateway in server.gateways]
    routed = {g.address: server.name for server, g in some if server.forwarding == "routed"}
    for server, gateway in some:
        if server.forwarding != "dsr" or gateway.address not in routed:
            continue
        for vip in server.addresses:
            if family(vip) == family(gateway.address) == 4:
                yield Finding(
                    "dsr",
                    "warning",
                    f"gateway {server.name}/{gateway.name} ({gateway.address}) is one of "
                    f"{routed[gateway.address]}, too, which is `routed`: what it answers as VIP "
                    f"{vip} must not take that one's route",
                    f"See that it has: ip rule add from {vip} lookup 100; "
                    "ip route add default via ROUTER table 100.",
                )


def _or_well(found: Iterable[Finding], check: str, text: str) -> Iterable[Finding]:
    return tuple(found) or (Finding(check, "ok", text),)


def _peers(name: str, status: api.Status, silent: Container[str]) -> Iterator[Finding]:
    for device in status.devices:
        alive, where = device.state == "alive", ", ".join(device.addresses)
        if device.name == name or (alive and device.name not in silent):
            continue
        how = "is not heard here, but by others" if alive else f"is {device.state}"
        start = "" if alive else "Start its agent; "
        remedy = (
            f"{start}a firewall between must let TCP to its port and the two after it pass."
            " `halbctl matrix` shows who hears whom."
        )
        yield Finding(
            "peers",
            "warning" if device.state == "stopped" else "problem",
            f"device {device.name} ({where}) {how}",
            remedy[0].upper() + remedy[1:],
        )


def _rules(name: str, status: api.Status) -> Iterator[Finding]:
    for server in status.virtual_servers:
        for device in server.devices:
            if device.name == name and not device.eligible and device.reason not in _QUIET:
                yield Finding(
                    "rules",
                    "problem",
                    f"this device cannot carry {server.name}: {device.reason}",
                    f"See `halbctl explain {server.name}`.",
                )


def _gateways(status: api.Status) -> Iterator[Finding]:
    for server in status.virtual_servers:
        for gateway in server.gateways:
            if gateway.state == "down":
                why = f": {gateway.reason}" if gateway.reason else ""
                yield Finding(
                    "gateways",
                    "problem",
                    f"gateway {server.name}/{gateway.name} ({gateway.address}) is down{why}",
                    "Start its server, or drain it until it is repaired.",
                )


@dataclass(frozen=True)
class _Segment:
    """The network of the service interface, and the means to ask there."""

    interface: str
    mac: bytes
    mtu: int
    networks: tuple[IPv4Interface | IPv6Interface, ...]
    """Looked up once: with many VIPs each look takes milliseconds of the loop."""
    announcer: Announcer
    gate: asyncio.Semaphore

    def own(self, address: str) -> echo.Address | None:
        """This device's address in the network of ``address``; None if that is not near."""
        ip = ip_address(address)
        near = (n.ip for n in self.networks if ip in n.network)
        return next(near, None)

    async def mac_of(self, address: str) -> bytes | None:
        found = await self.announcer.probe([address], PROBE_S)
        return neighbour.mac_of(found[address]) if found else None

    async def answers(self, by: bytes, target: str, size: int = echo.SMALL) -> bool:
        own = self.own(target)
        if own is None:
            return False
        question = echo.Echo(own, ip_address(target), size)
        return await echo.answers(self.interface, self.mac, by, question)


async def _network(device: DeviceId, interface: str, config: Config) -> tuple[Finding, ...]:
    servers = _carried(device, config)
    pairs = [(s, g) for s in servers for g in s.gateways if g.state != "disabled"]
    try:
        link = addresses.link(interface)
        if not (link.up and link.carrier):
            return ()  # as the look at the host says
        announcer = Announcer(interface)
        mtu, networks = addresses.mtu(interface), addresses.networks(interface)
        gate = asyncio.Semaphore(AT_ONCE)
        segment = _Segment(interface, link.mac, mtu, networks, announcer, gate)
    except HalbError as error:
        return (Finding("interface", "problem", error.message, error.remedy),)
    try:
        first = {g.address: (s, g) for s, g in reversed(pairs[:MOST_GATEWAYS])}
        large = await _each(segment, first.values(), _frames)
        direct = [(s, g) for s, g in pairs[:MOST_GATEWAYS] if s.forwarding == "dsr"]
        returns = await _each(segment, direct, _direct_return)
        silent = await _silence(segment, [s for s in servers if s.forwarding == "dsr"])
    except HalbError as error:
        return (Finding("interface", "problem", error.message, error.remedy),)
    finally:
        announcer.close()
    found = tuple(_or_well(large, "mtu", f"frames of {segment.mtu} bytes come through"))
    if direct:
        wrong = (*returns, *silent, *two_ways(servers))
        found += tuple(_or_well(wrong, "dsr", "the gateways are prepared for `dsr`"))
    return found


Look = Callable[[_Segment, VirtualServer, Gateway], Coroutine[Any, Any, list[Finding]]]


async def _each(
    segment: _Segment, pairs: Iterable[tuple[VirtualServer, Gateway]], look: Look
) -> list[Finding]:
    async def one(server: VirtualServer, gateway: Gateway) -> list[Finding]:
        async with segment.gate:
            return await look(segment, server, gateway)

    found = await asyncio.gather(*(one(s, g) for s, g in pairs))
    return [finding for some in found for finding in some]


async def _frames(segment: _Segment, server: VirtualServer, gateway: Gateway) -> list[Finding]:
    """Frames as large as the interface sends must reach a gateway, and come back."""
    if segment.own(gateway.address) is None:
        return []  # behind a router, which says so where a packet is too large
    mac = await segment.mac_of(gateway.address)
    if mac is None or not await segment.answers(mac, gateway.address):
        return []  # its health check says whether that matters
    if await segment.answers(mac, gateway.address, segment.mtu & ~1):
        return []
    return [
        Finding(
            "mtu",
            "problem",
            f"gateway {server.name}/{gateway.name} ({gateway.address}) answers small packets, but "
            f"none of {segment.mtu} bytes, the MTU of {segment.interface}",
            "Give all interfaces and switches of that network the same MTU.",
        )
    ]


async def _direct_return(
    segment: _Segment, server: VirtualServer, gateway: Gateway
) -> list[Finding]:
    name = f"gateway {server.name}/{gateway.name} ({gateway.address})"
    mac = await segment.mac_of(gateway.address)
    if mac is None:
        return [
            Finding(
                "dsr",
                "problem",
                f"{name} is not found on the network of {segment.interface}",
                "With `dsr` no router may lie between; is it on, and its address right?",
            )
        ]
    return [
        Finding(
            "dsr",
            "problem",
            f"{name} does not answer as VIP {vip}",
            f"On that gateway: ip address add {vip}/{128 if family(vip) == 6 else 32} dev lo "
            "(and let it answer ICMP echo requests).",
        )
        for vip in server.addresses
        if family(vip) == family(gateway.address) and not await segment.answers(mac, vip)
    ]


async def _silence(segment: _Segment, servers: Sequence[VirtualServer]) -> list[Finding]:
    """No gateway may tell the network that it has a VIP."""
    asked = {vip for server in servers for vip in server.addresses}
    asked |= {gateway.address for server in servers for gateway in server.gateways}
    # At once: nobody has the VIPs that are here, and to wait for each takes minutes of many.
    owners = await segment.announcer.probe(sorted(asked), PROBE_S)
    return [
        Finding(
            "dsr",
            "problem",
            f"gateway {server.name}/{gateway.name} ({gateway.address}) says that it has "
            f"VIP {vip}: clients go past the devices",
            "On that gateway: sysctl -w net.ipv4.conf.all.arp_ignore=1 "
            "net.ipv4.conf.all.arp_announce=2, and the VIP on lo alone.",
        )
        for server in servers
        for vip in server.addresses
        for gateway in _first_with(server, owners, vip)
    ]


def _first_with(server: VirtualServer, owners: Mapping[str, str], vip: str) -> Iterable[Gateway]:
    """The first gateway whose hardware address answers for a VIP, if one does."""
    found = (g for g in server.gateways if vip in owners and owners.get(g.address) == owners[vip])
    return islice(found, 1)
