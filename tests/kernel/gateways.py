"""What the operator of a gateway does for each mode of forwarding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from halbctl.lab.namespaces import Network
from protocol.objects import Gateway
from tests.kernel.namespaces import VIPS

INNER = {4: "10.77.0.101", 6: "fd77::101"}
"""Inner VIPs, by IP version."""


def by_both(names: Sequence[str], first: int) -> list[Gateway]:
    """Each gateway by both of its addresses, the ``first`` of the hosts and those behind it."""
    return [
        Gateway(name=f"{name}-{version}", address=pattern.format(number))
        for version, pattern in ((4, "10.77.0.{}"), (6, "fd77::{}"))
        for number, name in enumerate(names, start=first)
    ]


def prepare(
    network: Network,
    gateway: str,
    mode: str,
    client: Mapping[int, str],
    vips: Sequence[str] = VIPS,
) -> None:
    """A route to the client through the inner VIP, or the VIPs on ``lo`` and silence about them.

    The client, known by its addresses, is in the gateways' own network, so the route is one to
    it alone.
    """
    settings = (
        f"net.ipv4.conf.{where}.{name}={value if mode == 'dsr' else 0}"
        for name, value in (("arp_ignore", 1), ("arp_announce", 2))
        for where in ("all", "eth0")
    )
    network.run(gateway, "sysctl", "-qw", *settings)
    for vip in vips:
        version, length = (6, 128) if ":" in vip else (4, 32)
        ip = ("ip", f"-{version}")
        if mode == "dsr":
            network.run(gateway, *ip, "address", "replace", f"{vip}/{length}", "dev", "lo")
            network.run(gateway, *ip, "route", "flush", f"{client[version]}/{length}")
        else:
            network.run(gateway, *ip, "address", "flush", "to", f"{vip}/{length}", "dev", "lo")
            route = (f"{client[version]}/{length}", "via", INNER[version])
            network.run(gateway, *ip, "route", "replace", *route)
