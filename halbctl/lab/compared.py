"""The lab in which HALB's data plane is compared with others, and HALB on the hosts of it.

Hosts balance to the same two gateways, each on an address of its own. Where anybody hears of flows
(``ctnetlink``), the kernel makes notices of those in all namespaces, also of hosts that others
are compared by: so ``TELLING`` tells its flows only while that is measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from halbctl.lab.load import ASK, PORTS, command
from halbctl.lab.modes import prepare_dsr, prepare_routed
from halbctl.lab.namespaces import SWITCH
from halbctl.lab.plan import CLIENT, VIP, Plan
from halbctl.lab.probes import python_environment
from halbctl.lab.processes import Service
from halbctl.lab.site import START_TIMEOUT, Site, apply, create_token
from protocol.errors import Refused

ALONE, BY_HAND, PROXY, TELLING, NOTHING = "a", "b", "c", "d", "e"
SECONDARIES = ("f", "g")
"""Hosts of the lab: HALB, rules by hand, HAProxy, HALB that tells its flows to the last two, and
one that sends frames on to a gateway and back, and does nothing else."""
ROUTED, DSR = "h", "i"
"""HALB on one device, with Virtual Servers of other modes."""
ADDRESS = {
    ALONE: VIP,
    BY_HAND: "10.77.0.101",
    PROXY: "10.77.0.102",
    TELLING: "10.77.0.103",
    NOTHING: "10.77.0.104",
    ROUTED: "10.77.0.105",
    DSR: "10.77.0.106",
}
INNER = "10.77.0.107"
"""Inner VIP of ``ROUTED``."""
_ASKING = {ROUTED: "10.77.0.205", DSR: "10.77.0.206"}
"""Addresses of the client."""
_MODE: dict[str, dict[str, Any]] = {
    ROUTED: {"forwarding": "routed", "inner_vips": [f"{INNER}/24"]},
    DSR: {"forwarding": "dsr"},
}
GATEWAYS = 2
_NETFILTER = 12
"""NETLINK_NETFILTER, of linux/netlink.h."""


def lab(name: str) -> Plan:
    """Two gateways, and a device for each host."""
    return Plan(name, devices=len(ADDRESS) + len(SECONDARIES), gateways=GATEWAYS)


def prepare(site: Site) -> None:
    """The client has ports for all of a turn's connections, and client and gateways know the ways
    of the modes in which gateways see the client."""
    allow_many_connections(site, CLIENT.name)
    # A connection that waits for its turn goes on as fast as it was.
    site.network.run(CLIENT.name, "sysctl", "-qw", "net.ipv4.tcp_slow_start_after_idle=0")
    prepare_routed(site, ADDRESS[ROUTED], INNER, _ASKING[ROUTED])
    prepare_dsr(site, ADDRESS[DSR], _ASKING[DSR])


def allow_many_connections(site: Site, host: str) -> None:
    """A connection that ``host`` ended itself keeps its port there for a minute."""
    ports = ("net.ipv4.ip_local_port_range=1024 65535", "net.ipv4.tcp_tw_reuse=1")
    site.network.run(host, "sysctl", "-qw", *ports)


def simple_switch(site: Site) -> None:
    """No switch runs the hooks of netfilter for each packet, nor rules for cuts."""
    site.network.run(SWITCH, "nft", "delete", "table", "bridge", "cuts")
    with suppress(Refused):  # where the kernel has no such hooks for bridges
        for name in ("iptables", "ip6tables", "arptables"):
            site.network.run(SWITCH, "sysctl", "-qw", f"net.bridge.bridge-nf-call-{name}=0")


def serve_load(site: Site, gateway: str) -> Service:
    """Answer streams and questions on a gateway until killed."""
    service = Service("load", site.folder / gateway)
    service.start(site.network.within(gateway, command("serve")), python_environment())
    return service


def _document(plan: Plan, device: str, secondaries: Sequence[str]) -> str:
    """A Site: one Virtual Server with the ports of the load."""
    gateways = [{"name": host.name, "address": host.ipv4} for host in plan.gateway_hosts]
    check = {"type": "tcp", "interval": 2.0, "timeout": 1.0, "port": ASK}
    server = {
        "name": "bench",
        "vips": [f"{ADDRESS[device]}/24"],
        "devices": [device, *secondaries],
        "gateways": gateways,
        "listeners": [{"protocol": "tcp", "port": port, "check": check} for port in PORTS],
        **_MODE.get(device, {}),
    }
    return json.dumps({"virtual_servers": [server]})


def balance_with_halb(site: Site, device: str, others: Sequence[str]) -> None:
    """Form a Site of its own: ``device`` carries the address that is measured, alone; ``others``
    join, and carry nothing yet."""
    site.halbctl(device, "init", f"{site.plan.name}-{device}").check()
    if others:
        token = create_token(site, device, uses=len(others))
        for name in others:
            site.halbctl(name, "join", token).check()
    _assign(site, device, ())


def _assign(site: Site, device: str, secondaries: Sequence[str]) -> None:
    """These and no other devices of its Site carry the address, and ``device`` is primary."""
    apply(site, _document(site.plan, device, secondaries), device)
    carriers = {device, *secondaries}

    def serves() -> bool:
        known = site.virtual_server(device, "bench")
        able = {each["name"] for each in known["devices"] if each["eligible"]}
        up = all(gateway["state"] == "up" for gateway in known["gateways"])
        if known["primary"] in secondaries:
            # It was quicker; a move that is refused now is asked for again.
            site.halbctl(device, "promote", "bench", "--to", device, "--wait")
        return known["primary"] == device and able == carriers and up

    site.wait(f"{device} is primary, and the others follow", serves, START_TIMEOUT)


@contextmanager
def telling(site: Site) -> Iterator[None]:
    """``TELLING`` tells its flows to its secondaries."""
    _tell_others(site, SECONDARIES)
    yield
    _tell_others(site, ())


def _tell_others(site: Site, secondaries: Sequence[str]) -> None:
    """``TELLING`` tells its flows to these; to none: its kernel makes no notices of them."""
    _assign(site, TELLING, secondaries)
    site.wait(
        f"flows of {TELLING} are {'told' if secondaries else 'not told'}",
        lambda: _hears_of_flows(site, TELLING) == bool(secondaries),
        START_TIMEOUT,
    )


def _hears_of_flows(site: Site, host: str) -> bool:
    """Whether a socket of ``host`` gets the kernel's notices of new, changed or ended flows."""
    _, *sockets = site.network.run(host, "cat", "/proc/net/netlink").splitlines()
    # sk, protocol, process, groups: a bit each, of which the first three are these.
    return any(
        int(protocol) == _NETFILTER and int(groups, 16) & 0b111
        for _, protocol, _, groups, *_ in map(str.split, sockets)
    )
