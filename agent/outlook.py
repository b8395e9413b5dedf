"""The service interface and who is around it, as last looked at."""

from __future__ import annotations

import logging
from ipaddress import IPv4Interface, IPv6Interface, ip_address

from agent import addresses, segment
from agent.addresses import InterfaceMissing, Link
from agent.prechecks import Host
from protocol.ids import DeviceId

_VERSIONS = frozenset({4, 6})
_log = logging.getLogger("halb.outlook")


class Outlook:
    """Of one device."""

    def __init__(self, interface: str) -> None:
        self.interface = interface
        self.link: Link | None = None
        """None while there is no interface."""
        self.moved = False
        """Whether its hardware address is another one than at the look before."""
        self.networks: tuple[IPv4Interface | IPv6Interface, ...] = ()
        """The operator's addresses of it, with prefixes."""
        self.routers: tuple[str, ...] = ()
        """That it leads to the world by."""
        self.lost: frozenset[int] = frozenset()
        """IP versions whose way to the world was there since the agent started, and is gone."""
        self._had: frozenset[int] = frozenset()

    def look(self) -> bool:
        """Read the interface's state; whether it changed."""
        before = (self.link, self.networks, self.lost)
        self.link, self.networks = None, ()
        try:
            self.link = addresses.link(self.interface)
            self.networks = addresses.networks(self.interface)
            self.routers = segment.routers(self.interface)
        except InterfaceMissing:
            self.link = None
        self._look_for_ways_out()
        macs = {link.mac for link in (before[0], self.link) if link is not None}
        self.moved = len(macs) > 1
        return (self.link, self.networks, self.lost) != before

    def _look_for_ways_out(self) -> None:
        lacking = segment.without_a_way()
        had, there = self._had - self.lost, _VERSIONS - lacking
        self._had |= there
        self.lost = self._had & lacking
        for version in sorted(there - had):
            _log.info("there is an IPv%d default route", version)
        for version in sorted(had - there):
            _log.warning("there is no IPv%d default route any more", version)

    def is_near(self, address: str) -> bool:
        """Whether it lies in one of the interface's networks."""
        ip = ip_address(address)
        return any(ip in network.network for network in self.networks)

    def host(self, device: DeviceId) -> Host:
        """What the host of ``device`` has, to check a change against."""
        found = addresses.addresses(self.interface)
        return Host(
            device=device,
            interface=self.interface,
            networks=self.networks,
            addresses=addresses.local_addresses(),
            vips=frozenset(address.ip for address in found if address.ours),
            mac=addresses.link(self.interface).mac.hex(":"),
        )

    def mtu(self) -> int:
        """0 while there is no interface."""
        try:
            return addresses.mtu(self.interface)
        except InterfaceMissing:
            return 0
