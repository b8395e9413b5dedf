"""A service interface that somebody renames: VIPs go where the gate is, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.addresses import InterfaceMissing
from agent.dataplane import DataPlane
from protocol.objects import Listener
from tests.kernel.namespaces import VIP, VIPS, Device, Inside, desired, hosts, virtual_server

pytestmark = pytest.mark.kernel

WANTED = desired(virtual_server([], [Listener(protocol="tcp", port=80, gateway_port=80)]))


@pytest.fixture
def place() -> Iterator[tuple[Device, Inside]]:
    with hosts("a", "client") as network:
        device, client = Device(network, "a"), Inside(network, "client")
        device.reconcile(WANTED)
        yield device, client
        device.close()
        client.close()


def rename(device: Device, old: str, new: str) -> None:
    for line in (f"set {old} down", f"set {old} name {new}", f"set {new} up"):
        device.run("ip", "link", *line.split())


def test_an_interface_that_gets_another_name_keeps_no_vip(
    place: tuple[Device, Inside],
) -> None:
    """The gate hangs on the name, so nothing would keep a device without a lease from answering."""
    device, client = place
    rename(device, "eth0", "eth9")
    with pytest.raises(InterfaceMissing, match="there are: eth9"):
        device.reconcile(WANTED)
    for vip in VIPS:
        assert client.owner_of(vip, 0.1) is None
    rename(device, "eth9", "eth0")
    assert device.reconcile(WANTED).drift == ()
    assert client.owner_of(VIP, 0.1) is None
    device.take()
    assert client.owner_of(VIP) is not None


def test_an_interface_whose_name_another_one_has_got_keeps_no_vip(
    place: tuple[Device, Inside],
) -> None:
    device, _ = place
    device.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "other")
    rename(device, "eth0", "eth9")
    rename(device, "eth1", "eth0")
    assert device.reconcile(WANTED).lease_lost
    assert VIP not in device.run("ip", "address", "show", "dev", "eth9")
    assert VIP in device.run("ip", "address", "show", "dev", "eth0")


def test_what_a_killed_agent_left_on_a_renamed_interface_goes_although_nothing_can_start(
    place: tuple[Device, Inside],
) -> None:
    device, _ = place
    rename(device, "eth0", "eth9")
    with pytest.raises(InterfaceMissing):
        device.call(lambda: DataPlane("eth0").prepare())
    assert VIP not in device.run("ip", "address")
