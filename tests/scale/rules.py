"""What HALB's rules cost, part by part; run by hand: ``python -m tests.scale.rules``.

In one lab a device with HALB and one with rules by hand translate alike; a third has a Virtual
Server that is `routed` without memory. Small questions go through them in turns, and each turn
HALB's devices have other rules: all of them, or all but some.
Client, devices and gateways share one processor, so that a question wakes no other one: what is
left of a round trip is the way of two packets, and differences of 0.05 µs can be seen. The agents
are ended first, and the leases held open, so that nothing mends what is taken away.

``python -m tests.scale.rules [ROUNDS [FIGURE]]`` prints for each set of rules the median of what
one took, in µs, what it took more than by hand in ns, and the ratio of both. FIGURE is one of
``questions``, and ``connections``: new ones between ends that take next to nothing
(:mod:`halbctl.lab.ends`), of six packets each.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from socket import inet_aton
from statistics import median

from agent import accounts, gate
from agent.counters import PROTOCOL_NUMBER
from agent.numbers import mark_of
from halbctl.lab import compared as bench
from halbctl.lab import ends
from halbctl.lab.dataplane import by_turns
from halbctl.lab.lifecycle import build, down
from halbctl.lab.load import PORTS
from halbctl.lab.namespaces import INTERFACE
from halbctl.lab.others import balance_by_hand
from halbctl.lab.site import Site
from protocol.timing import SECOND

ROUNDS, SECONDS = 12, 0.25
_HELD_NS = 3600 * SECOND
_BOTH_WAYS = gate.looking_inward(INTERFACE, wanted=True)
_NO_EGRESS = f"delete chain netdev {gate.TABLE} egress\n"
_BY_FLOW = "".join(f"flush set inet {accounts.TABLE} {name}\n" for name in accounts.MARKED)
_NO_ACCOUNTS = f"delete chain inet {accounts.TABLE} entered\n"
_NONE_AT_ALL = f"{_NO_ACCOUNTS}delete chain inet {accounts.TABLE} leaving\n"
PARTS = {
    "all of HALB": (bench.ALONE, ""),
    "gate both ways": (bench.ALONE, _BOTH_WAYS),
    "accounts by what flows say": (bench.ALONE, _BY_FLOW),
    "both of these": (bench.ALONE, _BOTH_WAYS + _BY_FLOW),
    "without the gate": (bench.ALONE, _NO_EGRESS),
    "without accounts": (bench.ALONE, _NO_ACCOUNTS),
    "without gate and accounts": (bench.ALONE, _NO_EGRESS + _NO_ACCOUNTS),
    "routed without memory": (bench.ROUTED, ""),
    "... without the gate": (bench.ROUTED, _NO_EGRESS),
    "... without accounts": (bench.ROUTED, _NONE_AT_ALL),
    "... without both": (bench.ROUTED, _NO_EGRESS + _NONE_AT_ALL),
}
"""The device, and what is changed of all of it, by what there is then."""
_DEVICES = {host for host, _ in PARTS.values()}


@contextmanager
def _lab() -> Iterator[Site]:
    """A site whose devices in :data:`PARTS` have HALB's rules and no agent, ``BY_HAND`` others."""
    name = f"rules-{os.getpid() % 100000}"
    servers = []
    try:
        site = build(bench.lab(name))
        for host in bench.ADDRESS.keys() - _DEVICES | set(bench.SECONDARIES):
            site.service(host).terminate(5.0)
        bench.simple_switch(site)
        servers = [bench.serve_load(site, gateway.name) for gateway in site.plan.gateway_hosts]
        bench.prepare(site)
        for host in sorted(_DEVICES):
            bench.balance_with_halb(site, host, ())
            site.service(host).kill()
        balance_by_hand(site, bench.BY_HAND, bench.ADDRESS[bench.BY_HAND])
        yield site
    finally:
        for server in servers:
            server.kill()
        down(name)


def _load(site: Site, host: str, script: str) -> None:
    """All rules anew but for what ``script`` takes away, and the lease open."""
    vips = [bench.ADDRESS[host]]
    services, gateways = _keys(vips), frozenset[str]()
    if host == bench.ROUTED:
        vips.append(bench.INNER)
        gateways = _keys(gateway.ipv4 for gateway in site.plan.gateway_hosts)
    kept = accounts.Accounts(frozenset(vips), services, gateways=gateways)
    table = gate.table(INTERFACE, "measured", inward=False) + accounts.table(kept)
    table += accounts.change(accounts.Accounts(), kept)
    numbered = accounts.numbered(_numbers(site))
    text = table + numbered + script + gate.acquire(vips, _HELD_NS)
    site.network.run(host, "nft", "-f", "-", text=text)


def _keys(addresses: Iterable[str]) -> frozenset[str]:
    return frozenset(f"{address} . tcp . {port}" for address in addresses for port in PORTS)


def _numbers(site: Site) -> list[bytes]:
    """Those of all accounts of the Virtual Server."""
    vip, protocol = inet_aton(bench.ADDRESS[bench.ALONE]), bytes([PROTOCOL_NUMBER["tcp"], 0, 0, 0])
    return [
        mark_of(vip + protocol + port.to_bytes(2, "big") + bytes(2) + inet_aton(gateway.ipv4))
        for gateway in site.plan.gateway_hosts
        for port in PORTS
    ]


def _turns(site: Site, rounds: int, took: Callable[[str], float]) -> Mapping[str, list[float]]:
    found: dict[str, list[float]] = {"by hand": [], **{name: [] for name in PARTS}}
    names = list(found)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            host = bench.BY_HAND
            if name in PARTS:
                host, script = PARTS[name]
                _load(site, host, script)
            found[name].append(took(host))
    return found


def _question(site: Site, host: str) -> float:
    (took,) = by_turns(site, "ask", [host], SECONDS)
    return took


def _connection(site: Site, programs: Path, host: str) -> float:
    return 1e6 / ends.carry(site, programs, bench.ADDRESS[host], SECONDS)


def main(rounds: int, figure: str) -> None:
    """Measure and print."""
    processor = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processor})
    with _lab() as site:
        took = partial(_question, site)
        if figure == "connections":
            took = partial(_connection, site, ends.prepare_ends(site))
        found = _turns(site, rounds, took)
    hand = found["by hand"]
    for name, values in found.items():
        more = median(a - b for a, b in zip(values, hand, strict=True)) * 1000
        ratio = median(a / b for a, b in zip(values, hand, strict=True))
        print(f"{name:<28}{median(values):>8.2f} µs{more:>+8.0f} ns{ratio:>8.3f}")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(int(given[0]) if given else ROUNDS, given[1] if len(given) > 1 else "questions")
