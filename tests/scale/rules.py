"""What HALB's rules cost a packet, part by part; run by hand: ``python -m tests.scale.rules``.

In one lab a device with HALB and one with rules by hand translate alike; a third has a Virtual
Server that is `routed` without memory. Small questions go through them in turns, and each turn
HALB's devices have other rules: all of them, or all but some.
Client, devices and gateways share one processor, so that a question wakes no other one: what is
left of a round trip is the way of two packets, and differences of 0.05 µs can be seen. The agents
are ended first, and the leases held open, so that nothing mends what is taken away.

``python -m tests.scale.rules [ROUNDS]`` prints for each set of rules the median of the
round trips, in µs, what they took more than by hand in ns, and the ratio of both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from socket import inet_aton
from statistics import median

from agent import accounts, gate
from agent.counters import PROTOCOL_NUMBER
from agent.numbers import mark_of
from halbctl.lab import dataplane as bench
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
    vips, kept = [bench.ADDRESS[host]], accounts.Accounts()
    if host == bench.ROUTED:
        vips.append(bench.INNER)
        gateways = (each.ipv4 for each in site.plan.gateway_hosts)
        kept = accounts.Accounts(
            gateways=frozenset(f"{at} . tcp . {port}" for at in gateways for port in PORTS)
        )
    table = gate.table(INTERFACE, "measured", inward=False) + accounts.table(kept)
    numbered = accounts.numbered(_numbers(site))
    text = table + numbered + script + gate.acquire(vips, _HELD_NS)
    site.network.run(host, "nft", "-f", "-", text=text)


def _numbers(site: Site) -> list[bytes]:
    """Those of all accounts of the Virtual Server."""
    vip, protocol = inet_aton(bench.ADDRESS[bench.ALONE]), bytes([PROTOCOL_NUMBER["tcp"], 0, 0, 0])
    return [
        mark_of(vip + protocol + port.to_bytes(2, "big") + bytes(2) + inet_aton(gateway.ipv4))
        for gateway in site.plan.gateway_hosts
        for port in PORTS
    ]


def _turns(site: Site, rounds: int) -> Mapping[str, list[float]]:
    found: dict[str, list[float]] = {"by hand": [], **{name: [] for name in PARTS}}
    names = list(found)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            host = bench.BY_HAND
            if name in PARTS:
                host, script = PARTS[name]
                _load(site, host, script)
            found[name] += bench.ask(site, [host], SECONDS)
    return found


def main(rounds: int) -> None:
    """Measure and print."""
    processor = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processor})
    with _lab() as site:
        found = _turns(site, rounds)
    hand = found["by hand"]
    for name, values in found.items():
        more = median(a - b for a, b in zip(values, hand, strict=True)) * 1000
        ratio = median(a / b for a, b in zip(values, hand, strict=True))
        print(f"{name:<28}{median(values):>8.2f} µs{more:>+8.0f} ns{ratio:>8.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
