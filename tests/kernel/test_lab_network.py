"""The switch of the lab: cuts hit exactly the two hosts that they name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from halbctl.lab.lifecycle import down, labs
from halbctl.lab.namespaces import INTERFACE, SWITCH, Host, Network, namespaces_of_this_host
from halbctl.lab.probes import Probe
from halbctl.lab.processes import Service
from halbctl.lab.realm import open_realm, state_root
from protocol.errors import InvalidInput, Refused

pytestmark = pytest.mark.kernel

A, B, OBSERVER = Host("a", 11), Host("b", 12), Host("observer", 202)


@pytest.fixture
def network() -> Iterator[Network]:
    realm = open_realm()
    network = Network(f"n{os.getpid()}", realm)
    try:
        network.build([A, B, OBSERVER])
        yield network
    finally:
        network.remove()
        realm.close()


def reached(network: Network) -> set[str]:
    """Which of a and b answer the observer within a third of a second."""
    with closing(Probe(network, "observer", "owners", INTERFACE, A.ipv4, B.ipv4)) as probe:
        probe.begin()
        time.sleep(0.3)
        vips = probe.end()["vips"]
    return {host.name for host in (A, B) if vips[host.ipv4]["owners"]}


def test_a_cut_separates_two_hosts_and_nobody_else(network: Network) -> None:
    assert reached(network) == {"a", "b"}
    network.cut("a", "observer")
    assert reached(network) == {"b"}
    assert network.cuts() == {("a", "observer"), ("observer", "a")}
    network.heal("a", "observer")
    network.heal("a", "b")  # was never cut: no error
    assert reached(network) == {"a", "b"}


def test_an_unplugged_host_loses_its_carrier_and_keeps_its_addresses(network: Network) -> None:
    network.unplug("b")
    assert reached(network) == {"a"}
    assert network.unplugged() == {"b"}
    assert "NO-CARRIER" in network.run("b", "ip", "address", "show", INTERFACE)
    assert B.ipv6 in network.run("b", "ip", "address", "show", INTERFACE)
    network.plug("b")
    assert reached(network) == {"a", "b"}


def test_removing_leaves_no_namespace_and_may_be_repeated(network: Network) -> None:
    assert network.namespace(SWITCH) in network.existing()
    network.remove()
    assert network.existing() == []
    network.remove()


def test_down_clears_a_half_made_lab_and_its_processes(network: Network) -> None:
    if os.geteuid() != 0:
        pytest.skip("an ordinary user's namespaces end with their holder")
    folder = state_root() / network.lab / "a"
    folder.mkdir(parents=True)
    sleeper = Service("agent", folder)
    sleeper.start(network.within("a", ["sleep", "1000"]), dict(os.environ))
    sleeper.signal(signal.SIGSTOP)
    deadline = time.monotonic() + 5
    while sleeper.state != "stopped":
        assert time.monotonic() < deadline
    assert network.lab in labs()
    assert down(network.lab)
    assert sleeper.state == "ended"
    assert not folder.exists()
    assert not any(network.lab in name for name in namespaces_of_this_host())
    assert not down(network.lab)


@pytest.mark.parametrize("name", ["", "Lab", "a.b", "../x", "x" * 13, "-x"])
def test_a_name_that_cannot_name_a_lab_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot name a lab"):
        down(name)


def test_a_failing_command_says_what_failed(network: Network) -> None:
    with pytest.raises(Refused, match="no-such-device"):
        network.run("a", "ip", "link", "set", "no-such-device", "up")
