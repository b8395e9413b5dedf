"""Devices that miss each other: who asks whom, who is believed, who comes back."""

from __future__ import annotations

from protocol.effects import Connect, Event, Resume, Stop
from protocol.hearsay import Copy, Fetch, ProbeFor, Sync
from protocol.ids import DeviceId
from protocol.messages import News
from protocol.timing import SECOND
from protocol.view import PeerState, PeerView
from tests.unit.cluster import Cluster

A, B, C = (DeviceId(f"{n:016x}") for n in (1, 2, 3))
EXTRA = (News, ProbeFor, Sync, Fetch, Copy)


def seen(cluster: Cluster, by: DeviceId, device: DeviceId) -> PeerView:
    return next(p for p in cluster.nodes[by].view().peers if p.device == device)


def extra_messages(cluster: Cluster, since: int) -> list[object]:
    from protocol.effects import Send

    return [e.message for _, _, e in cluster.all_of(Send, since) if isinstance(e.message, EXTRA)]


def test_a_small_site_at_rest_sends_nothing_for_membership() -> None:
    cluster = Cluster().settled()
    since = cluster.now
    cluster.run(10_000)
    assert extra_messages(cluster, since) == []


def test_all_are_connected_to_all_in_a_small_site() -> None:
    cluster = Cluster().settled()
    for device in (A, B, C):
        _, _, last = [c for c in cluster.all_of(Connect) if c[1] == device][-1]
        assert sorted(last.peers) == [d for d in (A, B, C) if d != device]


def test_a_dead_device_is_called_dead_after_five_seconds_by_both_others() -> None:
    cluster = Cluster().settled()
    died = cluster.now
    cluster.kill(C)
    cluster.run_until(lambda: seen(cluster, A, C).state is PeerState.DEAD, 8000)
    assert 4 * SECOND < cluster.now - died < 7 * SECOND
    cluster.run(500)
    found = seen(cluster, B, C)
    assert found.state is PeerState.DEAD
    assert set(found.by) <= {A, B}
    assert found.by
    events = [(who, e.text) for _, who, e in cluster.all_of(Event, died) if e.kind == "member"]
    assert (A, "is suspect") in events
    assert (A, "is dead") in events


def test_a_broken_path_between_two_devices_makes_neither_dead() -> None:
    cluster = Cluster().settled()
    cut = {(A, B), (B, A)}
    cluster.drop = lambda sender, to, message: (sender, to) in cut
    since = cluster.now
    cluster.run(30_000)
    for by, device in cut:
        assert seen(cluster, by, device).state is PeerState.ALIVE
    states = [e.text for _, _, e in cluster.all_of(Event, since) if e.kind == "member"]
    assert states == []


def test_a_device_that_hears_nobody_accuses_and_is_patient() -> None:
    cluster = Cluster().settled()
    cluster.drop = lambda sender, to, message: to == C
    cluster.run(10_000)
    assert seen(cluster, A, C).state is PeerState.ALIVE
    assert cluster.nodes[C].neighbourhood.membership.state(A) is not PeerState.LEFT


def test_after_a_long_partition_all_find_each_other_again() -> None:
    cluster = Cluster().settled()
    cluster.drop = lambda sender, to, message: C in (sender, to)
    cluster.run(60_000)
    assert seen(cluster, A, C).state is PeerState.DEAD
    assert seen(cluster, C, A).state is PeerState.DEAD
    cluster.drop = lambda sender, to, message: False
    cluster.run(3_000)
    for by, device in ((A, C), (B, C), (C, A), (C, B)):
        assert cluster.nodes[by].neighbourhood.membership.state(device) is PeerState.ALIVE


def test_a_restarted_device_is_alive_at_once() -> None:
    cluster = Cluster().settled()
    cluster.kill(C)
    cluster.run(10_000)
    cluster.restart(C)
    cluster.run(300)
    assert seen(cluster, A, C).state is PeerState.ALIVE


def test_a_stop_that_is_taken_back_is_alive_again() -> None:
    cluster = Cluster().settled()
    cluster.give(C, Stop())
    cluster.run(1_000)
    assert seen(cluster, A, C).state is PeerState.STOPPED
    cluster.give(C, Resume())
    cluster.run(1_000)
    assert seen(cluster, A, C).state is PeerState.ALIVE


def test_configuration_comes_from_a_neighbour_where_the_coordinator_cannot_reach() -> None:
    cluster = Cluster().settled()
    coordinator = cluster.nodes[A].view().coordinator
    assert coordinator is not None
    far, near = [d for d in (A, B, C) if d != coordinator]
    cluster.drop = lambda sender, to, message: {sender, to} == {coordinator, far}
    from protocol.changes import SetDevice
    from protocol.effects import Propose

    name = cluster.nodes[near].configuration.in_force.devices[near].name
    cluster.give(near, Propose("r", SetDevice(name, drained=True), None, 0))
    cluster.run(5_000)
    newest = cluster.nodes[coordinator].view().committed
    assert cluster.nodes[far].view().committed == newest
