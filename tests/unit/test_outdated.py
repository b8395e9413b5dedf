"""A device that carries a Virtual Server worse than others: as it was before a change that its
kernel refused, or without a way back to distant clients."""

from __future__ import annotations

from protocol.changes import SetDevice
from protocol.effects import Event, Fitness, Outcome, Promote, Propose
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
    assert f"has been better placed for 6 s than this one: {REFUSED}" in {
        event.text for _, _, event in cluster.all_of(Event)
    }


def test_what_passes_within_seconds_moves_nothing() -> None:
    cluster, first, _, _ = cluster_of()
    for _ in range(3):
        cluster.give(first, Fitness(outdated=((RDP, REFUSED),)))
        cluster.run(5_000)
        cluster.give(first, Fitness())
        cluster.run(3_000)
    assert cluster.primary() == first


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


def test_where_every_device_is_worse_a_drain_moves_it_all_the_same() -> None:
    cluster, first, second, third = cluster_of()
    refuse(cluster, first, second, third)
    cluster.give(first, Propose("d", SetDevice("d1", drained=True), None, 0))
    cluster.run(6_000)
    assert cluster.primary() == second


def test_the_primary_says_what_others_do_better() -> None:
    cluster, first, second, third = cluster_of()
    refuse(cluster, first, second, third)
    report = cluster.nodes[first].report(RDP, cluster.now)
    assert report is not None
    assert dict(report.refusals) == dict.fromkeys((first, second, third), REFUSED)
