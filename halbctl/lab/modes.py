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
    speak_as(site, CLIENT.name, asking, vip)
    for gateway in site.plan.gateway_hosts:
        site.network.run(gateway.name, "ip", "route", "add", f"{asking}/32", "via", inner)


def prepare_dsr(site: Site, vip: str, asking: str) -> None:
    """Gateways have ``vip`` and keep silent about it; the client speaks with it as ``asking``."""
    speak_as(site, CLIENT.name, asking, vip)
    silent = ("net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2")
    for gateway in site.plan.gateway_hosts:
        site.network.run(gateway.name, "sysctl", "-qw", *silent)
        site.network.run(gateway.name, "ip", "address", "add", f"{vip}/32", "dev", "lo")


def speak_as(site: Site, host: str, own: str, other: str) -> None:
    """Let ``host`` have ``own``, and speak with ``other`` as that."""
    run = site.network.run
    run(host, "ip", "address", "add", f"{own}/32", "dev", "lo")
    run(host, "ip", "route", "add", f"{other}/32", "dev", INTERFACE, "src", own)
