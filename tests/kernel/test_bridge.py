"""A bridge as service interface serves, unless its frames meet the rules of IP too soon."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest

from agent import addresses, host_check
from agent.bridge import SETTINGS
from halbctl.lab.namespaces import Network
from halbctl.lab.servers import ECHO
from protocol.objects import Gateway, Listener
from tests.kernel.namespaces import VIP, Device, Inside, connect, desired, hosts, virtual_server

pytestmark = pytest.mark.kernel

WANTED = desired(
    virtual_server(
        [Gateway(name="gw", address="10.77.0.13")],
        [Listener(protocol="tcp", port=ECHO, gateway_port=ECHO)],
    ),
    (VIP,),
)


@pytest.fixture
def network() -> Iterator[Network]:
    """The interface of device ``a`` is a port of its bridge ``br0``."""
    with hosts("a", "client", "gw", servers=["gw"]) as network:
        for line in (
            "address flush dev eth0",
            "link add br0 type bridge forward_delay 0",
            "link set eth0 master br0",
            "link set br0 up",
            "address add 10.77.0.11/24 dev br0",
        ):
            network.run("a", "ip", *line.split())
        yield network


def set_bridges(network: Network, value: int) -> None:
    if subprocess.run(["sysctl", "-n", *SETTINGS], capture_output=True, check=False).returncode:
        pytest.skip("this kernel has no br_netfilter")
    network.run("a", "sysctl", "-qw", *(f"{name}={value}" for name in SETTINGS))


def test_it_serves_where_its_frames_go_their_usual_way(network: Network) -> None:
    set_bridges(network, 0)
    device = Device(network, "a", "br0")
    device.reconcile(WANTED)
    device.take((VIP,))
    assert not device.call(addresses.link, "br0").filters
    with closing(Inside(network, "client").call(connect, VIP, ECHO, 10.0)) as connection:
        connection.sendall(b"hello")
        assert connection.recv(5) == b"hello"
    device.close()


@pytest.mark.parametrize("own", [False, True], ids=["all bridges", "this bridge"])
def test_it_is_named_where_they_meet_the_rules_of_ip_too_soon(network: Network, own: bool) -> None:
    set_bridges(network, 0 if own else 1)
    if own:
        network.run("a", "ip", "link", "set", "br0", "type", "bridge", "nf_call_iptables", "1")
    device = Inside(network, "a")
    assert device.call(addresses.link, "br0").filters
    assert not device.call(addresses.link, "eth0").filters
    [finding] = device.call(lambda: list(host_check.service_interface("br0")))
    assert finding.state == "problem"
    assert all(name in finding.remedy for name in SETTINGS)
