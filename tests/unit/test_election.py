"""Leased election: who becomes primary, when, and who never does."""

from __future__ import annotations

import pytest

from protocol.changes import SetDevice
from protocol.effects import (
    Acquire,
    Fitness,
    Lame,
    Outcome,
    PersistFailed,
    Promote,
    Propose,
    Refresh,
    Release,
    Send,
    Stop,
    Stopped,
)
from protocol.errors import Refused
from protocol.ids import SITE_GROUP, DeviceId
from protocol.messages import Ask, Reason, Vote
from protocol.timing import MILLISECOND, Profile, Timing
from protocol.view import PeerState
from tests.unit.cluster import RDP, Cluster

T = Timing.of(Profile.NORMAL)


def names(cluster: Cluster) -> list[str]:
    return [d.id for d in cluster.devices]


def loses_its_primary(cluster: Cluster) -> tuple[int, DeviceId]:
    """When, and which device it was."""
    dead = cluster.primary()
    assert dead is not None
    cluster.kill(dead)
    return cluster.now, dead


def test_the_best_ranked_device_becomes_primary_and_everyone_follows_it() -> None:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    assert cluster.primary() == first
    assert cluster.view(second).leader == cluster.view(third).leader == first


def test_nothing_moves_while_nothing_happens() -> None:
    cluster = Cluster().settled()
    term = cluster.view(cluster.devices[0].id).term
    before = cluster.now
    cluster.run(60_000)
    assert cluster.view(cluster.devices[0].id).term == term
    assert not cluster.all_of(Acquire, before)
    assert not cluster.all_of(Release, before)


def test_the_lease_is_refreshed_once_per_interval() -> None:
    cluster = Cluster().settled()
    before = cluster.now
    cluster.run(10_000)
    assert 95 <= len(cluster.all_of(Refresh, before)) <= 105


def test_a_dead_primary_is_replaced_within_three_and_a_half_intervals() -> None:
    cluster = Cluster().settled()
    killed, _ = loses_its_primary(cluster)
    cluster.run_until(lambda: cluster.primary() is not None)
    assert cluster.now - killed <= 3.5 * T.interval


def test_nobody_starts_a_lease_before_the_old_one_has_ended() -> None:
    cluster = Cluster().settled()
    last = cluster.all_of(Refresh)[-1][0]
    killed, _ = loses_its_primary(cluster)
    cluster.run_until(lambda: cluster.primary() is not None)
    acquired = cluster.all_of(Acquire, killed)[0][0]
    assert acquired > last + T.lease


def test_a_returning_device_takes_nothing_back() -> None:
    cluster = Cluster().settled()
    first = cluster.devices[0].id
    cluster.kill(first)
    cluster.run(1000)
    successor = cluster.primary()
    cluster.restart(first)
    cluster.run(5000)
    assert cluster.primary() == successor
    assert cluster.view(first).leader == successor


def test_a_primary_cut_from_the_majority_releases_before_any_promise_ends() -> None:
    cluster = Cluster().settled()
    first = cluster.devices[0].id
    cluster.drop = lambda a, b, m: first in (a, b)
    cut = cluster.now
    cluster.run(1000)
    released = next(at for at, who, _ in cluster.all_of(Release, cut) if who == first)
    acquired = next(at for at, who, _ in cluster.all_of(Acquire, cut) if who != first)
    assert released < acquired


def test_two_of_three_dead_leave_no_primary() -> None:
    cluster = Cluster().settled()
    for dead in cluster.devices[:2]:
        cluster.kill(dead.id)
    cluster.run(3000)
    assert cluster.primary() is None


def test_voters_know_when_they_hear_their_primary_no_more() -> None:
    cluster = Cluster(4).settled()
    first, *others = (d.id for d in cluster.devices)
    assert not any(cluster.view(each).unheard for each in cluster.nodes)
    # Two of four hear each other, and the primary gives up.
    island = {first, others[1]}
    cluster.drop = lambda a, b, m: (a in island) is not (b in island)
    cluster.run(7 * T.interval / MILLISECOND)
    assert cluster.primary() is None
    assert all(cluster.view(each).unheard for each in others)
    assert not cluster.view(first).unheard
    cluster.run(3_000)
    states = {p.device: p.state for p in cluster.nodes[others[1]].view().peers}
    assert (cluster.view(others[1]).leader, states[first]) == (first, PeerState.ALIVE)
    cluster.drop = lambda a, b, m: False
    cluster.run(3_000)
    assert cluster.primary() is not None
    assert not any(cluster.view(each).unheard for each in cluster.nodes)


