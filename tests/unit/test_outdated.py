"""A device whose kernel refused the newest change carries a Virtual Server as it was before."""

from __future__ import annotations

from protocol.effects import Fitness, Outcome, Promote
from protocol.ids import DeviceId
from tests.unit.cluster import RDP, Cluster

REFUSED = "nftables refused: conflicting intervals"


def cluster_of() -> tuple[Cluster, DeviceId, DeviceId, DeviceId]:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    assert cluster.primary() == first
    return cluster, first, second, third


def refuse(cluster: Cluster, *devices: DeviceId) -> None:
    for device in devices:
        cluster.give(device, Fitness(outdated=((RDP, REFUSED),)))
    cluster.run(20_000)


def test_where_another_device_took_the_change_the_primary_hands_over_to_it() -> None:
    cluster, first, second, third = cluster_of()
    refuse(cluster, first, second)
    assert cluster.primary() == third


def test_where_every_kernel_refused_nothing_moves() -> None:
    cluster, first, second, third = cluster_of()
    refuse(cluster, first, second, third)
    assert cluster.primary() == first


def test_where_every_kernel_refused_a_crash_is_survived_all_the_same() -> None:
    cluster, first, second, third = cluster_of()
    refuse(cluster, first, second, third)
    cluster.kill(first)
    cluster.run(2_000)
    assert cluster.primary() == second


def test_a_planned_move_there_is_refused_with_the_reason() -> None:
    cluster, first, second, _ = cluster_of()
    refuse(cluster, second)
    cluster.give(first, Promote("p", "rdp", "d2"))
    cluster.run(500)
    error = cluster.all_of(Outcome)[-1][2].error
    assert error is not None
    assert REFUSED in str(error)
    assert cluster.primary() == first
