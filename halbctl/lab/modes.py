"""HALB's ways to forward in which gateways see the client: what they need of a lab.

A gateway's route to the clients depends on the mode. So where there are several, each has an
address of the client of its own; else all its addresses are for the one.
"""

from __future__ import annotations

from halbctl.lab.kinds import CLIENTS
from halbctl.lab.namespaces import INTERFACE
from halbctl.lab.plan import CLIENT, INNER, INNER6
from halbctl.lab.site import Site

_SILENT = ("net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2")
"""Of a gateway about a VIP that it has."""


def prepare(site: Site) -> None:
    """Let the gateways do what the mode of the plan takes, for all addresses of the client."""
    run, forwarding = site.network.run, site.plan.forwarding
    if forwarding == "snat":
        return
    for gateway in site.plan.gateway_hosts:
        if forwarding == "dsr":
            run(gateway.name, "sysctl", "-qw", *_SILENT)
            for vip in site.plan.vips:
                run(gateway.name, "ip", "address", "add", _alone(vip), "dev", "lo")
            continue
        for host in (CLIENT, *CLIENTS):
            run(gateway.name, "ip", "route", "add", _alone(host.ipv4), "via", INNER)
        if site.plan.ipv6:
            run(gateway.name, "ip", "route", "add", _alone(CLIENT.ipv6), "via", INNER6)


def _alone(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"


def prepare_routed(site: Site, vip: str, inner: str, asking: str) -> None:
    """Gateways answer ``asking``, as which the client speaks with ``vip``, by way of ``inner``."""
    speak_as(site, CLIENT.name, asking, vip)
    for gateway in site.plan.gateway_hosts:
        site.network.run(gateway.name, "ip", "route", "add", f"{asking}/32", "via", inner)


def prepare_dsr(site: Site, vip: str, asking: str) -> None:
    """Gateways have ``vip`` and keep silent about it; the client speaks with it as ``asking``."""
    speak_as(site, CLIENT.name, asking, vip)
    for gateway in site.plan.gateway_hosts:
        site.network.run(gateway.name, "sysctl", "-qw", *_SILENT)
        site.network.run(gateway.name, "ip", "address", "add", f"{vip}/32", "dev", "lo")


def speak_as(site: Site, host: str, own: str, other: str) -> None:
    """Let ``host`` have ``own``, and speak with ``other`` as that."""
    run = site.network.run
    run(host, "ip", "address", "add", f"{own}/32", "dev", "lo")
    run(host, "ip", "route", "add", f"{other}/32", "dev", INTERFACE, "src", own)
