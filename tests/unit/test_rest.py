"""What a device at rest is woken for: beats, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from protocol.effects import (
    ConfigApplied,
    Effect,
    Input,
    Lossy,
    Pace,
    Refresh,
    Release,
    Send,
    WallClock,
)
from protocol.messages import Ack, Beat
from protocol.node import Node
from protocol.timing import SECOND
from protocol.view import PeerState
from tests.unit.cluster import Cluster


class Watched:
    """Notes what a device does each time that it is woken by its timer."""

    def __init__(self, node: Node) -> None:
        self.woken: list[list[Effect]] = []
        self._original = node.step
        node.step = self.step  # type: ignore[method-assign]

    def step(self, now: int, inputs: Iterable[Input]) -> list[Effect]:
        items = list(inputs)
        effects = self._original(now, items)
        if not items:
            self.woken.append(effects)
        return effects


def test_each_wake_up_of_a_device_at_rest_sends_a_beat() -> None:
    cluster = Cluster()
    cluster.run(5000)
    watched = [Watched(node) for node in cluster.nodes.values()]
    cluster.run(10_000)
    for each in watched:
        assert all(
            any(isinstance(e, Send) and isinstance(e.message, Beat) for e in effects)
            for effects in each.woken
        )
    assert sorted(len(each.woken) for each in watched) == [20, 20, 100]


def test_a_silent_device_is_suspected_as_soon_as_it_is_missed() -> None:
    cluster = Cluster()
    cluster.run(5000)
    lost, watching = cluster.devices[2].id, cluster.devices[0].id
    cluster.kill(lost)
    at = cluster.now

    def state() -> PeerState:
        peers = {peer.device: peer.state for peer in cluster.nodes[watching].view().peers}
        return peers[lost]

    cluster.run_until(lambda: state() is PeerState.SUSPECT)
    # Missed after 1.5 s, at the moment of a beat; then those who may hear it have 0.5 s.
    assert 1.5 * SECOND <= cluster.now - at <= 3 * SECOND


def test_what_the_shell_repeats_is_no_occasion_for_chores() -> None:
    cluster = Cluster()
    cluster.run(5050)
    node = next(iter(cluster.nodes.values()))
    due = node.wake_at()
    applied = ConfigApplied(node.roster.applied)
    for item in (applied, Pace(1000), WallClock(5), Lossy(())):
        assert node.step(cluster.now, [item]) == []
    assert node.wake_at() == due
    assert (node.pace.loop_late, node.offices.unix_offset) == (1000, 5)


def test_a_lease_is_renewed_once_for_each_beat_however_many_ack_it() -> None:
    cluster = Cluster(5)
    cluster.run(5050)
    since = cluster.now
    cluster.run(2000)
    assert len(cluster.all_of(Refresh, since)) == 20


def test_a_lease_is_renewed_by_whichever_majority_acks() -> None:
    cluster = Cluster(5)
    cluster.run(5050)
    (primary,) = {who for _, who, _ in cluster.all_of(Refresh, cluster.now - SECOND)}
    others = [each.id for each in cluster.devices if each.id != primary]
    for first, second in ((0, 1), (1, 2), (2, 3), (3, 0)):
        silent = {others[n] for n in range(4) if n not in (first, second)}
        cluster.drop = lambda a, b, m, silent=silent: isinstance(m, Ack) and a in silent  # type: ignore[misc]
        since = cluster.now
        cluster.run(1000)
        assert len(cluster.all_of(Refresh, since)) == 10
        assert not cluster.all_of(Release, since)
