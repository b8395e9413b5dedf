"""The addresses of a host as the kernel lists them, also while it has others taken away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from agent import addresses, netlink
from agent.ruleset import Desired
from tests.kernel.namespaces import VIP, Device, Inside, desired, hosts, virtual_server

pytestmark = pytest.mark.kernel

FIRST = [f"10.77.1.{n}" for n in range(1, 51)]
OTHERS = [f"10.77.{net}.{n}" for net in range(2, 6) for n in range(1, 201)]


def test_addresses_that_stay_are_listed_while_others_are_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    messages = netlink.messages
    left = list(FIRST)

    def meanwhile(data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Between the first part of the list and the others."""
        now, left[:] = left[:], []
        for vip in now:
            addresses.remove("eth0", vip)
        return messages(data)

    def look() -> set[str]:
        for vip in (*FIRST, *OTHERS):
            addresses.add("eth0", vip)
        monkeypatch.setattr("agent.netlink.messages", meanwhile)
        return {vip for _, vip in addresses.ours()}

    with hosts("a") as network:
        host = Inside(network, "a")
        missing = set(OTHERS) - host.call(look)
        assert not missing
        host.close()


@pytest.mark.parametrize("was", [("10.77.0.11/24",), ("10.77.0.11/24", "169.254.7.7/16")])
def test_a_host_whose_address_was_given_anew_does_not_speak_from_a_vip(
    was: tuple[str, ...],
) -> None:
    """As after `ifdown` and `ifup`, or where DHCP answers after the agent has started."""
    with hosts("a") as network, closing(Device(network, "a")) as device:
        wanted = desired(virtual_server([], []))
        device.reconcile(wanted)
        assert spoken_from(device) == "10.77.0.11"
        device.run("ip", "address", "delete", "10.77.0.11/24", "dev", "eth0")
        for address in was:
            scope = "link" if address.startswith("169") else "global"
            device.run("ip", "address", "add", address, "dev", "eth0", "scope", scope)
        assert spoken_from(device) == VIP
        done = device.reconcile(wanted)
        assert done.changed == (f"{VIP} put behind the own addresses of eth0",)
        assert not done.drift
        assert spoken_from(device) == "10.77.0.11"
        assert not device.reconcile(wanted).changed
        device.run("ip", "address", "add", "10.88.0.11/24", "dev", "eth0")
        assert not device.reconcile(wanted).changed
        device.reconcile(Desired())


def spoken_from(device: Device) -> str:
    """Where the host sends from by a router outside its networks, as nothing tells."""
    device.run(
        *("ip", "route", "replace", "192.0.2.0/24", "via", "203.0.113.1", "dev", "eth0", "onlink")
    )
    words = device.run("ip", "route", "get", "192.0.2.1").split()
    return words[words.index("src") + 1]
