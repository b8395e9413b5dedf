"""A disk may take longer for a vote than a lease lasts: what tells of the vote waits for it,
and nothing else does."""

from __future__ import annotations

from itertools import pairwise

import pytest

from protocol.effects import Acquire, Ballot, PersistBallots, Promote, Refresh, Send
from protocol.ids import SITE_GROUP, DeviceId, GroupId
from protocol.messages import Ack, Reason, Refusal, Resign, Stored, Vote, Voted
from protocol.outbox import Outbox
from protocol.timing import HANGS_NS, MILLISECOND, Profile, Timing
from tests.unit.cluster import RDP, Cluster, server

T = Timing.of(Profile.NORMAL)
MAIL = GroupId("e" * 16)
A, B = DeviceId("a" * 16), DeviceId("b" * 16)


def granted(term: int, group: GroupId = RDP) -> Voted:
    return Voted(group, term, term, True, Reason.NONE)


def slow(cluster: Cluster, ms: int) -> None:
    """All disks take so long for votes."""
    cluster.vote_ns = {device.id: ms * MILLISECOND for device in cluster.devices}


# The outbox


def test_what_tells_of_a_ballot_goes_out_once_it_is_on_disk() -> None:
    out = Outbox()
    out.persist(RDP, Ballot(7, A))
    out.send(A, granted(7))
    assert out.take() == [PersistBallots(1, {RDP: Ballot(7, A)})]
    assert out.stored(1) == [RDP]
    assert out.take() == [Send(A, granted(7))]


def test_messages_of_other_groups_do_not_wait() -> None:
    out = Outbox()
    out.persist(RDP, Ballot(7, A))
    out.send(A, granted(3, MAIL))
    out.send(B, Ack(1, 1))
    assert out.take()[:-1] == [Send(A, granted(3, MAIL)), Send(B, Ack(1, 1))]


def test_a_confirmation_of_the_configuration_waits_for_the_coordinators_term() -> None:
    out = Outbox()
    stored = Stored(5, Cluster().config.revision, Cluster().config.revision)
    out.persist(SITE_GROUP, Ballot(5))
    out.send(A, stored)
    out.take()
    assert out.stored(1) == [SITE_GROUP]
    assert out.take() == [Send(A, stored)]


def test_a_newer_ballot_voids_what_was_to_be_told_of_the_one_before() -> None:
    out = Outbox()
    out.persist(RDP, Ballot(7, A))
    out.send(A, granted(7))
    out.take()
    out.persist(RDP, Ballot(8, B))
    out.send(B, granted(8))
    out.take()
    assert out.stored(1) == []
    assert out.take() == []
    assert out.stored(2) == [RDP]
    assert out.take() == [Send(B, granted(8))]


def test_a_disk_that_hangs_fills_no_memory() -> None:
    out = Outbox()
    out.persist(RDP, Ballot(7, A))
    for term in range(1000):
        out.send(A, Resign(RDP, term))
    out.take()
    out.stored(1)
    assert out.take() == [Send(A, Resign(RDP, 999))]


# Devices


def test_a_voter_tells_of_its_vote_when_the_disk_has_it() -> None:
    cluster = Cluster().settled()
    first, second, third = (device.id for device in cluster.devices)
    cluster.vote_ns = {third: 30 * MILLISECOND}
    cluster.kill(first)
    killed = cluster.now
    cluster.run_until(lambda: cluster.primary() is not None)
    votes = [at for at, who, _ in cluster.all_of(PersistBallots, killed) if who == third]
    told = [
        at
        for at, who, send in cluster.sent_to(second, killed)
        if who == third and send.message == granted(cluster.view(second).term)
    ]
    assert told[0] - votes[0] == 30 * MILLISECOND


def test_leases_go_on_while_votes_of_other_groups_are_written() -> None:
    """All disks take longer than a lease lasts."""
    cluster = Cluster(servers=(server(), server(uid=MAIL, name="mail", vips=("10.0.0.2/24",))))
    cluster.settled()
    first, _, third = (device.id for device in cluster.devices)
    cluster.give(first, Promote("r1", "mail", "d3"))
    cluster.run_until(lambda: cluster.primary(MAIL) == third)
    assert cluster.primary(RDP) == first
    slow(cluster, 400)
    cluster.kill(third)
    began = cluster.now
    cluster.run_until(lambda: cluster.primary(MAIL) not in (None, third))
    renewed = [at for at, _, e in cluster.all_of(Refresh, began) if e.group == RDP]
    assert max(b - a for a, b in pairwise(renewed)) <= 110 * MILLISECOND
    assert cluster.now - renewed[-1] <= 110 * MILLISECOND
    assert not [e for _, _, e in cluster.all_of(Acquire, began) if e.group == RDP]