def test_a_restarted_voter_grants_nothing_for_one_promise() -> None:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    cluster.kill(first)
    cluster.kill(second)
    cluster.restart(second)
    restarted = cluster.now
    cluster.run_until(lambda: cluster.primary() is not None)
    assert cluster.now - restarted >= T.promise
    assert third in cluster.nodes


def test_an_unfit_device_is_passed_over() -> None:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    cluster.give(second, Fitness(((RDP, "interface eth0 is down"),)))
    cluster.run(100)
    cluster.kill(first)
    cluster.run(1000)
    assert cluster.primary() == third
    assert cluster.view(second).unfit == "interface eth0 is down"


def test_a_primary_that_becomes_unfit_hands_over() -> None:
    cluster = Cluster().settled()
    first = cluster.devices[0].id
    cluster.give(first, Fitness(((RDP, "interface eth0 is down"),)))
    cluster.run(100)
    assert cluster.primary() not in (None, first)


def test_a_device_that_cannot_write_votes_for_nobody() -> None:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    for each in (second, third):
        cluster.give(each, PersistFailed())
    cluster.run(10)
    cluster.kill(first)
    killed = cluster.now
    cluster.run(3000)
    assert cluster.primary() is None
    assert not [
        e for _, _, e in cluster.all_of(Send, killed) if isinstance(e, Send) and
        isinstance(e.message, Vote)
    ]  # fmt: skip


def test_nothing_moves_to_a_device_that_cannot_write_its_votes() -> None:
    cluster = Cluster().settled()
    first, second, _ = (d.id for d in cluster.devices)
    cluster.give(second, PersistFailed())
    cluster.run(100)
    cluster.give(first, Promote("r1", "rdp", "d2"))
    cluster.run(500)
    assert Reason.DISK in str(outcome(cluster, "r1").error)
    assert cluster.view(second).unfit == Reason.DISK
    assert not cluster.all_of(Lame)


def test_nothing_moves_where_too_few_devices_could_elect_the_successor() -> None:
    cluster = Cluster().settled()
    first, _, third = (d.id for d in cluster.devices)
    for each in (first, third):
        cluster.give(each, PersistFailed())
    cluster.run(100)
    cluster.give(first, Promote("r1", "rdp", "d2"))
    cluster.run(500)
    assert "too few devices can vote" in str(outcome(cluster, "r1").error)
    assert cluster.primary() == first
    assert not cluster.all_of(Lame)


def test_a_primary_that_cannot_write_its_votes_stays_until_it_is_asked_to_hand_over() -> None:
    cluster = Cluster().settled()
    first, second, _ = (d.id for d in cluster.devices)
    cluster.give(first, PersistFailed())
    cluster.run(2000)
    assert cluster.primary() == first
    assert not cluster.all_of(Lame)
    cluster.give(first, Promote("r1", "rdp", "d2"))
    cluster.run(500)
    assert cluster.primary() == second


def test_a_coordinator_that_cannot_write_hands_over() -> None:
    cluster = Cluster().settled()
    first = cluster.devices[0].id
    assert cluster.primary(SITE_GROUP) == first
    cluster.give(first, PersistFailed())
    cluster.run(1000)
    assert cluster.primary(SITE_GROUP) not in (None, first)
    assert cluster.primary() == first


def test_a_primary_stays_while_no_device_can_write_its_votes() -> None:
    cluster = Cluster().settled()
    first = cluster.primary()
    for device in cluster.devices:
        cluster.give(device.id, PersistFailed())
    cluster.run(2000)
    assert cluster.primary() == first
    assert not cluster.all_of(Lame)


def test_a_hand_over_has_no_gap_longer_than_a_round_trip() -> None:
    cluster = Cluster().settled()
    asked = cluster.now
    cluster.give(cluster.devices[2].id, Promote("r1", "rdp", "d2"))
    cluster.run(500)
    assert cluster.primary() == cluster.devices[1].id
    lame = cluster.all_of(Lame, asked)[0][0]
    acquired = cluster.all_of(Acquire, asked)[0][0]
    assert 0 <= acquired - lame <= 2 * MILLISECOND


def outcome(cluster: Cluster, request: str) -> Outcome:
    (found,) = [e for _, _, e in cluster.all_of(Outcome) if e.request == request]
    return found


