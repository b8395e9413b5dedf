"""What holds in each mode of forwarding alike, on hosts that filter strictly by reverse path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest
from msgspec.structs import replace as replaced

from halbctl.lab.servers import ECHO
from protocol.objects import Listener
from tests.kernel.modes import MODES, NAMES, Farm, built_farm
from tests.kernel.namespaces import VIP, VIP6, VIPS, asked, connect

pytestmark = [pytest.mark.kernel, pytest.mark.parametrize("mode", ["snat", *MODES])]

SEVERAL = (VIP, "10.77.0.102", VIP6, "fd77::102")
ALL_PORTS = [Listener(protocol=p, port=1, last_port=65535, gateway_port=1) for p in ("tcp", "udp")]
FLOWS = 4
FIRST_PORT = 50_000


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    """As many distributions set it up."""
    with built_farm() as built:
        filtering = (f"net.ipv4.conf.{where}.rp_filter=1" for where in ("all", "eth0"))
        settings = tuple(filtering)
        for host in ("a", "b", "client", *NAMES):
            built.network.run(host, "sysctl", "-qw", *settings)
        yield built


def serves_and_outlives_a_takeover(farm: Farm, vips: Sequence[str]) -> None:
    """Connections and flows of datagrams to each VIP stay with their gateways."""
    asking = [(vip, FIRST_PORT + number) for vip in vips for number in range(FLOWS)]

    def answering() -> list[str]:
        return [
            farm.client.call(asked, vip, ECHO, 1.0, port).decode().split()[0]
            for vip, port in asking
        ]

    with ExitStack() as stack:
        socks = [
            stack.enter_context(farm.client.call(connect, vip, ECHO, 1.0))
            for vip in vips
            for _ in range(FLOWS)
        ]

        def echoed(data: bytes) -> list[bytes]:
            for sock in socks:
                sock.sendall(data)
            return [sock.recv(100) for sock in socks]

        assert echoed(b"before") == [b"before"] * len(socks)
        before = answering()
        assert set(before) == set(NAMES)
        farm.a.drop(farm.leased)
        farm.b.take(farm.leased)
        assert echoed(b"after") == [b"after"] * len(socks)
        assert answering() == before
    farm.b.drop(farm.leased)


def test_clients_and_processes_of_devices_are_served_where_reverse_paths_are_filtered(
    farm: Farm, mode: str
) -> None:
    farm.use(mode)
    for device in (farm.a, farm.b):
        for vip in VIPS:
            assert device.call(asked, vip, ECHO, 1.0).decode().split()[0] in NAMES
            device.call(connect, vip, ECHO, 1.0).close()
    serves_and_outlives_a_takeover(farm, VIPS)


def test_each_of_several_vips_of_an_ip_version_is_served(farm: Farm, mode: str) -> None:
    farm.use(mode, vips=SEVERAL)
    serves_and_outlives_a_takeover(farm, SEVERAL)


def test_all_ports_of_both_protocols_are_served(farm: Farm, mode: str) -> None:
    limits = {"client_connections": 1000} if mode == "known" else {}
    farm.use(mode, *(replaced(each, **limits) for each in ALL_PORTS))
    serves_and_outlives_a_takeover(farm, VIPS)
