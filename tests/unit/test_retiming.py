"""Another profile of a Virtual Server that works: nothing moves, and no lease is stretched."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest

from protocol.changes import PutVirtualServer
from protocol.document import VirtualServerDocument
from protocol.effects import Acquire, Event, Promote, Propose, Refresh, Release
from protocol.ids import DeviceId
from protocol.lease import Lease
from protocol.messages import Append
from protocol.timing import Profile, Timing
from protocol.view import Role
from tests.unit.cluster import RDP, Cluster, server

CHANGES = list(permutations(Profile, 2))


def slower(one: Profile, other: Profile) -> bool:
    return Timing.of(one).interval > Timing.of(other).interval


def retime(cluster: Cluster, profile: Profile, *more_vips: str) -> int:
    """Have the profile changed; when that was asked for."""
    vips = ("10.0.0.1/24", *more_vips)
    document = VirtualServerDocument(name="rdp", vips=vips, profile=profile)
    cluster.give(
        cluster.devices[0].id, Propose("p", PutVirtualServer(document, must="exist"), None, 0)
    )
    return cluster.now


def renewals(cluster: Cluster, since: int) -> list[tuple[int, Profile]]:
    """When the primary renewed its lease, and of which profile."""
    return [(at, e.profile) for at, _, e in cluster.all_of(Refresh, since) if e.group == RDP]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_another_profile_leaves_the_primary_where_it_is(before: Profile, after: Profile) -> None:
    cluster = Cluster(servers=(server(profile=before),)).settled()
    cluster.run(3000)
    primary, asked = cluster.primary(), retime(cluster, after)
    cluster.run(8000)
    assert cluster.primary() == primary
    assert not [e for _, _, e in cluster.all_of(Release, asked) if e.group == RDP]
    assert not [e for _, _, e in cluster.all_of(Acquire, asked) if e.group == RDP]
    assert not [e for _, _, e in cluster.all_of(Event, asked) if e.group == RDP]
    renewed = renewals(cluster, asked)
    assert renewed[-1][1] is after
    gaps = [later - at for (at, _), (later, _) in pairwise(renewed)]
    assert max(gaps) <= Timing.of(before if slower(before, after) else after).lease


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_what_was_acked_before_renews_no_lease_of_another_length(
    before: Profile, after: Profile
) -> None:
    cluster = Cluster(servers=(server(profile=before),)).settled()
    cluster.run(3000)
    primary = cluster.primary()
    assert primary is not None
    retime(cluster, after)
    cluster.run_until(lambda: cluster.nodes[primary].groups.by_id[RDP].profile is after)
    changed = cluster.now
    cluster.drop = lambda sender, to, message: primary in (sender, to)
    cluster.run(2)  # what is on its way
    renewed = [p for at, p in renewals(cluster, changed)]
    assert set(renewed) <= {after}
    lasts = Timing.of(after if renewed else before).step_down
    cut = cluster.now
    cluster.run_until(lambda: cluster.view(primary).role is not Role.PRIMARY, 3000)
    assert cluster.now <= cut + lasts
    assert not [at for at, who, e in cluster.all_of(Refresh, cut) if who == primary]


@pytest.mark.parametrize(("before", "after"), [pair for pair in CHANGES if slower(*pair)])
def test_a_primary_that_hears_of_a_faster_one_a_moment_later_is_not_missed_meanwhile(
    before: Profile, after: Profile
) -> None:
    cluster = Cluster(servers=(server(profile=before),)).settled()
    coordinator, primary, other = (d.id for d in cluster.devices)
    cluster.give(coordinator, Promote("m", "rdp", "d2"))
    cluster.run_until(lambda: cluster.primary() == primary)
    cluster.run(3000)
    asked = retime(cluster, after)
    stored = cluster.nodes[coordinator].configuration
    cluster.run_until(lambda: stored.newest.assignments[RDP].profile is after)
    cluster.drop = lambda sender, to, message: to == primary and isinstance(message, Append)
    cluster.run(30)
    profiles = [cluster.nodes[d].groups.by_id[RDP].profile for d in (coordinator, primary, other)]
    assert profiles == [after, before, after]
    cluster.drop = lambda sender, to, message: False
    cluster.run(8000)
    assert cluster.primary() == primary
    assert not [e for _, _, e in cluster.all_of(Release, asked) if e.group == RDP]


def test_an_address_that_comes_with_a_slower_profile_gets_a_lease_of_the_faster() -> None:
    cluster = Cluster(servers=(server(profile=Profile.FAST),)).settled()
    asked = retime(cluster, Profile.WAN, "10.0.0.2/24")
    cluster.run(3000)
    (acquired,) = [e for _, _, e in cluster.all_of(Acquire, asked) if e.group == RDP]
    assert acquired.vips == ("10.0.0.2",)
    assert acquired.lease == Timing.of(Profile.FAST).lease


def test_of_five_voters_one_that_acked_before_and_one_after_confirm_nothing() -> None:
    me, *others = voters = tuple(DeviceId(f"{n:016x}") for n in range(5))
    lease = Lease()
    lease.begin(voters, 1, Timing.of(Profile.FAST))

    def ack(voter: DeviceId, sent: int) -> bool:
        return lease.ack(voter, sent, voters, sent + 1, Timing.of(Profile.WAN), me=me)

    assert not ack(others[0], 10)
    lease.retime()
    assert not ack(others[1], 20)
    assert lease.ends == 1 + Timing.of(Profile.FAST).step_down
    assert ack(others[2], 20)
    assert lease.ends == 20 + Timing.of(Profile.WAN).step_down
