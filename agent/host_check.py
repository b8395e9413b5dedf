"""Is this host as a device of HALB needs it? Each check yields what it found.

Reads only: what is wrong is said, with the remedy, and nothing is changed.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from platform import release

from agent import addresses, bridge, conntrack_limit, realtime, sysctl
from agent.capability import KERNEL, require, require_kernel
from agent.features import features, lacks
from agent.firewall import RAW, Chain, foreign_chains
from agent.nft import check
from protocol.diagnosis import Finding
from protocol.errors import HalbError

MIN_CONNECTIONS = 65_536
"""A connection table for fewer entries is small for a load balancer."""
MIN_IDLE_S = 7440
"""Least time for which a connection of TCP may be silent and live (RFC 5382, 5): hosts ask each
other every two hours whether they are still there."""
MIN_MTU = 1280
"""Least that IPv6 allows (RFC 8200)."""
_OWN_PACKETS = {"input": "lets this host take", "output": "lets this host send"}
_CHECKED = {"input": "", "output": " and to what is checked on gateways"}
_TIME_ERROR = 5
_TIMEX_SIZE = 512
"""More than the kernel's ``struct timex`` has."""


def look(
    interface: str, *, in_site: bool, forgetful: bool = False, doubtful: bool = True
) -> tuple[Finding, ...]:
    """Everything about the host itself. Takes a moment: nft is asked several times.

    Outside a Site the agent leaves the host's settings alone. ``forgetful``: whether packets
    pass here that no flow is remembered of. ``doubtful``: whether peers or gateways may be
    missing for what a firewall drops.
    """
    checks: dict[str, Callable[[str], Iterable[Finding]]] = {
        "capabilities": capabilities,
        "kernel": kernel,
        "settings": settings if in_site or sysctl.read_only() else settings_to_be_made,
        "interface": service_interface,
        "time": clock,
        "firewall": partial(firewalls, forgetful=forgetful, doubtful=doubtful),
        "connections": connections,
        "idle": idle,
    }
    found: list[Finding] = []
    for name, each in checks.items():
        try:
            found += each(interface)
        except HalbError as error:
            found.append(Finding(name, "problem", error.message, error.remedy))
    return tuple(found)


def capabilities(_: str) -> Iterator[Finding]:
    """What the process is allowed to do."""
    require(["CAP_NET_ADMIN", "CAP_NET_RAW"], "run a device of HALB")
    yield Finding("capabilities", "ok", "CAP_NET_ADMIN and CAP_NET_RAW are held")
    if not realtime.on_time():
        remedy = realtime.priority_remedy()
        yield Finding(
            "capabilities",
            "warning",
            "the agent runs without real-time priority: on a busy host its lease may lapse",
            f"{remedy[0].upper()}{remedy[1:]}. Then restart the agent.",
        )


def kernel(interface: str) -> Iterator[Finding]:
    """The release, and what each feature needs of it."""
    require_kernel()
    yield Finding("kernel", "ok", "Linux {} is {}.{} or newer".format(release(), *KERNEL))
    wanted = features(interface)
    lacking = lacks(wanted, check)
    for lack in lacking:
        yield Finding(
            "kernel",
            "problem",
            str(lack),
            "Use a kernel with all nf_tables modules and restart the agent, or do without it.",
        )
    if not lacking:
        yield Finding("kernel", "ok", f"takes all rules: {', '.join(f.name for f in wanted)}")


def settings(interface: str) -> Iterator[Finding]:
    """Kernel settings that forwarding and survival rest on."""
    wrong = sysctl.survey(interface)
    for path, value in wrong.items():
        wanted = sysctl.wanted(path)
        name = "net/" + path.format(interface=interface)
        yield Finding(
            "settings",
            "warning" if path in sysctl.SPEED else "problem",
            f"{name} is {value}, not {wanted}",
            (
                "Set on the host: "
                if sysctl.read_only()
                else "The agent sets it while it belongs to a Site: who sets it back? "
            )
            + f"sysctl -w {name}={wanted}",
        )
    if not wrong:
        yield Finding("settings", "ok", "forwarding and connection tracking are set as needed")


def settings_to_be_made(interface: str) -> Iterator[Finding]:
    """How many of them the agent will make; raises SysctlRefused where nothing tracks flows."""
    wrong = len(sysctl.survey(interface))
    text = f"{wrong} to be made by the agent once it belongs to a Site" if wrong else "as needed"
    yield Finding("settings", "ok", f"kernel settings: {text}")


def service_interface(interface: str) -> Iterator[Finding]:
    """The interface that the VIPs live on."""
    link, mtu = addresses.link(interface), addresses.mtu(interface)
    networks = ", ".join(str(each) for each in addresses.networks(interface))
    trouble = ""
    if not link.up:
        trouble, remedy = "is down", f"ip link set {interface} up"
    elif not link.carrier:
        trouble, remedy = "has no carrier", "Plug in the cable, or bring up its other end."
    elif not networks:
        trouble, remedy = "has no address", f"ip address add ADDRESS/PREFIX dev {interface}"
    elif link.filters:
        trouble = "is a bridge, and br_netfilter lets nothing come through a VIP there"
        off = "; ".join(f"sysctl -w {name}=0" for name in bridge.SETTINGS)
        own = f"ip link set {interface} type bridge nf_call_iptables 0 nf_call_ip6tables 0"
        remedy = f"{off}; {own}. Where containers need them, give halb-agent another --interface."
    if trouble:
        yield Finding("interface", "problem", f"interface {interface} {trouble}", remedy)
    else:
        text = f"interface {interface} is up, MTU {mtu}, with {networks}"
        yield Finding("interface", "ok", text)
    if mtu < MIN_MTU:
        yield Finding(
            "interface",
            "problem",
            f"interface {interface} has an MTU of {mtu}, less than IPv6 needs",
            f"ip link set {interface} mtu 1500",
        )


