"""Kinds of connections that ``scripts/bench failover`` holds open while things happen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from halbctl.lab.namespaces import Host, Network
from halbctl.lab.plan import CLIENT, VIP, VIP6
from protocol.errors import InvalidInput

CLIENTS = tuple(Host("client", 51 + index) for index in range(20))
"""Addresses of the clients that use equal source ports; all belong to one host of the lab."""
ECHO = "echo"
IDLE = "idle"


@dataclass(frozen=True)
class Kind:
    """One kind of connection: the instrument that holds them, and what that is told."""

    about: str
    instrument: str
    vip: str = VIP
    options: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    ECHO: Kind("both sides speak", "established"),
    "push": Kind("only the gateway speaks", "established", options=("push",)),
    "ports": Kind(
        "20 clients use the same source ports",
        "established",
        options=("echo", *(host.ipv4 for host in CLIENTS)),
    ),
    "udp": Kind("datagrams", "datagrams"),
    "ipv6": Kind("both sides speak, over IPv6", "established", VIP6),
    IDLE: Kind("nobody speaks until the window ends", "established", options=("idle",)),
}
"""By name. All but ``idle``, which makes each event a minute longer, are held by default."""
USUAL = tuple(name for name in KINDS if name != IDLE)


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """``names`` in their order; raise InvalidInput for one that does not exist."""
    for name in names:
        if name not in KINDS:
            raise InvalidInput(
                f"no kind of connection is named {name!r}", f"Choose of: {', '.join(KINDS)}."
            )
    return tuple(dict.fromkeys(names))


def prepare(network: Network, names: Sequence[str]) -> None:
    """Give the client the addresses that these kinds use."""
    if "ports" in names:
        network.give(CLIENT.name, [host.ipv4 for host in CLIENTS])
