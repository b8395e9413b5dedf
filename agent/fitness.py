"""Which Virtual Servers this device cannot carry now, and why.

A device that is unfit for a Virtual Server does not stand for primary of it,
and says so. Being late is no unfitness: a busy moment that hits all devices
must not leave a VIP without an owner, so the core only ranks a late device last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface, ip_address

from agent.addresses import Link
from protocol.addresses import family
from protocol.assignment import carriers_of
from protocol.config import Config
from protocol.effects import Fitness
from protocol.ids import DeviceId, GroupId
from protocol.objects import VirtualServer
from protocol.timing import INTERVAL_NS, MILLISECOND, SECOND, Profile

TELL_NS = 2 * SECOND
"""The core is told of the lateness this often."""
LATE_SHARE = 0.2
"""Share of T that the agent's loop may be late (p99) before it is told."""


@dataclass(frozen=True)
class Host:
    """The state of this host as far as it decides on fitness."""

    interface: str
    link: Link | None
    """The service interface; None while it does not exist."""
    networks: tuple[IPv4Interface | IPv6Interface, ...]
    """The operator's addresses of it, with prefixes."""
    loaded: frozenset[GroupId]
    """Virtual Servers whose rules are in the kernel."""
    refused: Mapping[GroupId, str] = field(default_factory=dict)
    """Virtual Servers that the kernel does not take, with the reason."""
    trouble: tuple[str, ...] = ()
    """What forbids to carry anything: kernel, lease or disk, one phrase each."""
    lost: frozenset[int] = frozenset()
    """IP versions whose default route was there since the agent started, and is gone."""


def judged(
    config: Config, device: DeviceId, host: Host, outdated: Mapping[GroupId, str]
) -> Fitness:
    """What to tell the core. ``outdated`` are those whose newest change the kernel refused."""
    worse = {**dict(one_sided(config, device, host.lost)), **outdated}
    return Fitness(unfit(config, device, host), tuple(worse.items()))


def unfit(config: Config, device: DeviceId, host: Host) -> tuple[tuple[GroupId, str], ...]:
    """The Virtual Servers that ``device`` should carry and cannot, with the first reason."""
    general = _general_reason(host)
    found = []
    for server in config.virtual_servers.values():
        if device in carriers_of(config, server):
            reason = general or _reason(server, host)
            if reason:
                found.append((server.uid, reason))
    return tuple(found)


def one_sided(
    config: Config, device: DeviceId, lost: frozenset[int]
) -> Iterator[tuple[GroupId, str]]:
    """Virtual Servers whose answers do not find back to distant clients, and why.

    Those with ``dsr`` do: their gateways answer themselves. Near clients are served all the same,
    so a device without a way back is better than none.
    """
    for server in config.virtual_servers.values() if lost else ():
        if server.forwarding != "dsr" and device in carriers_of(config, server):
            for version in sorted(lost & {family(vip) for vip in server.vips}):
                yield server.uid, f"has no IPv{version} default route any more: {_UNANSWERED}"
                break


def cut_off(interface: str, link: Link | None) -> str:
    """Why nobody can be reached through an interface; empty if it has a carrier."""
    if link is None:
        return f"interface {interface} does not exist"
    if not link.up:
        return f"interface {interface} is down"
    return "" if link.carrier else f"interface {interface} has no carrier"


def _general_reason(host: Host) -> str:
    if reason := cut_off(host.interface, host.link):
        return reason
    if host.link is not None and host.link.filters:
        return f"interface {host.interface} is a bridge with br_netfilter: see `halbctl doctor`"
    return host.trouble[0] if host.trouble else ""


def _reason(server: VirtualServer, host: Host) -> str:
    if reason := host.refused.get(server.uid):
        return reason
    for vip in server.leased:
        address = ip_address(vip)
        if not any(address in each.network for each in host.networks):
            return f"VIP {vip} lies outside the networks of interface {host.interface}"
    if server.uid not in host.loaded:
        return "its rules are not in the kernel yet"
    return ""


_UNANSWERED = "distant clients get no answers"
ENOUGH = 100
"""Wake-ups without which nothing is concluded: a start is no steady state."""


class Lateness:
    """How late the agent's loop wakes up: nanoseconds over the newest wake-ups."""

    def __init__(self, window: int = 300) -> None:
        self._samples: deque[int] = deque(maxlen=window)
        self._enough = min(ENOUGH, window)
        self._tell_at = 0

    def note(self, due: int, now: int) -> int | None:
        """A timer that was due at ``due`` ran at ``now`` (same clock, nanoseconds).

        Returns :meth:`p99` from time to time, which is when to tell the core.
        """
        self._samples.append(max(0, now - due))
        if now < self._tell_at:
            return None
        self._tell_at = now + TELL_NS
        return self.p99()

    def p99(self) -> int:
        """99 of 100 wake-ups were at most this late; 0 before there were so many."""
        if len(self._samples) < self._enough:
            return 0
        ordered = sorted(self._samples)
        return ordered[(len(ordered) * 99 - 1) // 100]

    def warning(self, profiles: Iterable[Profile]) -> str:
        """What to tell of it, given the profiles in use; empty where all is well."""
        late = self.p99()
        hurt = sorted(
            (p for p in set(profiles) if late > LATE_SHARE * INTERVAL_NS[p]),
            key=lambda p: INTERVAL_NS[p],
        )
        if not hurt:
            return ""
        return (
            f"the agent wakes up {late / MILLISECOND:.0f} ms late (p99): too late for profile"
            f" {', '.join(hurt)}; give the host more processor time or choose a calmer profile"
        )
