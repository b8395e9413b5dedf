"""What each feature needs of the kernel, and which Virtual Servers need it. Pure.

A kernel may lack a module that a rule needs, and libnftables 1.0.6 can abort the
process that loads a statement it does not know. So each feature is tried by itself,
without being applied, before any rule is loaded. The lease and plain ``snat`` must be
there; what else is missing costs only what needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from msgspec.structs import replace

from agent import accounts, direct, door, gate, relay, virtual_mac, ways
from agent.nft import KernelRefused, NftTooSlow
from agent.ruleset import Compiler, Desired, carried, load
from protocol.ids import GroupId
from protocol.objects import PURE, Balance, Forwarding, Gateway, Listener, VirtualServer

REFUSALS = "refusing at once"
MACS = "virtual MACs"
RELAY = "moves without a lost packet"
COUNTERS = "counters"
ELSEWHERE = "silence on other interfaces"
BACKSTOP = "silence while others flush all rules"
DOOR = "a bound for strangers"
"""Features without which every Virtual Server is served nevertheless."""
_WITHOUT = {
    REFUSALS: "where nobody can take a new flow it gets no answer",
    RELAY: "a planned move may stall flows, or reset those that are being opened",
    COUNTERS: "no traffic is counted",
    ELSEWHERE: "one that is in the network of the VIPs answers for them, also without a lease",
    BACKSTOP: "what comes for a VIP then is reset",
    DOOR: "connections of strangers can take all file descriptors of this agent",
}
_BY_FLOW: tuple[Balance, ...] = ("hash", "source-hash", "least-connections")
_BY_TURNS: tuple[Balance, ...] = ("round-robin", "random")
_UID = GroupId("0" * 16)
_VIPS = ("192.0.2.1", "2001:db8::1")
_GATEWAYS = tuple(
    Gateway(name=ip, address=ip)
    for ip in ("192.0.2.101", "192.0.2.102", "2001:db8::101", "2001:db8::102")
)


@dataclass(frozen=True)
class Feature:
    """Something that not every kernel can do."""

    name: str
    trials: tuple[str, ...]
    """Scripts with all the statements that it takes. Each is small enough for the nft of an
    ordinary user, which sends no more than 208 KiB at once."""
    needed_by: Callable[[VirtualServer], bool] = lambda _: False
    """Whether a Virtual Server cannot be served as configured without it."""
    required: bool = False
    """Whether nothing at all can be served without it."""


@dataclass(frozen=True)
class Lack:
    """A feature that this kernel does not have."""

    feature: Feature
    error: KernelRefused

    def __str__(self) -> str:
        without = _WITHOUT.get(self.feature.name, "")
        end = f"; {without}" if without else ""
        return f"{self.feature.name} is off: {self.error.message}{end}"


def lacks(features: Iterable[Feature], check: Callable[[str], None]) -> tuple[Lack, ...]:
    """Those of ``features`` for which ``check`` of a script raises :class:`KernelRefused`.

    Raises :class:`NftTooSlow`, by which nothing is known.
    """
    found: list[Lack] = []
    for feature in features:
        try:
            for script in feature.trials:
                check(script)
        except NftTooSlow:
            raise
        except KernelRefused as error:
            found.append(Lack(feature, error))
    return tuple(found)


def why_off(name: str, lacking: Iterable[Lack]) -> str:
    """Why the feature of this name is off; empty if it is not."""
    return next((lack.error.message for lack in lacking if lack.feature.name == name), "")


def unmet(server: VirtualServer, lacking: Iterable[Lack]) -> str:
    """What a Virtual Server needs and a kernel lacks; empty if it can be served."""
    return next((str(lack) for lack in lacking if lack.feature.needed_by(server)), "")


def features(interface: str) -> tuple[Feature, ...]:
    """All of them, what is required first."""
    snat, lease = _server(_BY_FLOW), gate.replaced(interface, "")
    routed, dsr = replace(snat, forwarding="routed"), replace(snat, forwarding="dsr")
    # Ports and policies that `dsr` refuses would only take room.
    dsr = replace(dsr, listeners=tuple(filter(_stays_as_it_is, dsr.listeners)))
    few = tuple(replace(each, max_connections=9) for each in _GATEWAYS)
    limited = (replace(_server((balance,)), gateways=few) for balance in _BY_FLOW)
    return (
        Feature("the lease", (lease,), required=True),
        Feature("forwarding `snat`", _tried(snat), required=True),
        Feature("balance `round-robin` and `random`", _tried(_server(_BY_TURNS)), _takes_turns),
        Feature("`max_connections`", _tried(*limited), _has_limits),
        *(
            Feature(f"`{name}`", _tried(_server(_BY_FLOW, **{name: 9})), _sets(name))
            for name in ("sticky", "client_connections", "client_rate")
        ),
        Feature("forwarding `routed`", _tried(*_farms(routed)), _forwards("routed")),
        Feature(
            "forwarding `dsr`",
            (*_tried(*_farms(dsr)), *(_ways(each, interface) for each in _farms(dsr))),
            _forwards("dsr"),
        ),
        Feature(REFUSALS, (_load(replace(snat, gateways=()), quiet=False),)),
        Feature(MACS, (lease + virtual_mac.sample(interface),)),
        Feature(RELAY, (relay.sample(),)),
        Feature(COUNTERS, (accounts.sample(),)),
        Feature(DOOR, (door.sample(),)),
        Feature(ELSEWHERE, (gate.elsewhere(interface) + gate.guard(_VIPS, [gate.ELSEWHERE]),)),
    )


def _stays_as_it_is(listener: Listener) -> bool:
    return listener.gateway_ports == listener.ports and listener.balance in PURE


def _takes_turns(server: VirtualServer) -> bool:
    return any(listener.balance in _BY_TURNS for listener in server.listeners)


def _has_limits(server: VirtualServer) -> bool:
    return any(gateway.max_connections for gateway in server.gateways)


def _sets(name: str) -> Callable[[VirtualServer], bool]:
    return lambda server: any(getattr(listener, name) for listener in server.listeners)


def _forwards(mode: Forwarding) -> Callable[[VirtualServer], bool]:
    return lambda server: server.forwarding == mode


def _server(balances: Iterable[Balance], **limits: Any) -> VirtualServer:
    """What takes every statement of these policies."""
    protocols: tuple[Literal["tcp", "udp"], ...] = ("tcp", "udp")
    one = (
        Listener(protocol=protocol, port=port, gateway_port=port + shift, balance=balance, **limits)
        for port, (protocol, balance, shift) in enumerate(product(protocols, balances, (0, 1)), 1)
    )
    several = (
        Listener(protocol=protocol, port=90, last_port=99, gateway_port=90, **limits)
        for protocol in protocols
    )
    return VirtualServer(
        uid=_UID,
        name="sample",
        vips=("192.0.2.1/32", "2001:db8::1/128"),
        gateways=_GATEWAYS,
        listeners=(*one, *several),
        seed=1,
    )


def _farms(server: VirtualServer) -> Iterator[VirtualServer]:
    """It with two gateways of an IP version, with one, and while one of two drains."""
    some = _GATEWAYS[::2]
    leaving = (replace(each, state="draining") for each in _GATEWAYS[1::2])
    for gateways in (_GATEWAYS, some, (*some, *leaving)):
        yield replace(server, gateways=gateways)


def _tried(*servers: VirtualServer) -> tuple[str, ...]:
    return tuple(_load(server) for server in servers)


def _load(server: VirtualServer, *, quiet: bool = True) -> str:
    return load(Compiler(quiet=quiet).compile(_alone(server)))


def _ways(server: VirtualServer, interface: str) -> str:
    found = direct.compiled(carried(_alone(server)), frozenset(), frozenset(), interface)
    return ways.load(found, interface)


def _alone(server: VirtualServer) -> Desired:
    return Desired((server,), {_UID: _VIPS})
