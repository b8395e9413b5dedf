"""``python -m tests.scale.elections 500``: the primary of so many Virtual Servers loses power.

Real agents in a lab, on the processors of this machine; prints how long connections to some of
the Virtual Servers failed. As root, as every lab.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import Any

from halbctl.lab.lifecycle import build, down, ending_signals_raise
from halbctl.lab.namespaces import INTERFACE
from halbctl.lab.plan import CLIENT, Plan
from halbctl.lab.servers import ECHO
from halbctl.lab.site import Site, change, form
from protocol.errors import HalbError

IN_ORDER_S = 120.0
"""Within which all that was applied is in order."""
CALM_S, WATCHED_S = 8.0, 12.0
"""Before a device loses power, and how long clients watch what becomes of that."""
AHEAD_S = 2.0
"""They begin so long before it."""
WATCHED = 20
"""Virtual Servers that clients connect to."""
PER_BLOCK = 250


def vip(number: int) -> str:
    return f"10.80.{1 + number // PER_BLOCK}.{1 + number % PER_BLOCK}"


def document(plan: Plan, servers: int) -> str:
    """Virtual Servers on all devices, in networks of their own."""
    check = {"type": "tcp", "interval": 30.0, "timeout": 1.0}
    gateways = [{"name": host.name, "address": host.ipv4} for host in plan.gateway_hosts]
    listeners = [{"protocol": "tcp", "port": ECHO, "check": check}]
    many = [
        {
            "name": f"vs{number}",
            "vips": [f"{vip(number)}/16"],
            "devices": [host.name for host in plan.device_hosts],
            "gateways": gateways,
            "listeners": listeners,
        }
        for number in range(servers)
    ]
    return json.dumps({"virtual_servers": many})


def served(site: Site, device: str) -> list[dict[str, Any]]:
    """What a device knows of the Virtual Servers; nothing while it is too busy to say."""
    with suppress(HalbError):
        return list(site.status(device)["virtual_servers"])
    return []


def lose_power(site: Site, number: int) -> str:
    """The device that is primary of most loses power, and comes back; what clients saw."""
    first = site.plan.device_hosts[0].name
    before = {server["name"]: server["primary"] for server in served(site, first)}
    lost, had = Counter(before.values()).most_common(1)[0]
    mine = [vip(n) for n in range(number) if before[f"vs{n}"] == lost]
    some = mine[:: max(1, len(mine) // WATCHED)]
    for gateway in site.plan.gateway_hosts:
        # Of all of them one machine cannot know the way: its table of neighbours takes 1024.
        for each in some:
            site.network.run(gateway.name, "ip", "route", "replace", each, "dev", INTERFACE)
    watch = [sys.executable, "-m", "tests.scale.reached", str(WATCHED_S), str(ECHO), *some]
    command = site.network.within(CLIENT.name, watch)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as clients:
        time.sleep(AHEAD_S)
        site.crash(lost)
        seen, _ = clients.communicate()
    site.start(lost)
    took = sorted(json.loads(seen).values())
    return (
        f"{lost} had {had}: out of reach for {took[0]:.0f} ms (shortest),"
        f" {took[len(took) // 2]:.0f} (median), {took[-1]:.0f} (longest)"
    )


def main() -> None:
    """Run it; see the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.scale.elections", description=__doc__)
    parser.add_argument("servers", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    plan = Plan("elections", devices=3, gateways=2)
    with ending_signals_raise():
        try:
            run(build(plan), options.servers, options.rounds)
        finally:
            down(plan.name)


def run(site: Site, servers: int, rounds: int) -> None:
    """Fill a lab, then take devices away."""
    plan = site.plan
    for number, host in enumerate((*plan.device_hosts, CLIENT), 1):
        address = f"10.80.0.{number}/16"
        site.network.run(host.name, "ip", "address", "add", address, "dev", INTERFACE)
    form(site)
    first = plan.device_hosts[0].name
    path = site.folder / "elections.json"
    path.write_text(document(plan, servers))
    began = time.monotonic()
    change(site, first, "--timeout", str(IN_ORDER_S), "apply", "-f", str(path))

    def in_order() -> bool:
        states = [each["state"] for each in served(site, first)]
        return states == ["ok"] * servers

    site.wait(f"{servers} Virtual Servers are in order", in_order, IN_ORDER_S, 1.0)
    sys.stdout.write(f"{servers} in order after {time.monotonic() - began:.1f} s\n")
    for _ in range(rounds):
        time.sleep(CALM_S)
        sys.stdout.write(lose_power(site, servers) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
