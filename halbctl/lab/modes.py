"""HALB's ways to forward in which gateways see the client: what they need of a lab.

A gateway's route to the clients depends on the mode, so each mode has an address of the
client of its own.
"""

from __future__ import annotations

from halbctl.lab.namespaces import INTERFACE
from halbctl.lab.plan import CLIENT
from halbctl.lab.site import Site


def prepare_routed(site: Site, vip: str, inner: str, asking: str) -> None:
    """Gateways answer ``asking``, as which the client speaks with ``vip``, by way of ``inner``."""
    _ask_as(site, vip, asking)
    for gateway in site.plan.gateway_hosts:
        site.network.run(gateway.name, "ip", "route", "add", f"{asking}/32", "via", inner)


def prepare_dsr(site: Site, vip: str, asking: str) -> None:
    """Gateways have ``vip`` and keep silent about it; the client speaks with it as ``asking``."""
    _ask_as(site, vip, asking)
    silent = ("net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2")
    for gateway in site.plan.gateway_hosts:
        site.network.run(gateway.name, "sysctl", "-qw", *silent)
        site.network.run(gateway.name, "ip", "address", "add", f"{vip}/32", "dev", "lo")


def _ask_as(site: Site, vip: str, asking: str) -> None:
    run = site.network.run
    run(CLIENT.name, "ip", "address", "add", f"{asking}/24", "dev", INTERFACE)
    run(CLIENT.name, "ip", "route", "add", f"{vip}/32", "dev", INTERFACE, "src", asking)
