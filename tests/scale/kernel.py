"""What many Virtual Servers cost the kernel and the agent; run by hand.

``python -m tests.scale.kernel load [SERVERS [GATEWAYS [MODE]]]`` loads them into a kernel, changes
one at a time, and tells how late a loop wakes up meanwhile; MODE is one of :data:`MODES`.
``python -m tests.scale.kernel flows`` compares new flows through devices with 1, 100 and 1000
Virtual Servers, in turns.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import Literal

from agent import nft
from agent.dataplane import DataPlane, Desired, Reconciled
from agent.kernel import Kernel
from agent.realtime import raise_priority
from halbctl.lab.servers import ECHO
from protocol.ids import GroupId, Revision
from protocol.objects import Balance, Forwarding, Gateway, Listener, VirtualServer
from tests.kernel.namespaces import Device, Inside, hosts

MODES: Mapping[str, tuple[Forwarding, Balance]] = {
    "snat": ("snat", "hash"),
    "routed": ("routed", "hash"),
    "remembered": ("routed", "round-robin"),
    "dsr": ("dsr", "hash"),
}
"""Forwarding and policy by name: ``routed`` remembers no flow, but with turns."""
TICK_S = 0.01
CHANGES = 20
TURNS, FLOWS = 9, 1000
Protocol = Literal["tcp", "udp"]
SOURCE = 20_000
"""First source port."""


def many(servers: int, gateways: int, mode: str = "snat", protocol: Protocol = "udp") -> Desired:
    """Virtual Servers with one listener each; the last one leads to a gateway that answers."""
    wanted, vips = [], {}
    forwarding, balance = MODES[mode]
    listener = Listener(protocol=protocol, port=ECHO, gateway_port=ECHO, balance=balance)
    for number in range(servers):
        uid, last = GroupId(f"{number + 1:016x}"), number == servers - 1
        some = [
            Gateway(name=f"g{n}", address=f"10.{100 + number // 250}.{number % 250}.{n + 1}")
            for n in range(gateways)
        ]
        if last:
            some = [Gateway(name="gw", address="10.77.0.15")]
        vip = "10.77.0.100" if last else f"10.90.{number // 250}.{number % 250 + 1}"
        wanted.append(
            VirtualServer(
                uid=uid, name=f"vs{number}", vips=(f"{vip}/24",), gateways=tuple(some),
                seed=number + 1, forwarding=forwarding, listeners=(listener,),
            )
        )  # fmt: skip
        vips[uid] = (vip,)
    return Desired(tuple(wanted), vips)


@dataclass(frozen=True)
class Took:
    """Milliseconds: until a wish is in force, of that nft on its scripts, of that the kernel."""

    whole: float
    nft: float
    kernel: float


@contextmanager
def timed() -> Iterator[Callable[[], tuple[float, float]]]:
    """How long nft worked on scripts since it was asked last, and the kernel of that, in
    milliseconds; the latter is an estimate by ticks."""
    took: list[tuple[float, float]] = []
    run = nft.Nft.run

    def measured(self: nft.Nft, script: str, *, patience: float = -1) -> str:
        began, kernel = time.perf_counter(), _kernel_s()
        try:
            return run(self, script, patience=patience)
        finally:
            took.append(((time.perf_counter() - began) * 1000, (_kernel_s() - kernel) * 1000))

    def since() -> tuple[float, float]:
        taken = [took.pop(0) for _ in range(len(took))]
        return sum(each for each, _ in taken), sum(each for _, each in taken)

    nft.Nft.run = measured  # type: ignore[method-assign]
    try:
        yield since
    finally:
        nft.Nft.run = run  # type: ignore[method-assign]


def _kernel_s() -> float:
    """Seconds that the kernel has worked for this thread, and for children that have ended."""
    who = (resource.RUSAGE_THREAD, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(each).ru_stime for each in who)


class Lateness:
    """How late a loop wakes up, in milliseconds."""

    def __init__(self) -> None:
        self.late: list[float] = []

    async def run(self) -> None:
        """Until cancelled."""
        due = time.monotonic()
        while True:
            due = max(due + TICK_S, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            self.late.append((time.monotonic() - due) * 1000)

    def take(self) -> dict[str, float]:
        found, self.late = sorted(self.late), []
        return {"p99": round(found[len(found) * 99 // 100], 1), "most": round(found[-1], 1)}


async def passes(
    wishes: list[Desired], lateness: Lateness, scripts: Callable[[], tuple[float, float]]
) -> list[Took]:
    """What each wish took, beside a loop that ticks."""
    done: asyncio.Queue[str] = asyncio.Queue()

    def on_pass(_: Desired, __: Revision, did: Reconciled | None, error: str) -> None:
        if error or did is None or did.changed:
            done.put_nowait(error)

    kernel = Kernel(DataPlane("eth0"), on_pass, lambda: None)
    await kernel.start()
    raise_priority()
    ticking = asyncio.create_task(lateness.run())
    took = []
    for wish in wishes:
        scripts()
        began = time.monotonic()
        kernel.want(wish, Revision())
        assert not await done.get()
        took.append(Took((time.monotonic() - began) * 1000, *scripts()))
    ticking.cancel()
    await kernel.close()
    return took


def load(servers: int, gateways: int, mode: str) -> dict[str, object]:
    raise_priority()  # as the main thread of an agent, by which workers go
    whole = many(servers, gateways, mode, "tcp")
    changes = [
        replace(whole, down=frozenset({(whole.virtual_servers[n % servers].uid, "g0")}))
        for n in range(CHANGES)
    ]
    lateness = Lateness()
    with hosts("a") as network, timed() as scripts:
        host = Inside(network, "a")
        (loaded,) = host.call(asyncio.run, passes([whole], lateness, scripts))
        late = lateness.take()
        (_, *changed) = host.call(asyncio.run, passes([whole, *changes], lateness, scripts))
        host.close()
    return {
        "mode": mode,
        "virtual_servers": servers,
        "gateways": gateways,
        "load_s": round(loaded.whole / 1000, 2),
        "of_that_nft_s": round(loaded.nft / 1000, 2),
        "of_that_kernel_s": round(loaded.kernel / 1000, 2),
        "loop_late_ms": late,
        "change_ms": round(median(each.whole for each in changed), 1),
        "of_that_nft_ms": round(median(each.nft for each in changed), 1),
        "of_that_kernel_ms": round(mean(each.kernel for each in changed), 1),
        "loop_late_with_changes_ms": lateness.take(),
        "resident_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def flows() -> dict[str, float]:
    """Microseconds from a client's first datagram until its answer, by Virtual Servers."""
    sizes = (1, 100, 1000)
    took: dict[int, list[float]] = {size: [] for size in sizes}
    names = ("a", "b", "c", "client", "gw")
    with hosts(*names, servers=["gw"]) as network:
        devices = {s: Device(network, name) for s, name in zip(sizes, names[:3], strict=True)}
        for size, device in devices.items():
            device.reconcile(many(size, 10))
        client = Inside(network, "client")
        for turn in range(TURNS):
            for size, device in devices.items():
                device.take(["10.77.0.100"])
                # The first one finds the neighbours.
                client.call(ask_often, SOURCE - 1, 1)
                took[size].append(client.call(ask_often, SOURCE + turn * FLOWS, FLOWS))
                device.drop(["10.77.0.100"])
        for each in (*devices.values(), client):
            each.close()
    return {str(size): round(median(values), 1) for size, values in took.items()}


def ask_often(first: int, count: int) -> float:
    """Mean microseconds of a question and its answer, each of a new flow."""
    began = time.perf_counter()
    for port in range(first, first + count):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(3.0)
            sock.bind(("", port))
            sock.connect(("10.77.0.100", ECHO))
            sock.send(b"?")
            sock.recv(100)
    return (time.perf_counter() - began) / count * 1e6


def main() -> None:
    what, *given = sys.argv[1:]
    servers, gateways, mode = [*given, *("1000", "10", "snat")[len(given) :]]
    found = load(int(servers), int(gateways), mode) if what == "load" else flows()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
