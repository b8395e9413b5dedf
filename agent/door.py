"""How many connections strangers may open to the agent's ports: table ``inet halb_door``.

Pure. A connection that never finishes its handshake holds a file descriptor until its time is
over, libzmq can end none that it accepted, and without a descriptor left it ends the process. So
the kernel bounds what opens one: all of it together, and what comes from one address, so that one
stranger takes not all. Known devices and this host are not bounded: from a forged address no
connection comes about. Other firewalls of the host go first: what they drop counts nowhere here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from agent.distribution import OPENS
from agent.ipversion import ADDRESS, KEYWORD, SUFFIX
from protocol.addresses import PORTS_PER_ADDRESS, check_endpoint, split_endpoint

TABLE = "halb_door"
RATE, BURST = 500, 1000
"""Connections of all strangers per second, and at once. A handshake takes 2 s at most, so they
hold ``BURST + 2 * RATE`` file descriptors at most."""
RATE_EACH, BURST_EACH = 100, 300
"""The same from one address: also of a network whose devices all join through one."""
MAX_SOURCES = 16_384
"""Addresses of one IP version that are told apart. Others are bounded together alone."""
FORGET_S = 10
"""Longer than what an address may open at once takes to come back."""
_SAMPLE = ("192.0.2.1:7480", "[2001:db8::1]:7480")
_OWN = ("192.0.2.2", "2001:db8::2")


def replaced(listen: Sequence[str], devices: Iterable[str]) -> str:
    """The table, made anew: for an agent at ``IP:PORT`` each, with ``devices`` at these addresses.

    In one transaction: no packet meets less than before.
    """
    known = sorted(map(ip_address, devices), key=lambda ip: (ip.version, ip))
    ports = [split_endpoint(check_endpoint("address", each)) for each in listen]
    lines = (
        f"add table inet {TABLE}",
        f"delete table inet {TABLE}",
        f"table inet {TABLE} {{",
        *_sets(known),
        "chain input {",
        # Behind the firewalls of others, those too that go after the usual priority.
        "type filter hook input priority security - 1; policy accept;",
        *_to_us(ports),
        "}",
        "chain strangers {",
        *_strangers(),
        "}",
        "}",
    )
    return "".join(f"{line}\n" for line in lines)


def sample() -> str:
    """All the statements that it takes."""
    return replaced(_SAMPLE, _OWN)


def _sets(known: Sequence[IPv4Address | IPv6Address]) -> Iterator[str]:
    size = f"size {MAX_SOURCES}; flags dynamic,timeout; timeout {FORGET_S}s;"
    for version, suffix in SUFFIX.items():
        some = ", ".join(str(ip) for ip in known if ip.version == version)
        elements = f" elements = {{ {some} }};" if some else ""
        yield f"set known{suffix} {{ type {ADDRESS[version]};{elements} }}"
        yield f"set strangers{suffix} {{ type {ADDRESS[version]}; {size} }}"


def _to_us(ports: Iterable[tuple[IPv4Address | IPv6Address, int]]) -> Iterator[str]:
    for version, ip in KEYWORD.items():
        ours = ", ".join(
            f"{address} . {port + shift}"
            for address, port in ports
            if address.version == version
            for shift in range(PORTS_PER_ADDRESS)
        )
        if ours:
            yield f"{OPENS} {ip} daddr . tcp dport {{ {ours} }} goto strangers"


def _strangers() -> Iterator[str]:
    yield "iif lo accept"
    yield from (f"{KEYWORD[v]} saddr @known{suffix} accept" for v, suffix in SUFFIX.items())
    # While a set is full, its rule says nothing of a new address, and the last one decides.
    for version, suffix in SUFFIX.items():
        each = f"{KEYWORD[version]} saddr {_over(RATE_EACH, BURST_EACH)}"
        yield f"update @strangers{suffix} {{ {each} }} counter drop"
    yield f"{_over(RATE, BURST)} counter drop"


def _over(rate: int, burst: int) -> str:
    return f"limit rate over {rate}/second burst {burst} packets"
