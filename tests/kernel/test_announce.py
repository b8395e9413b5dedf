"""Asking who owns a VIP, and being told when the kernel changes."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest

from agent.addresses import InterfaceMissing
from agent.announce import Announcer
from agent.dataplane import DataPlane, Desired, Reconciled
from agent.kernel import Kernel
from agent.watch import KernelWatch
from protocol.errors import HalbError
from protocol.ids import Revision
from protocol.objects import Listener
from tests.kernel.namespaces import VIPS, Device, Inside, desired, hosts, virtual_server

pytestmark = pytest.mark.kernel

WANTED = desired(virtual_server([], [Listener(protocol="tcp", port=80, gateway_port=80)]))
MAC_A = "02:48:41:4c:42:0b"


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Device, Inside]]:
    with hosts("a", "client") as network:
        device, client = Device(network, "a"), Inside(network, "client")
        yield device, client
        device.close()
        client.close()


@pytest.mark.parametrize("address", ["10.77.0.11", "fd77::11"])
def test_a_probe_names_the_owner(pair: tuple[Device, Inside], address: str) -> None:
    began = time.monotonic()
    assert pair[1].owner_of(address, wait=2.0) == MAC_A
    assert time.monotonic() - began < 1.0, "the first answer ends it"


@pytest.mark.parametrize("address", ["10.77.0.77", "fd77::77"])
def test_a_probe_without_an_answer_ends_in_time(pair: tuple[Device, Inside], address: str) -> None:
    began = time.monotonic()
    assert pair[1].owner_of(address, wait=0.2) is None
    assert 0.2 <= time.monotonic() - began < 0.6


@pytest.mark.parametrize("vip", VIPS)
def test_the_device_itself_does_not_count(pair: tuple[Device, Inside], vip: str) -> None:
    device, _ = pair
    device.reconcile(WANTED)
    device.take()
    assert device.owner_of(vip, wait=0.1) is None
    device.drop()


def test_an_interface_that_is_missing_or_down_is_named(pair: tuple[Device, Inside]) -> None:
    _, client = pair
    client.run("ip", "link", "set", "eth0", "down")
    announcer = client.call(Announcer, "eth0")
    with pytest.raises(HalbError, match="ip link set eth0 up"):
        client.call(announcer.announce, VIPS)
    for vip in VIPS:
        with pytest.raises(HalbError, match="ip link set eth0 up"):
            client.owner_of(vip)
    announcer.close()
    client.run("ip", "link", "set", "eth0", "up")
    announcer = client.call(Announcer, "eth9")
    with pytest.raises(InterfaceMissing, match="eth9"):
        client.call(announcer.announce, VIPS)
    announcer.close()


async def _told_within(act: Callable[[], object], seconds: float) -> float | None:
    """Seconds from the end of ``act`` until the watch says so; None if it does not."""
    told = asyncio.Event()
    watch = KernelWatch("eth0", told.set)
    try:
        await asyncio.to_thread(act)
        began = time.monotonic()
        await asyncio.wait_for(told.wait(), seconds)
    except TimeoutError:
        return None
    else:
        return time.monotonic() - began
    finally:
        watch.close()


@pytest.mark.parametrize(
    "change",
    [
        "nft flush ruleset",
        "nft flush chain netdev halb_lease egress",
        "nft delete table inet halb",
        "ip link set eth0 down",
        "ip address del 10.77.0.100/32 dev eth0",
        "sysctl -qw net.ipv4.ip_forward=0",
        "sysctl -qw net.ipv4.conf.eth0.forwarding=0",
        "sysctl -qw net.ipv6.conf.all.forwarding=0",
    ],
)
def test_the_watch_tells_of_what_concerns_us(pair: tuple[Device, Inside], change: str) -> None:
    device, _ = pair
    device.reconcile(WANTED)

    def told() -> float | None:
        return asyncio.run(_told_within(lambda: device.run(*change.split()), 2.0))

    delay = device.call(told)
    device.run("ip", "link", "set", "eth0", "up")
    assert delay is not None
    assert delay < 0.5


def test_the_watch_tells_of_another_name_of_the_interface(pair: tuple[Device, Inside]) -> None:
    device, _ = pair
    device.run("ip", "link", "set", "eth0", "down")

    def told() -> float | None:
        rename = ["ip", "link", "set", "eth0", "name", "eth9"]
        return asyncio.run(_told_within(lambda: device.run(*rename), 2.0))

    delay = device.call(told)
    device.run("ip", "link", "set", "eth9", "name", "eth0")
    device.run("ip", "link", "set", "eth0", "up")
    assert delay is not None
    assert delay < 0.5


def test_the_watch_hears_nothing_while_it_is_deaf(pair: tuple[Device, Inside]) -> None:
    device, _ = pair
    device.reconcile(WANTED)

    async def told() -> list[bool]:
        found = []
        heard = asyncio.Event()
        watch = KernelWatch("eth0", heard.set)
        for how, chain in ((watch.deaf, "guard"), (nullcontext, "source")):
            with how():
                command = ("nft", "flush", "chain", "inet", "halb", chain)
                await asyncio.to_thread(device.run, *command)
            # The kernel has told all listeners by now, and the loop reads before it sleeps.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            found.append(heard.is_set())
        watch.close()
        return found

    assert device.call(asyncio.run, told()) == [False, True]


async def keep_up(plane: DataPlane, is_over: Callable[[Reconciled | None, str], bool]) -> None:
    """Keep the kernel as wanted, until what became of a pass says that it is over."""
    over = asyncio.Event()

    def on_pass(_: Desired, __: Revision, done: Reconciled | None, error: str) -> None:
        if is_over(done, error):
            over.set()

    kernel = Kernel(plane, on_pass, lambda: None)
    await kernel.start()
    kernel.want(WANTED, Revision())
    await asyncio.wait_for(over.wait(), 30.0)
    await kernel.close()


def test_upkeep_goes_on_after_a_pass_that_failed(
    pair: tuple[Device, Inside], monkeypatch: pytest.MonkeyPatch
) -> None:
    device, _ = pair
    monkeypatch.setattr("agent.kernel.PASS_S", 0.05)
    errors: list[str] = []

    class Exhausted(DataPlane):
        """For a moment no file can be opened."""

        def reconcile(self, desired: Desired) -> Reconciled:
            if not errors:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return super().reconcile(desired)

    def is_over(done: Reconciled | None, error: str) -> bool:
        errors.append(error)
        return done is not None

    device.call(lambda: asyncio.run(keep_up(Exhausted("eth0"), is_over)))
    assert "Too many open files" in errors[0]
    assert not errors[1]


def test_what_others_do_while_the_watch_is_deaf_is_mended_at_once(
    pair: tuple[Device, Inside], monkeypatch: pytest.MonkeyPatch
) -> None:
    device, _ = pair
    monkeypatch.setattr("agent.kernel.PASS_S", 3600.0)
    passes: list[Reconciled | None] = []

    class Disturbed(DataPlane):
        """Somebody removes all rules while the first pass runs."""

        def reconcile(self, desired: Desired) -> Reconciled:
            done = super().reconcile(desired)
            if not passes:
                device.network.run("a", "nft", "flush", "ruleset")
            return done

    def is_mended(done: Reconciled | None, error: str) -> bool:
        assert not error
        passes.append(done)
        return done is not None and bool(done.drift)

    device.call(lambda: asyncio.run(keep_up(Disturbed("eth0"), is_mended)))
    assert "table inet halb\n" in device.run("nft", "list", "tables")


def test_the_watch_is_silent_about_leases_and_foreign_rules(pair: tuple[Device, Inside]) -> None:
    device, client = pair
    device.reconcile(WANTED)

    def busy() -> None:
        device.run("nft", "add element netdev halb_lease announced { 10.77.0.100 timeout 9s }")
        device.run("nft", "delete element netdev halb_lease announced { 10.77.0.100 }")
        device.run("nft", "add table inet other; delete table inet other")

    assert device.call(lambda: asyncio.run(_told_within(busy, 0.2))) is None
    device.reconcile(Desired())
    assert client.owner_of(VIPS[0], 0.05) is None
