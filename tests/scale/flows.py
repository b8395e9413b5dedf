"""What it costs to keep the flows of a primary on its secondaries; run by hand.

``python -m tests.scale.flows [FLOWS [RATE]]`` makes a lab with real agents and
flows that exist in the primary's kernel only, enters FLOWS of them, measures
how long a secondary needs until it has them all, and then lets RATE of them
begin and end per second.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from agent import netlink
from agent.flowtable import FlowTable, entry, renewal
from halbctl.lab.site import Site
from protocol.flows import RECORD, TCP, Flow, key_of
from tests.kernel.namespaces import Inside, away_from_the_host
from tests.kernel.sites import serving

PACE_S = 0.01
MEASURED_S = 10.0
CONFIRMED, ASSURED = 0x8, 0xE
"""Status of an entry: merely there, and answered and lasting."""


def flows(vip: str, count: int, first_client: int) -> list[Flow]:
    """Flows through one gateway, each of its own client port."""
    packed, port = ip_address(vip).packed, (7001).to_bytes(2, "big")
    gateway = bytes([10, 79, first_client, 1])
    made = []
    for number in range(count):
        client = bytes([10, 78, first_client + number // 50_000, 1])
        source = (10_000 + number % 50_000).to_bytes(2, "big")
        made.append(
            RECORD[4].pack(TCP, client, packed, source, port, gateway, packed, port, source, number)
        )
    return made


def processor_s(site: Site, device: str) -> float:
    """Seconds that a device's agent has computed so far."""
    pid = site.service(device).pid
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


class Kernel:
    """The connection table of one device of the lab."""

    def __init__(self, site: Site, device: str) -> None:
        self.inside = Inside(site.network, device)
        self.table = self.inside.call(FlowTable)
        self.pipeline = self.inside.call(netlink.Pipeline, netlink.NETFILTER)
        self.packed = frozenset(ip_address(vip).packed for vip in site.plan.vips)

    def count(self) -> int:
        return self.inside.call(lambda: sum(1 for _ in self.table.all(self.packed)))

    def begin(self, some: list[Flow]) -> None:
        """As the kernel does it: an entry first, which becomes assured then."""
        self.inside.call(self.pipeline.send, [entry(flow, 0, CONFIRMED) for flow in some])
        self.inside.call(self.pipeline.send, [renewal(flow, ASSURED) for flow in some])

    def end(self, some: list[Flow]) -> None:
        self.inside.call(self.table.remove, [key_of(flow) for flow in some])

    def close(self) -> None:
        self.inside.call(self.table.close)
        self.inside.call(self.pipeline.close)
        self.inside.close()


@contextmanager
def kernel(site: Site, device: str) -> Iterator[Kernel]:
    made = Kernel(site, device)
    try:
        yield made
    finally:
        made.close()


def in_step(site: Site, device: str) -> int:
    """How often the device's agent has said so."""
    return site.service(device).log.read_text().count("in step with the flows of")


def bring_in_step(site: Site, count: int) -> dict[str, float]:
    """A secondary that starts with nothing."""
    primary = site.primary()
    secondary = next(host.name for host in site.plan.device_hosts if host.name != primary)
    with kernel(site, primary) as here, kernel(site, secondary) as there:
        here.inside.call(here.table.put, flows(site.plan.vips[0], count, 1))
        site.service(secondary).kill()
        site.network.run(secondary, "conntrack", "-F")
        before, said = processor_s(site, primary), in_step(site, secondary)
        site.start_agent(secondary)
        site.wait_answers(secondary)
        site.wait("the secondary is a member", lambda: _follows(site, secondary), 30.0)
        began = time.monotonic()
        site.wait("the secondary is in step", lambda: in_step(site, secondary) > said, 60.0)
        took = time.monotonic() - began
        return {
            "flows": there.count(),
            "after_it_followed_s": round(took, 2),
            "primary_processor_s": round(processor_s(site, primary) - before, 2),
            "secondary_processor_s": round(processor_s(site, secondary), 2),
        }


def _follows(site: Site, device: str) -> bool:
    return bool(site.virtual_server(device)["primary"])


def steady(site: Site, rate: int) -> dict[str, float]:
    """So many flows begin, and as many end, per second."""
    primary = site.primary()
    secondary = next(host.name for host in site.plan.device_hosts if host.name != primary)
    some = flows(site.plan.vips[0], int(rate * MEASURED_S), 200)
    each = int(rate * PACE_S)
    with kernel(site, primary) as here, kernel(site, secondary) as there:
        time.sleep(3.0)
        idle = [processor_s(site, device) for device in (primary, secondary)]
        time.sleep(MEASURED_S)
        idle = [processor_s(site, d) - i for d, i in zip((primary, secondary), idle, strict=True)]
        busy = [processor_s(site, device) for device in (primary, secondary)]
        began = time.monotonic()
        for at in range(0, len(some), each):
            here.begin(some[at : at + each])
            here.end(some[max(0, at - rate) : max(0, at - rate + each)])
            time.sleep(max(0.0, began + (at + each) / rate - time.monotonic()))
        took = time.monotonic() - began
        time.sleep(0.5)
        busy = [processor_s(site, d) - b for d, b in zip((primary, secondary), busy, strict=True)]
        differ = len(
            set(here.inside.call(lambda: list(here.table.all(here.packed))))
            ^ set(there.inside.call(lambda: list(there.table.all(there.packed))))
        )
    return {
        "per_second": round(len(some) / took),
        "primary_idle_percent": round(100 * idle[0] / MEASURED_S, 2),
        "primary_percent": round(100 * busy[0] / took, 2),
        "secondary_idle_percent": round(100 * idle[1] / MEASURED_S, 2),
        "secondary_percent": round(100 * busy[1] / took, 2),
        "flows_that_differ": differ,
    }


def main() -> None:
    count, rate = [*map(int, sys.argv[1:]), *(50_000, 1000)[len(sys.argv) - 1 :]]
    with away_from_the_host(), serving(devices=3, gateways=1) as site:
        print(json.dumps(bring_in_step(site, count)), flush=True)
        print(json.dumps(steady(site, rate)), flush=True)


if __name__ == "__main__":
    main()
