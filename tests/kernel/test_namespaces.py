"""The tests' own promise: whatever they do, this machine's network is not touched."""

from __future__ import annotations

import socket

import pytest

from tests.kernel.namespaces import Inside, away_from_the_host, hosts

pytestmark = pytest.mark.kernel


def interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def test_a_test_with_hosts_does_not_see_the_network_of_this_machine() -> None:
    before = interfaces()
    with hosts("a") as network:
        assert interfaces() == {"lo"}
        inside = Inside(network, "a")
        assert inside.call(interfaces) == {"lo", "eth0"}
        inside.close()
    assert interfaces() == before


def test_it_comes_back_after_an_error() -> None:
    before = interfaces()
    with pytest.raises(ZeroDivisionError), away_from_the_host():
        _ = 1 / 0
    assert interfaces() == before