def test_promote_ends_with_one_outcome() -> None:
    cluster = Cluster().settled()
    cluster.give(cluster.devices[2].id, Promote("r1", "rdp", "d3"))
    cluster.run(500)
    assert outcome(cluster, "r1").detail == "moved"
    cluster.give(cluster.devices[2].id, Promote("r2", "rdp", "d3"))
    cluster.run(500)
    assert outcome(cluster, "r2").detail == "is primary already"


def test_promote_to_a_dead_device_is_refused_with_the_reason() -> None:
    cluster = Cluster().settled()
    cluster.kill(cluster.devices[2].id)
    cluster.run(3000)
    cluster.give(cluster.devices[1].id, Promote("r1", "rdp", "d3"))
    cluster.run(500)
    error = outcome(cluster, "r1").error
    assert isinstance(error, Refused)
    assert "silent" in str(error)
    assert cluster.primary() == cluster.devices[0].id


def test_promote_to_a_drained_device_is_refused_with_the_reason() -> None:
    cluster = Cluster().settled()
    drained = Propose("drain", SetDevice("d3", drained=True), None, 0)
    cluster.give(cluster.devices[0].id, drained)
    cluster.run(500)
    cluster.give(cluster.devices[1].id, Promote("r1", "rdp", "d3"))
    cluster.run(500)
    assert "is drained" in str(outcome(cluster, "r1").error)


def test_a_successor_that_dies_leaves_the_primary_in_office() -> None:
    cluster = Cluster().settled()
    first, second, _ = (d.id for d in cluster.devices)
    cluster.drop = lambda a, b, m: second in (a, b)
    cluster.give(first, Promote("r1", "rdp", "d2"))
    cluster.run(1000)
    assert cluster.primary() == first
    assert isinstance(outcome(cluster, "r1").error, Refused)


def test_a_clean_stop_hands_everything_over_first() -> None:
    cluster = Cluster().settled()
    first, second, _ = (d.id for d in cluster.devices)
    cluster.give(first, Stop())
    cluster.run(500)
    assert [who for _, who, _ in cluster.all_of(Stopped)] == [first]
    assert cluster.primary() not in (None, first)
    assert cluster.primary(SITE_GROUP) not in (None, first)
    peers = {p.device: p.state for p in cluster.nodes[second].view().peers}
    assert peers[first] is PeerState.STOPPED


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_sites_of_any_size_elect_one_primary(size: int) -> None:
    cluster = Cluster(size).settled()
    leaders = {cluster.view(d.id).leader for d in cluster.devices}
    assert leaders == {cluster.primary()}


def test_disks_slower_than_the_next_in_rank_waits_do_not_split_the_votes() -> None:
    """Who stands says so first: with a thousand groups ballots take as long on any disk."""
    cluster = Cluster().settled()
    cluster.vote_ns = {device.id: 3 * T.stagger for device in cluster.devices}
    killed, _ = loses_its_primary(cluster)
    cluster.run_until(lambda: cluster.primary() is not None)
    asked = cluster.all_of(Send, killed)
    candidates = {
        who for _, who, e in asked if isinstance(e.message, Vote) and e.message.group == RDP
    }
    assert candidates == {cluster.primary()}
    assert cluster.now - killed <= T.promise + 2 * 3 * T.stagger + T.interval


def test_a_candidate_that_dies_as_it_stands_holds_the_next_back_for_an_interval() -> None:
    cluster = Cluster(5).settled()
    cluster.vote_ns = {device.id: 3 * T.stagger for device in cluster.devices}
    killed, _ = loses_its_primary(cluster)

    def says_that_it_stands() -> list[DeviceId]:
        sent = cluster.all_of(Send, killed)
        return [who for _, who, e in sent if isinstance(e.message, Ask) and e.message.stands]

    cluster.run_until(lambda: bool(says_that_it_stands()))
    stands = cluster.now
    cluster.kill(says_that_it_stands()[0])
    cluster.run_until(lambda: cluster.primary() is not None)
    assert cluster.now - stands <= T.interval + T.stagger + 3 * 3 * T.stagger


def test_nobody_is_asked_anew_while_a_majority_would_vote_for_the_candidate() -> None:
    cluster = Cluster().settled()
    killed, dead = loses_its_primary(cluster)
    cluster.run_until(lambda: cluster.primary() is not None)
    first = cluster.primary()
    rounds = [
        at
        for at, who, e in cluster.sent_to(dead, killed)
        if who == first and isinstance(e.message, Ask) and e.message.group == RDP
    ]
    assert len(rounds) == 3, "in two rounds, and as it stands"
