"""Nobody is answered for a VIP while others have flushed all rules, and so nobody is reset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent import backstop, netlink
from agent.backstop import LOOK_S, Backstop
from agent.ruleset import Desired
from halbctl.lab.namespaces import Network
from halbctl.lab.servers import BANNER, ECHO, PUSH
from protocol.objects import Gateway, Listener
from tests.kernel.namespaces import (
    VIP,
    VIP6,
    VIPS,
    Device,
    Inside,
    asked,
    connect,
    desired,
    hosts,
    virtual_server,
    wait_until,
)

pytestmark = pytest.mark.kernel

LISTENERS = [
    *(Listener(protocol="tcp", port=port, gateway_port=port) for port in (ECHO, BANNER, PUSH)),
    Listener(protocol="udp", port=ECHO, gateway_port=ECHO),
]
PATIENCE_S = 20.0


def gateways(number: int) -> list[Gateway]:
    return [
        Gateway(name="gw-4", address=f"10.77.0.{number}"),
        Gateway(name="gw-6", address=f"fd77::{number}"),
    ]


WANTED = desired(virtual_server(gateways(13), LISTENERS))
NONE = Desired()


@pytest.fixture
def network() -> Iterator[Network]:
    with hosts("a", "client", "gw1", servers=["a", "gw1"]) as built:
        yield built


@pytest.fixture
def device(network: Network) -> Iterator[Device]:
    with closing(Device(network, "a")) as device:
        yield device


@pytest.fixture
def client(network: Network) -> Iterator[Inside]:
    with closing(Inside(network, "client")) as client:
        yield client


def policies(device: Device) -> set[str]:
    """Destination and protocol of each policy of the host."""
    lines = device.run("ip", "xfrm", "policy").splitlines()
    return {line.removeprefix("src ").strip() for line in lines if line.startswith("src ")}


OURS = {
    f"{anywhere} dst {vip} proto {protocol}"
    for anywhere, vip in (("0.0.0.0/0", f"{VIP}/32"), ("::/0", f"{VIP6}/128"))
    for protocol in ("tcp", "udp")
}


def blocked(device: Device) -> int:
    """Packets that a policy has blocked so far."""
    return device.call(_blocked)


def _blocked() -> int:
    counters = Path("/proc/thread-self/net/xfrm_stat").read_text().splitlines()
    return int(next(line for line in counters if line.startswith("XfrmInPolBlock")).split()[1])


@pytest.mark.parametrize("vip", VIPS)
def test_neither_client_nor_gateway_is_reset_while_there_are_no_rules(
    device: Device, client: Inside, vip: str
) -> None:
    device.reconcile(WANTED)
    device.take()
    with (
        client.call(connect, vip, ECHO, PATIENCE_S) as asks,
        client.call(connect, vip, PUSH, PATIENCE_S) as listens,
    ):
        assert listens.recv(1)
        device.run("nft", "flush", "ruleset")
        before = blocked(device)
        wait_until(lambda: blocked(device) > before, "the gateway has spoken")
        before = blocked(device)
        asks.sendall(b"hello")
        wait_until(lambda: blocked(device) > before, "the client has spoken")
        assert device.reconcile(WANTED).lease_lost
        device.take()
        assert asks.recv(100) == b"hello"
        assert listens.recv(1 << 16), "what had come before"
        assert listens.recv(1), "the gateway still speaks"


def test_only_what_is_delivered_for_a_vip_is_blocked(device: Device, client: Inside) -> None:
    device.reconcile(WANTED)
    device.take()
    assert client.call(asked, "10.77.0.11", ECHO)
    assert client.call(asked, VIP, ECHO)
    assert not blocked(device)


def test_policies_come_and_go_with_the_vips_and_those_of_others_stay(device: Device) -> None:
    others = ["src", "0.0.0.0/0", "dst", f"{VIP}/32", "dir", "fwd"]
    device.run("ip", "xfrm", "policy", "add", *others)
    before = policies(device)
    device.reconcile(WANTED)
    assert policies(device) == before | OURS
    device.reconcile(desired(WANTED.virtual_servers[0], [VIP6]))
    assert policies(device) - before == {each for each in OURS if VIP6 in each}
    device.call(device.plane.remove)
    assert policies(device) == before


def test_a_policy_that_the_host_has_for_just_the_same_stays_and_the_vip_is_served(
    device: Device, client: Inside
) -> None:
    """The kernel keeps no two with one selector, whatever their priorities."""
    theirs = ["src", "0.0.0.0/0", "dst", f"{VIP}/32", "proto", "tcp", "dir", "in", "priority", "9"]
    device.run("ip", "xfrm", "policy", "add", *theirs)
    before = device.run("ip", "xfrm", "policy")
    assert not device.reconcile(WANTED).unfit
    device.take()
    assert client.call(asked, VIP, ECHO)
    assert policies(device) == OURS
    device.call(device.plane.remove)
    assert device.run("ip", "xfrm", "policy") == before


def test_vips_are_served_where_the_kernel_refuses_the_policies(
    device: Device,
    client: Inside,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(backstop, "_BLOCK", 7)  # no action that there is
    assert not device.reconcile(WANTED).unfit
    assert "the kernel refused to change IPsec policies: Invalid argument" in caplog.text
    device.take()
    assert client.call(asked, VIP, ECHO)


def test_those_that_others_remove_are_put_back(device: Device) -> None:
    now = [1000.0]
    kept = Backstop(lambda: now[0])
    device.call(kept.reconcile, WANTED)
    device.run("ip", "xfrm", "policy", "flush")
    now[0] += LOOK_S - 1
    device.call(kept.reconcile, WANTED)
    assert not policies(device)
    now[0] += 2
    device.call(kept.reconcile, WANTED)
    assert policies(device) == OURS


def test_a_killed_agents_are_removed(device: Device) -> None:
    device.call(Backstop(lambda: 0.0).reconcile, WANTED)
    assert policies(device) == OURS
    device.call(Backstop(lambda: 0.0).remove)
    assert not policies(device)


@pytest.mark.parametrize("vip", VIPS)
def test_a_gateway_on_the_device_itself_is_served(device: Device, client: Inside, vip: str) -> None:
    near = desired(virtual_server(gateways(11), LISTENERS))
    device.reconcile(near)
    device.take()
    with client.call(connect, vip, BANNER, PATIENCE_S) as sock:
        assert sock.recv(100) == b"a\n"
    assert not policies(device)


def test_a_kernel_without_such_policies_serves_without_them(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(netlink, "XFRM", 31)
        device.call(device.plane.prepare)
        [lack] = device.plane.lacks
        assert str(lack).startswith("silence while others flush all rules is off: ")
        assert str(lack).endswith("not supported; what comes for a VIP then is reset")
        assert not device.reconcile(WANTED).unfit
        device.call(device.plane.remove)
    assert not policies(device)