def clock(_: str) -> Iterator[Finding]:
    """Wall-clock time: leases do without it, join tokens and the history do not."""
    timex = ctypes.create_string_buffer(_TIMEX_SIZE)
    state = ctypes.CDLL(None, use_errno=True).adjtimex(timex)
    if state < 0:
        yield Finding(
            "time",
            "warning",
            "this process may not ask whether the clock is synchronised: "
            + os.strerror(ctypes.get_errno()),
            "Allow it the system calls adjtimex and clock_adjtime, as halb-agent.service does.",
        )
    elif state == _TIME_ERROR:
        yield Finding(
            "time",
            "warning",
            "the clock is not synchronised: tokens may expire early or late, and times in the "
            "history of several devices do not compare",
            "Run a time service, such as chrony or systemd-timesyncd.",
        )
    else:
        yield Finding("time", "ok", "the clock is synchronised")


def firewalls(_: str, *, forgetful: bool = False, doubtful: bool = True) -> Iterator[Finding]:
    """Chains of others that may take packets away. Their rules are not read."""
    chains = foreign_chains()
    forward = [c for c in chains if c.hook == "forward"]
    dropping = [c for c in forward if c.drops]
    forgetting = [c for c in forward if forgetful and not c.drops]
    own = [c for c in chains if c.hook in _OWN_PACKETS and c.drops]
    early = [c for c in chains if c.hook == "prerouting" and c.priority < RAW]
    for chain in dropping:
        yield Finding(
            "firewall",
            "warning",
            f"{chain}: forwards only what its own rules accept",
            "Accept there what has `ct status dnat`, and for flows that are not remembered "
            "(`routed`) what has `ct state untracked`.",
        )
    for chain in forgetting:
        yield Finding(
            "firewall",
            "warning",
            f"{chain}: its rules may drop what `routed` forwards without remembering the flow, "
            "as one that lets only known flows pass does",
            "Accept there what has `ct state untracked`. `halbctl status` says what is dropped.",
        )
    for chain in early:
        yield Finding(
            "firewall",
            "warning",
            f"{chain}: comes before the connection table, and may keep packets out of it",
            "See that it has no `notrack` for packets of the VIPs.",
        )
    for chain in own:
        # Many a host has one that lets through all that is needed.
        text = f"{chain}: {_OWN_PACKETS[chain.hook]} only what its own rules accept"
        if doubtful:
            yield Finding("firewall", "warning", text, _needed(chain))
        else:
            yield Finding("firewall", "ok", text)
    if not dropping and not forgetting and not early:
        yield Finding("firewall", "ok", "no other table of this host drops what is forwarded")


def _needed(chain: Chain) -> str:
    """What a chain for this host's own packets has to let through."""
    # The kernel tracks no neighbour discovery.
    discovery = (
        ""
        if chain.family == "ip"
        else ", `icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }` (no `ct state` but "
        "untracked stands for these)"
    )
    return (
        "See that it accepts `ct state established,related`, TCP to the devices' ports "
        f"(7480 to 7483 unless told otherwise){_CHECKED[chain.hook]}, ICMP{discovery}."
    )


def connections(_: str) -> Iterator[Finding]:
    """Room in the connection table."""
    room = conntrack_limit.room()
    if room is None:
        yield Finding("connections", "ok", "the connection table is not in use yet")
        return
    said = f"the connection table has {room.entries} of {room.limit} entries"
    raise_it = f"sysctl -w net.netfilter.nf_conntrack_max={max(4 * room.limit, 262_144)}"
    if room.share >= conntrack_limit.NEARLY_FULL:
        yield Finding("connections", "problem", f"{said}: new flows are dropped soon", raise_it)
    elif room.limit < MIN_CONNECTIONS:
        yield Finding("connections", "warning", f"{said}: few for a load balancer", raise_it)
    else:
        yield Finding("connections", "ok", said)


def idle(interface: str) -> Iterator[Finding]:
    """How long the connection table remembers a connection in which nobody speaks."""
    seconds = sysctl.read(sysctl.ESTABLISHED, interface)
    if seconds is None:
        return
    if seconds >= MIN_IDLE_S:
        yield Finding("idle", "ok", f"silent connections are remembered for {seconds} s")
        return
    yield Finding(
        "idle",
        "warning",
        f"connections that are silent for {seconds} s are forgotten: with `snat` nobody hears a"
        " gateway that speaks next, and where no hash tells of the gateway they are reset",
        f"sysctl -w net.{sysctl.ESTABLISHED.replace('/', '.')}={MIN_IDLE_S} on each device",
    )
