"""Hosts of a test: network namespaces on one switch, and code that runs inside them.

A network namespace belongs to a thread, so :class:`Inside` runs the agent's own
classes in a thread that entered the namespace of a host.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from typing import ParamSpec, TypeVar

from agent.announce import Announcer
from agent.dataplane import DataPlane, Desired, Reconciled
from agent.lease import KernelLease
from halbctl.lab.namespaces import Host, Network
from halbctl.lab.probes import python_environment
from halbctl.lab.realm import open_realm
from protocol.ids import GroupId
from protocol.objects import Gateway, Listener, VirtualServer
from protocol.timing import SECOND

VIP, VIP6 = "10.77.0.100", "fd77::100"
VIPS = (VIP, VIP6)
UID = GroupId("00000000000000aa")
LONG = 3600 * SECOND
"""A lease that does not end within a file of tests, however slow the machine."""

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = count()

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Inside:
    """Runs functions inside a host's network namespace, one at a time."""

    def __init__(self, network: Network, host: str) -> None:
        self.network, self.host = network, host
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"inside {host}")
        self.call(_enter, network.namespace(host))

    def call(
        self,
        function: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        return self._thread.submit(function, *args, **kwargs).result()

    def run(self, *argv: str) -> str:
        """Run a short command on the host."""
        return self.network.run(self.host, *argv)

    def owner_of(self, vip: str, wait: float = 0.3) -> str | None:
        """MAC that answers for ``vip`` on the host's network, None if nobody does."""

        def probe() -> str | None:
            announcer = Announcer("eth0")
            try:
                return asyncio.run(announcer.probe([vip], wait)).get(vip)
            finally:
                announcer.close()

        return self.call(probe)

    def close(self) -> None:
        self._thread.shutdown()


def _enter(namespace: str) -> None:
    with open(f"/run/netns/{namespace}") as file:
        _demand(_libc.setns(file.fileno(), _CLONE_NEWNET), f"enter {namespace}")


def _demand(failed: int, purpose: str) -> None:
    if failed:
        raise OSError(ctypes.get_errno(), f"cannot {purpose}")


@contextmanager
def away_from_the_host() -> Iterator[None]:
    """Keep the calling thread in an empty network namespace.

    A class of the agent that a test builds outside :meth:`Inside.call` by
    mistake then changes that one, never the machine's own network.
    """
    with open("/proc/thread-self/ns/net") as home:
        _demand(_libc.unshare(_CLONE_NEWNET), "leave the network of this machine")
        try:
            yield
        finally:
            _demand(_libc.setns(home.fileno(), _CLONE_NEWNET), "come back")


class Device(Inside):
    """A host with the data plane and the lease of an agent, but without the agent."""

    def __init__(
        self, network: Network, host: str, interface: str = "eth0", *, flow_marks: bool = True
    ) -> None:
        super().__init__(network, host)
        self.plane = self.call(DataPlane, interface, flow_marks=flow_marks)
        self.call(self.plane.prepare)
        self.lease = self.call(KernelLease, interface)
        self.announcer = self.call(Announcer, interface)

    def reconcile(self, desired: Desired) -> Reconciled:
        return self.call(self.plane.reconcile, desired)

    def take(self, vips: Sequence[str] = VIPS, lease_ns: int = LONG) -> None:
        """Become the VIPs' owner, as a new primary does."""
        self.call(self.lease.acquire, vips, lease_ns)
        self.call(self.announcer.announce, vips)

    def drop(self, vips: Sequence[str] = VIPS) -> None:
        self.call(self.lease.release, vips)

    def close(self) -> None:
        self.plane.close()
        self.lease.close()
        self.announcer.close()
        super().close()


@contextmanager
def hosts(*names: str, servers: Sequence[str] = ()) -> Iterator[Network]:
    """A network with hosts of these names; on ``servers`` the lab's servers run.

    ``a`` has the address 10.77.0.11 and fd77::11, the next one 12, and so on.
    """
    realm = open_realm()
    network = Network(f"k{os.getpid() % 1000000}-{next(_numbers)}", realm)
    with ExitStack() as stack:
        stack.enter_context(away_from_the_host())
        stack.callback(realm.close)
        stack.callback(network.remove)
        network.build([Host(name, number) for number, name in enumerate(names, start=11)])
        running = [(name, stack.enter_context(_server(network, name))) for name in servers]
        for _, server in running:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
        yield network


@contextmanager
def one_host() -> Iterator[Inside]:
    """A namespace alone, and a way to work inside it."""
    with hosts("a") as network, closing(Inside(network, "a")) as inside:
        yield inside


@contextmanager
def _server(network: Network, name: str) -> Iterator[subprocess.Popen[bytes]]:
    argv = network.within(name, [sys.executable, "-m", "halbctl.lab.servers", name])
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, env=python_environment())
    try:
        yield server
    finally:
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()


def virtual_server(
    gateways: Sequence[Gateway], listeners: Sequence[Listener], seed: int = 7
) -> VirtualServer:
    return VirtualServer(
        uid=UID,
        name="web",
        vips=tuple(f"{vip}/{64 if ':' in vip else 24}" for vip in VIPS),
        gateways=tuple(gateways),
        listeners=tuple(listeners),
        seed=seed,
    )


def desired(vs: VirtualServer, vips: Sequence[str] = VIPS, down: Sequence[str] = ()) -> Desired:
    """``vs`` with these addresses, and these gateways down."""
    return Desired((vs,), {vs.uid: tuple(vips)}, frozenset((vs.uid, name) for name in down))


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 5.0) -> None:
    """Wait until ``condition`` holds; fail with ``what`` if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)


def connect(host: str, port: int, timeout: float = 0.5) -> socket.socket:
    """A TCP connection from inside the calling thread's namespace."""
    return socket.create_connection((host, port), timeout)


def asked(host: str, port: int, timeout: float = 0.5, from_port: int = 0) -> bytes:
    """What the UDP server behind ``host`` answers to ``?``; from any port if none is given."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        sock.bind(("", from_port))
        sock.connect((host, port))
        sock.send(b"?")
        return sock.recv(100)
