"""Which way the gate looks, and that nothing begins behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from halbctl.lab.servers import ECHO
from protocol.objects import Gateway, Listener, VirtualServer
from tests.kernel.namespaces import (
    VIP,
    VIPS,
    Device,
    Inside,
    asked,
    desired,
    hosts,
    virtual_server,
)

pytestmark = pytest.mark.kernel

GATEWAYS = [Gateway(name="gw1", address="10.77.0.13"), Gateway(name="gw2", address="fd77::13")]
LISTENERS = [Listener(protocol="udp", port=ECHO, gateway_port=ECHO)]
SERVER = virtual_server(GATEWAYS, LISTENERS)
NEAR = desired(SERVER)
ELSEWHERE = Gateway(name="gw3", address="10.99.0.13")


@pytest.fixture
def device() -> Iterator[Device]:
    with hosts("a", "client", "gw1", servers=["gw1"]) as network:
        device = Device(network, "a")
        device.reconcile(NEAR)
        yield device
        device.close()


def looks_inward(device: Device) -> bool:
    return "chain ingress" in device.run("nft", "list", "table", "netdev", "halb_lease")


def as_ever(device: Device) -> bool:
    """Whether the next pass finds nothing to do."""
    again = device.reconcile(NEAR)
    return not again.changed and not again.drift


@pytest.mark.parametrize("vip", VIPS)
def test_without_a_lease_a_datagram_leaves_no_entry_behind(device: Device, vip: str) -> None:
    """It would be in the way of the primary's, and a gateway would seem not to answer."""
    client = Inside(device.network, "client")
    mac = device.run("cat", "/sys/class/net/eth0/address").strip()
    client.run("ip", "neighbour", "replace", vip, "lladdr", mac, "dev", "eth0")
    family = "ipv6" if ":" in vip else "ipv4"

    def entries() -> str:
        return device.run("conntrack", "-L", "-f", family, "--orig-dst", vip)

    with pytest.raises(TimeoutError):
        client.call(asked, vip, ECHO, 0.2)
    assert not entries()
    device.take()
    assert client.call(asked, vip, ECHO, 3.0)
    assert entries()
    client.close()


@pytest.mark.parametrize(
    "change",
    [
        {"gateways": (*GATEWAYS, ELSEWHERE)},
        {"virtual_mac": "02:00:5e:00:01:07"},
        {"forwarding": "dsr"},
        {"forwarding": "routed", "inner_vips": ("10.77.0.101/24",)},
    ],
    ids=lambda change: next(iter(change)) + str(change.get("forwarding", "")),
)
def test_what_comes_in_is_looked_at_where_something_could_get_past(
    device: Device, change: dict[str, Any]
) -> None:
    device.take()
    assert not looks_inward(device)
    for server, expected in ((replace(SERVER, **change), True), (SERVER, False)):
        device.reconcile(desired(server))
        assert looks_inward(device) is expected
        again = device.reconcile(desired(server))
        assert not again.changed
        assert not again.drift
    assert set(device.call(device.lease.held).accepted) == set(VIPS)


def test_it_is_looked_at_as_long_as_one_virtual_server_needs_it(device: Device) -> None:
    other = VirtualServer(**{
        **{name: getattr(SERVER, name) for name in SERVER.__struct_fields__},
        "uid": "00000000000000ff", "name": "other", "gateways": (ELSEWHERE,),
    })  # fmt: skip
    both = desired(SERVER)
    wanted = type(both)(
        (SERVER, other), {**both.vips, other.uid: ("10.77.0.105",)}, both.down, both.moment
    )
    device.reconcile(wanted)
    assert looks_inward(device)
    device.reconcile(NEAR)
    assert not looks_inward(device)
    assert as_ever(device)


def test_an_interface_that_leaves_the_gateways_network_is_looked_at_both_ways(
    device: Device,
) -> None:
    device.run("ip", "address", "del", "10.77.0.11/24", "dev", "eth0")
    device.run("ip", "address", "add", "10.77.1.11/24", "dev", "eth0")
    device.reconcile(NEAR)
    assert looks_inward(device)
    device.run("ip", "address", "add", "10.77.0.11/24", "dev", "eth0")
    device.reconcile(NEAR)
    assert not looks_inward(device)


def test_an_agent_that_starts_looks_both_ways_until_it_knows(device: Device) -> None:
    device.close()
    heir = Device(device.network, "a")
    assert looks_inward(heir)
    heir.reconcile(NEAR)
    assert not looks_inward(heir)
    assert VIP in heir.run("nft", "list", "set", "inet", "halb_lease", "vips")
    heir.close()
