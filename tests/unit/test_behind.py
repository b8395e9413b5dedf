"""A device that lacks flows of the primary: no planned move goes to it, others go before it."""

from __future__ import annotations

from protocol.effects import Outcome, Promote, Stop
from protocol.flows import Behind
from protocol.ids import DeviceId
from tests.unit.cluster import RDP, Cluster, server

LACKS = "is still being told the flows of the primary"


def cluster_of(**changes: object) -> tuple[Cluster, DeviceId, DeviceId, DeviceId]:
    cluster = Cluster(servers=(server(**changes),)).settled()
    first, second, third = (d.id for d in cluster.devices)
    return cluster, first, second, third


def lacks_flows(cluster: Cluster, *devices: DeviceId) -> None:
    for device in cluster.devices:
        lacking = device.id in devices
        cluster.give(device.id, Behind(((RDP, LACKS),) if lacking else ()))
    cluster.run(200)


def promote(cluster: Cluster, to: str | None) -> Outcome:
    cluster.give(cluster.devices[0].id, Promote(f"p{cluster.now}", "rdp", to))
    cluster.run(500)
    return cluster.all_of(Outcome)[-1][2]


def test_a_promote_to_it_is_refused_with_the_reason() -> None:
    cluster, first, second, _ = cluster_of()
    lacks_flows(cluster, second)
    error = promote(cluster, "d2").error
    assert error is not None
    assert LACKS in str(error)
    assert cluster.primary() == first
    lacks_flows(cluster)
    assert promote(cluster, "d2").error is None
    assert cluster.primary() == second


def test_a_promote_that_names_nobody_passes_it_over() -> None:
    cluster, _, second, third = cluster_of()
    lacks_flows(cluster, second)
    promote(cluster, None)
    assert cluster.primary() == third


def test_preemption_waits_for_it() -> None:
    cluster, first, second, _ = cluster_of(preempt=5)
    promote(cluster, "d2")
    lacks_flows(cluster, first)
    cluster.run(60_000)
    assert cluster.primary() == second
    lacks_flows(cluster)
    cluster.run(10_000)
    assert cluster.primary() == first


def test_a_device_that_stops_hands_over_to_it_when_there_is_no_other() -> None:
    cluster, first, second, third = cluster_of()
    lacks_flows(cluster, second, third)
    cluster.give(first, Stop())
    cluster.run(1_000)
    assert cluster.primary() == second


def test_after_a_crash_a_device_that_has_the_flows_goes_before_it() -> None:
    cluster, first, second, third = cluster_of()
    lacks_flows(cluster, second)
    cluster.kill(first)
    cluster.run(2_000)
    assert cluster.primary() == third


def test_where_all_lack_flows_somebody_takes_over_all_the_same() -> None:
    cluster, first, second, third = cluster_of()
    lacks_flows(cluster, second, third)
    cluster.kill(first)
    cluster.run(2_000)
    assert cluster.primary() == second
