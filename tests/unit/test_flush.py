"""A planned move waits until the successor's kernel has every flow."""

from __future__ import annotations

from protocol.changes import SetDevice
from protocol.effects import Event, Fitness, Lame, Outcome, Promote, Propose, Stop
from protocol.errors import Refused
from protocol.flows import Flush, Flushed
from protocol.flush import FLUSH_NS, PRESSING_NS
from protocol.ids import DeviceId
from protocol.timing import MILLISECOND, SECOND
from tests.unit.cluster import RDP, Cluster, server

NEVER_NS = 3600 * SECOND


def cluster_of(flush_ns: int, **changes: object) -> tuple[Cluster, DeviceId, DeviceId, DeviceId]:
    """A Site in which the flows of a move take ``flush_ns`` to be told."""
    cluster = Cluster(servers=(server(**changes),)).settled()
    cluster.flush_ns = flush_ns
    first, second, third = (d.id for d in cluster.devices)
    return cluster, first, second, third


def outcome(cluster: Cluster, request: str) -> Outcome | None:
    return next((e for _, _, e in cluster.all_of(Outcome) if e.request == request), None)


def test_the_primary_stays_in_office_until_the_flows_are_told() -> None:
    cluster, first, second, _ = cluster_of(300 * MILLISECOND)
    cluster.give(first, Promote("p", "rdp", "d2"))
    cluster.run(250)
    assert cluster.primary() == first
    assert [(who, e) for _, who, e in cluster.all_of(Flush)] == [(first, Flush(RDP, second))]
    assert outcome(cluster, "p") is None
    cluster.run(150)
    assert cluster.primary() == second
    done = outcome(cluster, "p")
    assert done is not None
    assert done.error is None


def test_a_move_whose_flows_cannot_be_told_is_refused_and_the_primary_goes_on() -> None:
    cluster, first, *_ = cluster_of(NEVER_NS)
    cluster.give(first, Promote("p", "rdp", "d2"))
    cluster.run(FLUSH_NS / MILLISECOND + 100)
    assert cluster.primary() == first
    assert not cluster.all_of(Lame)
    done = outcome(cluster, "p")
    assert done is not None
    assert isinstance(done.error, Refused)
    assert "the successor lacked flows for 2 s: the primary continues" in str(done.error)
    (event,) = [e for _, _, e in cluster.all_of(Event) if e.kind == "handover-aborted"]
    assert event.text == "the successor lacked flows for 2 s"


def test_a_move_whose_successor_is_too_slow_is_refused_and_the_primary_goes_on() -> None:
    cluster, first, second, _ = cluster_of(MILLISECOND)
    cluster.vote_ns[second] = SECOND
    cluster.give(first, Promote("p", "rdp", "d2"))
    cluster.run(1_500)
    assert cluster.primary() == first
    done = outcome(cluster, "p")
    assert done is not None
    assert isinstance(done.error, Refused)
    assert "the successor did not take over in time: the primary continues" in str(done.error)
    (event,) = [e for _, _, e in cluster.all_of(Event) if e.kind == "handover-aborted"]
    assert event.text == "the successor did not take over in time"


def test_a_second_move_meanwhile_is_refused() -> None:
    cluster, first, second, _ = cluster_of(500 * MILLISECOND)
    cluster.give(first, Promote("p", "rdp", "d2"))
    cluster.run(100)
    cluster.give(first, Promote("q", "rdp", "d3"))
    cluster.run(700)
    refused = outcome(cluster, "q")
    assert refused is not None
    assert "another move of it is under way" in str(refused.error)
    assert cluster.primary() == second


def test_a_device_that_stops_hands_over_in_the_end_whatever_its_successor_lacks() -> None:
    cluster, first, *_ = cluster_of(NEVER_NS)
    cluster.give(first, Stop())
    cluster.run(PRESSING_NS / MILLISECOND - 100)
    assert cluster.primary() == first
    cluster.run(300)
    assert cluster.primary() not in (None, first)


def test_a_drained_device_hands_over_once_its_successor_has_the_flows() -> None:
    cluster, first, *_ = cluster_of(200 * MILLISECOND)
    cluster.give(first, Propose("c", SetDevice("d1", drained=True), None, 0))
    cluster.run(150)
    assert cluster.primary() == first
    cluster.run(400)
    assert cluster.primary() not in (None, first)
    assert len(cluster.all_of(Flush)) == 1


def test_preemption_asks_for_the_flows_once() -> None:
    cluster, first, _, _ = cluster_of(MILLISECOND, preempt=5)
    cluster.give(first, Promote("p", "rdp", "d2"))
    cluster.run(500)
    cluster.flush_ns = 900 * MILLISECOND
    before = cluster.now
    cluster.run(7_000)
    assert cluster.primary() == first
    assert len(cluster.all_of(Flush, before)) == 1


def test_flows_told_after_the_primary_lost_its_office_move_nothing() -> None:
    cluster, first, second, _ = cluster_of(NEVER_NS)
    cluster.give(first, Promote("p", "rdp", "d2"))
    cluster.run(100)
    cluster.kill(first)
    cluster.run(1_000)
    primary = cluster.primary()
    assert primary not in (None, first)
    cluster.restart(first)
    cluster.run(1_500)
    cluster.give(first, Flushed(RDP, second))
    cluster.run(500)
    assert cluster.primary() == primary


def test_flows_told_to_another_device_move_nothing() -> None:
    cluster, first, _, third = cluster_of(NEVER_NS)
    cluster.give(first, Promote("p", "rdp", "d2"))
    cluster.run(100)
    cluster.give(first, Flushed(RDP, third))
    cluster.run(100)
    assert cluster.primary() == first


def test_a_device_that_became_unfit_leaves_its_office_in_the_end() -> None:
    cluster, first, *_ = cluster_of(NEVER_NS)
    cluster.give(first, Fitness(((RDP, "interface eth0 has no carrier"),)))
    cluster.run(PRESSING_NS / MILLISECOND + 300)
    assert cluster.primary() not in (None, first)
