"""``scripts/bench failover`` measures what it says, in the modes in which gateways see clients."""

from __future__ import annotations

import pytest

from halbctl.lab.failover import Course, failover
from tests.kernel.sites import new_name

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


@pytest.mark.parametrize("mode", ["routed-memoryless", "dsr"])
def test_connections_of_all_clients_are_held_in_a_mode(mode: str) -> None:
    found = failover(Course.of(1, "ports,ipv6,udp", "promote", mode), new_name())
    (row,) = found["events"]
    assert (row["mode"], row["event"], row["two_owners_ms"]["max"]) == (mode, "promote", 0)
    assert [kind["survivors"]["min"] for kind in row["kinds"].values()] == [200] * 3
    assert found["exempt"] == []
