"""The service interface and who is around it, as last looked at."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface, ip_address

from agent import addresses, segment
from agent.addresses import InterfaceMissing, Link
from agent.prechecks import Host
from protocol.ids import DeviceId


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

    def look(self) -> bool:
        """Read the interface's state; whether it changed."""
        before = (self.link, self.networks)
        self.link, self.networks = None, ()
        try:
            self.link = addresses.link(self.interface)
            self.networks = addresses.networks(self.interface)
            self.routers = segment.routers(self.interface)
        except InterfaceMissing:
            self.link = None
        macs = {link.mac for link in (before[0], self.link) if link is not None}
        self.moved = len(macs) > 1
        return (self.link, self.networks) != before

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