def test_a_primary_is_found_on_disks_that_take_longer_than_a_candidacy() -> None:
    cluster = Cluster().settled()
    first = cluster.primary()
    assert first is not None
    slow(cluster, 300)
    cluster.kill(first)
    cluster.run_until(lambda: cluster.primary() not in (None, first), ms=4000)


def test_nobody_stands_anew_while_votes_are_on_their_way_to_disks() -> None:
    cluster = Cluster().settled()
    first, second, third = (device.id for device in cluster.devices)
    cluster.vote_ns = {third: 800 * MILLISECOND}
    cluster.kill(first)
    killed = cluster.now
    cluster.run_until(lambda: cluster.primary() == second)
    asked = [
        send.message.term
        for _, who, send in cluster.sent_to(third, killed)
        if who == second and isinstance(send.message, Vote) and send.message.group == RDP
    ]
    assert asked == [cluster.view(second).term]


def test_a_claim_is_not_acked_before_its_term_is_on_disk() -> None:
    cluster = Cluster().settled()
    first, _, third = (device.id for device in cluster.devices)
    cluster.kill(third)
    cluster.kill(first)
    cluster.run(10)
    cluster.restart(first)
    cluster.run_until(lambda: cluster.primary() is not None)
    new = cluster.primary()
    assert new is not None
    cluster.vote_ns = {third: 250 * MILLISECOND}
    back = cluster.now
    cluster.restart(third)
    cluster.run(1000)
    acks = [
        (at, send.message)
        for at, who, send in cluster.sent_to(new, back)
        if who == third and isinstance(send.message, Ack)
    ]
    refused = [at for at, ack in acks if Refusal(RDP, 0, Reason.DISK) in ack.refused]
    written = [at for at, who, _ in cluster.all_of(PersistBallots, back) if who == third]
    assert refused
    assert max(refused) <= max(written) + 250 * MILLISECOND
    assert [at for at, _ in acks if at > max(refused)]


def test_a_newer_term_on_disk_gives_a_former_primary_no_more_time() -> None:
    """Only a vote binds from when it is told on."""
    cluster = Cluster().settled()
    first, second, _ = (device.id for device in cluster.devices)
    voter, out = cluster.nodes[second].groups[RDP].voter, Outbox()
    promised = voter.promise_until
    assert voter.promised_to == first
    voter.outgrow(voter.term + 1, out)
    voter.on_written(promised)
    assert voter.promise_until == promised
    assert voter.heard < promised


@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("ms", [300, 1000, 2500])
def test_an_election_takes_two_writes_longer_where_all_disks_are_slow(size: int, ms: int) -> None:
    """The candidate's and the voters': nobody makes those void by standing anew meanwhile."""
    cluster = Cluster(size).settled()
    slow(cluster, ms)
    killed, dead = cluster.now, cluster.primary()
    assert dead is not None
    cluster.kill(dead)
    cluster.run_until(lambda: cluster.primary() is not None, ms=10_000)
    assert cluster.now - killed <= T.promise + 2 * ms * MILLISECOND + 2 * T.interval


@pytest.mark.parametrize("size", [3, 5, 7])
def test_a_planned_move_that_slow_disks_abort_ends_with_a_primary(size: int) -> None:
    """Successor and others then stand in one term, and may have to stand once more."""
    cluster = Cluster(size).settled()
    first = cluster.devices[0].id
    slow(cluster, 1000)
    moved = cluster.now
    cluster.give(first, Promote("m1", "rdp", "d2"))
    cluster.run_until(lambda: cluster.primary() is None)
    cluster.run_until(lambda: cluster.primary() is not None)
    assert cluster.now - moved <= 4 * 1000 * MILLISECOND + 5 * T.interval


def test_what_a_disk_that_hung_took_is_no_measure_of_the_next_vote() -> None:
    cluster = Cluster().settled()
    first = cluster.devices[0].id
    voter, out = cluster.nodes[cluster.devices[1].id].groups[RDP].voter, Outbox()
    question = Vote(RDP, voter.term + 1, 1, cluster.config.revision, T.interval)
    voter.grant(first, question, cluster.now, out)
    voter.on_written(cluster.now + 100 * HANGS_NS)
    assert voter.took == HANGS_NS
