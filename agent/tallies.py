"""The kernel's accounts as an operator sees them: by Virtual Server, listener and gateway. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import reduce
from ipaddress import ip_address
from itertools import product
from typing import Any

from msgspec.structs import replace

from agent.conntrack import Flow
from agent.counters import Account, Reading, Service
from agent.elements import Tally, added
from agent.forwarding import memoryless, serving
from agent.gate import split
from agent.meter import Sample
from protocol.addresses import family
from protocol.config import Config
from protocol.ids import GroupId
from protocol.objects import Gateway, Listener, VirtualServer
from protocol.ports import Ports
from protocol.traffic import GatewayTraffic, ListenerTraffic, Traffic, VirtualServerTraffic

_NOTHING = Tally()


def traffic_of(
    config: Config,
    carried: Collection[GroupId],
    primary: Collection[GroupId],
    now: Sample,
    before: Sample,
) -> tuple[VirtualServerTraffic, ...]:
    """What was counted for each Virtual Server of ``carried``; rates since ``before``."""
    served = []
    for server in config.virtual_servers.values():
        if server.uid in carried:
            assigned = config.assignments.get(server.uid)
            vips = tuple(str(ip_address(vip)) for vip in assigned.vips) if assigned else ()
            served.append((server, vips))
    books = _Books(now, before, served)
    found = []
    for server, vips in served:
        listeners = tuple(books.listener(server, each, vips) for each in server.listeners)
        total = summed(each.traffic for each in listeners)
        name, first = server.name, server.uid in primary
        found.append(VirtualServerTraffic(name, first, total, listeners))
    return tuple(found)


_Served = Iterable[tuple[VirtualServer, tuple[str, ...]]]
"""Virtual Servers, each with the VIPs that it has."""


def _by_account(flows: Mapping[Flow, int], served: _Served) -> Mapping[Account, int]:
    """Live flows as accounts have them: those to a range of ports by its first one."""
    ranges: dict[tuple[str, str], list[Ports]] = {}
    for server, vips in served:
        for vip, listener in product(vips, server.listeners):
            ranges.setdefault((vip, listener.protocol), []).append(listener.ports)
    found: Counter[Account] = Counter()
    for (vip, protocol, port, gateway), number in flows.items():
        some = ranges.get((vip, protocol), ())
        first = next((first for first, last in some if first <= port <= last), port)
        found[vip, protocol, first, gateway] += number
    return found


class _Books:
    """Two samples, by what an operator asks for."""

    def __init__(self, now: Sample, before: Sample, served: _Served) -> None:
        self._now, self._before = now, before
        self._active = None if now.active is None else _by_account(now.active, served)
        self._dropped = now.reading.dropped
        self._ports: dict[tuple[str, str], set[int]] = {}
        """Ports that were used, by VIP and protocol."""
        self._gateways: dict[Service, set[str]] = {}
        """Gateways that have an account, by listener: also those that are gone."""
        for account in now.reading.opened.keys() | now.reading.forth.keys():
            self._gateways.setdefault(account[:3], set()).add(account[3])
        for vip, protocol, port in now.reading.entered.keys() | now.reading.offered.keys():
            self._ports.setdefault((vip, protocol), set()).add(port)

    def _services(self, vips: Iterable[str], listener: Listener) -> Iterator[Service]:
        """What a listener has accounts of: its first port, and those of its range that had one."""
        first, last = listener.ports
        for vip in vips:
            if first == last:
                yield vip, listener.protocol, first
            else:
                used = {first} | self._ports.get((vip, listener.protocol), set())
                yield from ((vip, listener.protocol, p) for p in used if first <= p <= last)

    def listener(
        self, server: VirtualServer, listener: Listener, vips: tuple[str, ...]
    ) -> ListenerTraffic:
        vips = serving(server, vips)
        services = tuple(self._services(vips, listener))
        gateways = tuple(
            GatewayTraffic(each.name, self._gateway(server, listener, each, vips, services))
            for each in server.gateways
        )
        forgotten = any(_unremembered(server, listener, some) for _, some in split(vips))
        gone = self._gone(server, services)
        if forgotten:
            # Of gateways that are there connections are counted without those that have entries.
            gone = (replace(each, connections=0) for each in gone)
        total = summed((*(each.traffic for each in gateways), *gone))
        if forgotten:
            return ListenerTraffic(listener.key, replace(total, refused=-1, dropped=-1), gateways)
        reading = self._now.reading
        offered = sum(reading.offered.get(service, 0) for service in services)
        entered = sum(reading.entered.get(service, 0) for service in services)
        total = replace(
            total,
            refused=max(0, offered - entered),
            dropped=sum(self._dropped.get(service, 0) for service in services),
        )
        return ListenerTraffic(listener.key, total, gateways)

    def _gone(self, server: VirtualServer, services: Iterable[Service]) -> Iterator[Traffic]:
        """What gateways counted that are gone: totals of a listener do not fall with them."""
        here = {str(ip_address(each.address)) for each in server.gateways}
        for service in services:
            for gateway in self._gateways.get(service, set()) - here:
                yield self._account((*service, gateway))

    def _gateway(
        self,
        server: VirtualServer,
        listener: Listener,
        gateway: Gateway,
        vips: tuple[str, ...],
        services: tuple[Service, ...],
    ) -> Traffic:
        version = family(gateway.address)
        of_its_version = tuple(vip for vip in vips if family(vip) == version)
        remembered = summed(
            self._account((*service, gateway.address))
            for service in services
            if family(service[0]) == version
        )
        if not of_its_version or not _unremembered(server, listener, of_its_version):
            return remembered
        if server.forwarding == "dsr":
            return self._sent_on(listener, gateway, of_its_version, remembered)
        return self._passed(listener, gateway, remembered)

    def _passed(self, listener: Listener, gateway: Gateway, remembered: Traffic) -> Traffic:
        """Of `routed` without memory: counted by the gateway's own address and port.

        Beside what is ``remembered`` while slots move, or comes from this very device; all that
        opens a connection is counted in one place, as entries are also made amid one.
        """
        key = (str(ip_address(gateway.address)), listener.protocol, listener.gateway_port)
        reading = self._now.reading
        forth, back = (each.get(key, _NOTHING) for each in (reading.passed, reading.answered))
        connections, rate = self._begun(
            listener, lambda read: read.begun.get(key, _NOTHING).packets
        )
        return replace(
            UNSEEN,
            connections=connections,
            rate=rate,
            packets_in=forth.packets + remembered.packets_in,
            bytes_in=forth.bytes + remembered.bytes_in,
            packets_out=back.packets + remembered.packets_out,
            bytes_out=back.bytes + remembered.bytes_out,
        )

    def _sent_on(
        self, listener: Listener, gateway: Gateway, vips: Iterable[str], remembered: Traffic
    ) -> Traffic:
        """Of `dsr`: what comes for a VIP, beside what this very device opens, which has entries.

        Answers pass by, but for those to this device.
        """
        address = str(ip_address(gateway.address))
        keys = [(vip, listener.protocol, listener.port, address) for vip in vips]
        reading = self._now.reading
        counts = (
            each.get(key, _NOTHING) for each in (reading.sent, reading.sent_first) for key in keys
        )
        came = reduce(added, counts)
        connections, rate = self._begun(
            listener,
            lambda read: sum(
                read.sent_first.get(key, _NOTHING).packets + read.opened.get(key, 0) for key in keys
            ),
        )
        return replace(
            UNSEEN,
            connections=connections,
            rate=rate,
            packets_in=came.packets + remembered.packets_in,
            bytes_in=came.bytes + remembered.bytes_in,
        )

    def _begun(self, listener: Listener, count: Callable[[Reading], int]) -> tuple[int, float]:
        """Connections in all and per second, where only TCP says that it opens one."""
        if listener.protocol != "tcp":
            return -1, -1.0
        return count(self._now.reading), self._per_second(count)

    def _account(self, account: Account) -> Traffic:
        reading, active = self._now.reading, self._active
        forth = reading.forth.get(account, _NOTHING)
        back = reading.back.get(account, _NOTHING)
        return Traffic(
            connections=reading.opened.get(account, 0),
            active=-1 if active is None else active.get(account, 0),
            rate=self._per_second(lambda reading: reading.opened.get(account, 0)),
            packets_in=forth.packets,
            bytes_in=forth.bytes,
            packets_out=back.packets,
            bytes_out=back.bytes,
        )

    def _per_second(self, count: Callable[[Reading], int]) -> float:
        seconds = self._now.at - self._before.at
        if seconds <= 0:
            return -1.0
        more = count(self._now.reading) - count(self._before.reading)
        return round(max(0, more) / seconds, 1)


def _unremembered(server: VirtualServer, listener: Listener, vips: tuple[str, ...]) -> bool:
    """Whether the kernel remembers no flows to ``vips``, of one IP version."""
    return server.forwarding == "dsr" or memoryless(server, listener, vips)


UNSEEN = Traffic(
    connections=-1, refused=-1, dropped=-1,
    packets_in=-1, bytes_in=-1, packets_out=-1, bytes_out=-1,
)  # fmt: skip
"""What is known of traffic that this device does not see, or does not count."""


def summed(parts: Iterable[Traffic]) -> Traffic:
    """All ``parts`` together; what one of them does not know the sum does not know."""
    several = list(parts)

    def total(name: str) -> Any:
        values = [getattr(each, name) for each in several]
        return round(sum(values), 1) if min(values, default=0) >= 0 else -1

    return Traffic(**{name: total(name) for name in Traffic.__struct_fields__})
