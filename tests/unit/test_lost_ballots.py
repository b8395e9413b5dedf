"""A device that does not know any more whom it voted for takes no part until it hears a primary."""

from __future__ import annotations

from protocol.effects import Ballot
from protocol.groups import TERMS_PER_SECOND
from protocol.ids import DeviceId
from protocol.timing import SECOND
from tests.unit.cluster import RDP, Cluster


def only_two_left() -> tuple[Cluster, DeviceId, DeviceId]:
    """The primary is gone for good, so nobody is elected without both of the others."""
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    assert cluster.primary() == first
    cluster.kill(first)
    cluster.kill(third)
    return cluster, second, third


def test_it_votes_for_nobody() -> None:
    cluster, _, third = only_two_left()
    cluster.restart(third, torn=True)
    cluster.run(10_000)
    assert cluster.primary() is None
    assert cluster.ballots[third][RDP].lost


def test_if_it_starts_once_more_before_that_it_votes_in_terms_that_are_new_for_sure() -> None:
    cluster, second, third = only_two_left()
    cluster.restart(third, torn=True)
    cluster.run(2_000)
    cluster.kill(third)
    cluster.restart(third)
    fresh = cluster.now // SECOND * TERMS_PER_SECOND
    assert fresh > cluster.view(second).term
    cluster.run(10_000)
    assert cluster.primary() in (second, third)
    assert cluster.ballots[third][RDP].term >= fresh
    assert not cluster.ballots[third][RDP].lost


def test_once_it_has_heard_a_primary_it_votes_again_and_after_a_restart_too() -> None:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    cluster.kill(third)
    cluster.restart(third, torn=True)
    cluster.run(5_000)
    assert cluster.ballots[third][RDP] == Ballot(cluster.view(first).term, first)
    cluster.kill(third)
    cluster.restart(third)
    cluster.run(2_000)
    cluster.kill(first)
    cluster.run(5_000)
    assert cluster.primary() == second


def test_of_a_group_that_it_did_not_know_then_it_remembers_the_loss_too() -> None:
    cluster, _, third = only_two_left()
    cluster.restart(third, torn=True)
    cluster.run(2_000)
    cluster.kill(third)
    # As if its configuration had not named the Virtual Server (any more) when it started.
    del cluster.ballots[third][RDP]
    cluster.restart(third)
    fresh = cluster.now // SECOND * TERMS_PER_SECOND
    cluster.run(10)
    assert cluster.view(third).term >= fresh
