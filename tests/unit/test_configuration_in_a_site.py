"""The replicated configuration: ordered by one coordinator, committed by a majority."""

from __future__ import annotations

from itertools import pairwise

import pytest

from agent.errands import patience
from protocol.changes import (
    Change,
    DeleteVirtualServer,
    FreezeVirtualServer,
    PutVirtualServer,
    RemoveDevice,
    SetDevice,
)
from protocol.config import Config
from protocol.coordinator import HAND_OVER_NS
from protocol.document import VirtualServerDocument
from protocol.effects import (
    Acquire,
    Apply,
    Event,
    Fitness,
    Lame,
    Outcome,
    Promote,
    Propose,
    Release,
    Send,
)
from protocol.errors import (
    InvalidInput,
    NoQuorum,
    NotCommitted,
    Refused,
    RevisionConflict,
    TimedOut,
)
from protocol.ids import SITE_GROUP, DeviceId, GroupId, Revision
from protocol.messages import Append, Return, Stored
from protocol.quorum import majority
from protocol.timing import MILLISECOND, SECOND
from tests.unit.cluster import RDP, Cluster, server

PATIENCE_NS = int(patience(5.0) * SECOND)
"""For the answer of the agent, where an operator says nothing else."""


def web(vip: str = "10.0.0.2/24", name: str = "web") -> PutVirtualServer:
    return PutVirtualServer(VirtualServerDocument(name=name, vips=(vip,)))


def propose(
    cluster: Cluster,
    at: DeviceId,
    change: Change,
    request: str = "r",
    if_revision: Revision | None = None,
) -> Outcome:
    """Propose ``change`` on a device, as `halbctl` does by default, and run until its outcome."""
    cluster.give(at, Propose(request, change, if_revision, unix_s=0, timeout=PATIENCE_NS))

    def found() -> list[Outcome]:
        seen = [e for _, _, e in cluster.all_of(Outcome)]
        return [e for e in seen if e.request == request]

    cluster.run_until(lambda: bool(found()), 10_000)
    (only,) = found()
    return only


def in_force(cluster: Cluster, at: DeviceId) -> Config:
    return cluster.nodes[at].configuration.in_force


def test_a_change_made_anywhere_is_in_force_everywhere() -> None:
    cluster = Cluster().settled()
    outcome = propose(cluster, cluster.devices[2].id, web())
    assert outcome.error is None
    cluster.run(100)
    for device in cluster.devices:
        assert in_force(cluster, device.id).virtual_server_named("web") is not None


def test_a_refused_change_changes_nothing() -> None:
    cluster = Cluster().settled()
    before = in_force(cluster, cluster.devices[0].id).revision
    outcome = propose(cluster, cluster.devices[1].id, DeleteVirtualServer("wbe"))
    assert isinstance(outcome.error, InvalidInput)
    assert in_force(cluster, cluster.devices[0].id).revision == before


def test_of_two_changes_on_one_revision_only_one_commits() -> None:
    cluster = Cluster().settled()
    first, second, _ = (d.id for d in cluster.devices)
    revision = in_force(cluster, first).revision
    cluster.give(first, Propose("r1", web(), revision, 0))
    cluster.give(second, Propose("r2", web("10.0.0.3/24", "ssh"), revision, 0))
    cluster.run(1000)
    errors = [e.error for _, _, e in cluster.all_of(Outcome)]
    assert sum(error is None for error in errors) == 1
    assert sum(isinstance(error, RevisionConflict) for error in errors) == 1


def test_without_a_majority_a_change_is_refused_and_says_so() -> None:
    cluster = Cluster().settled()
    for device in cluster.devices[1:]:
        cluster.kill(device.id)
    cluster.run(3000)
    outcome = propose(cluster, cluster.devices[0].id, web())
    assert isinstance(outcome.error, NoQuorum)


def test_a_change_that_only_the_coordinator_stored_is_reported_and_later_dropped() -> None:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    assert cluster.primary(SITE_GROUP) == first
    cluster.drop = lambda a, b, m: first in (a, b)
    outcome = propose(cluster, first, web())
    assert isinstance(outcome.error, NotCommitted)
    assert propose(cluster, second, web("10.0.0.3/24", "ssh"), "r2").error is None
    cluster.drop = lambda a, b, m: False
    cluster.run(2000)
    assert in_force(cluster, first) == in_force(cluster, third)
    assert in_force(cluster, first).virtual_server_named("web") is None
    dropped = [e for _, who, e in cluster.all_of(Event) if e.kind == "config-dropped"]
    assert len(dropped) == 1


def test_a_change_that_no_majority_stores_in_time_is_reported_as_such_on_any_device() -> None:
    cluster = Cluster().settled()
    assert cluster.primary(SITE_GROUP) == cluster.devices[0].id
    cluster.drop = lambda a, b, m: isinstance(m, Stored)
    for number, device in enumerate(cluster.devices):
        outcome = propose(cluster, device.id, web(f"10.0.0.{10 + number}/24", f"web{number}"),
                          f"r{number}")  # fmt: skip
        assert isinstance(outcome.error, NotCommitted)


def test_a_change_of_whose_end_the_coordinator_says_nothing_is_not_called_refused() -> None:
    cluster = Cluster().settled()
    cluster.drop = lambda a, b, m: isinstance(m, Return)
    outcome = propose(cluster, cluster.devices[2].id, web())
    assert isinstance(outcome.error, TimedOut)
    assert in_force(cluster, cluster.devices[2].id).virtual_server_named("web") is not None


def test_a_committed_change_survives_any_single_crash() -> None:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    assert propose(cluster, first, web()).error is None
    cluster.kill(first)
    cluster.run(2000)
    for survivor in (second, third):
        assert in_force(cluster, survivor).virtual_server_named("web") is not None


def test_a_device_that_was_away_gets_only_what_it_lacks() -> None:
    cluster = Cluster().settled()
    first, _, third = (d.id for d in cluster.devices)
    cluster.kill(third)
    propose(cluster, first, web())
    cluster.restart(third)
    restarted = cluster.now
    cluster.run(3000)
    assert in_force(cluster, third).virtual_server_named("web") is not None
    sends = [e for _, _, e in cluster.all_of(Send, restarted) if e.to == third]
    bases = [e.message.base for e in sends if isinstance(e.message, Append)]
    assert bases
    assert None not in bases


def test_voters_change_one_at_a_time_with_overlapping_majorities() -> None:
    cluster = Cluster(5, (server(devices=()),)).settled()
    first = cluster.devices[0].id
    fewer = PutVirtualServer(
        VirtualServerDocument(
            name="rdp", vips=("10.0.0.1/24",), devices=("d4", "d5"), on_peer_loss="serve"
        )
    )
    assert propose(cluster, first, fewer).error is None
    term = cluster.view(first).term
    cluster.run(5000)
    histories = [e.config for _, _, e in cluster.all_of(Apply)]
    seen = {c.assignments[RDP].number: c.assignments[RDP] for c in histories if c.assignments}
    numbered = [seen[n].voters for n in sorted(seen)]
    assert set(numbered[-1]) == {d.id for d in cluster.devices[3:]}
    for old, new in pairwise(numbered):
        assert majority(old) + majority(new) > len(set(old) | set(new))
    assert cluster.primary() in numbered[-1]
    # Who never voted before does not count terms from the beginning.
    assert term > 0
    assert all(seen[n].term >= term for n in seen if seen[n].voters != numbered[0])


def test_a_term_that_only_a_former_voter_knew_is_not_used_again() -> None:
    """It tells of it with the last thing that counts: that it votes by the new list."""
    first, second, third = (d.id for d in Cluster().devices)
    cluster = Cluster(servers=(server(devices=(second,)),)).settled()
    cluster.drop = lambda a, b, m: a == second and not isinstance(m, Stored)
    for _ in range(3):
        cluster.kill(second)
        cluster.restart(second)
        cluster.run_until(lambda: cluster.primary() == second)
    term = cluster.view(second).term
    give_to(cluster, "d2", "d3", "d1")
    cluster.run_until(lambda: cluster.primary() in (first, third))
    assert cluster.view(third).term > term


def give_to(cluster: Cluster, *devices: str) -> None:
    """An edit that gives the Virtual Server to these devices."""
    document = VirtualServerDocument(name="rdp", vips=("10.0.0.1/24",), devices=devices)
    change, request = PutVirtualServer(document), f"given at {cluster.now}"
    assert propose(cluster, cluster.devices[0].id, change, request).error is None


def voters(cluster: Cluster) -> tuple[DeviceId, ...]:
    return in_force(cluster, cluster.devices[-1].id).assignments[RDP].voters


@pytest.mark.parametrize("primary", ["d1", "d4"])
def test_a_primary_that_is_to_serve_no_more_hands_over_before_it_is_removed(primary: str) -> None:
    """Whether it is the coordinator itself, or another device."""
    cluster = Cluster(4).settled()
    ids = {d.name: d.id for d in cluster.devices}
    cluster.give(ids["d1"], Promote("p", "rdp", primary))
    cluster.run(500)
    assert cluster.primary() == ids[primary]
    began = cluster.now
    others = [name for name in ids if name != primary]
    give_to(cluster, *others)
    cluster.run(3000)
    assert cluster.primary() == ids[others[0]]
    assert set(voters(cluster)) == {ids[name] for name in others}
    assert handed_over(cluster, ids[primary], began)


def handed_over(cluster: Cluster, primary: DeviceId, began: int) -> bool:
    """Whether what ``primary`` left since ``began`` was there again at once."""
    (lame,) = [at for at, who, _ in cluster.all_of(Lame, began) if who == primary]
    (acquired,) = [at for at, _, e in cluster.all_of(Acquire, began) if e.group == RDP]
    return 0 <= acquired - lame < 5 * MILLISECOND


def dropped_with_nobody_to_follow() -> Cluster:
    """The primary of four is to go, and no other device can take over."""
    cluster = Cluster(4).settled()
    for other in cluster.devices[1:]:
        cluster.give(other.id, Fitness(((RDP, "interface is down"),)))
    cluster.run(100)
    give_to(cluster, "d2", "d3", "d4")
    return cluster


def test_a_primary_that_nobody_can_follow_is_removed_after_a_while() -> None:
    cluster = dropped_with_nobody_to_follow()
    first, *others = (d.id for d in cluster.devices)
    cluster.run(HAND_OVER_NS / MILLISECOND - 1000)
    assert cluster.primary() == first
    assert first in voters(cluster)
    cluster.run(2000)
    assert cluster.primary() is None
    assert set(voters(cluster)) == set(others)


def test_a_primary_that_was_to_go_before_has_all_the_time_again() -> None:
    cluster = dropped_with_nobody_to_follow()
    first, *others = (d.id for d in cluster.devices)
    cluster.run(1000)
    give_to(cluster, "d1", "d2", "d3", "d4")
    for other in others:
        cluster.give(other, Fitness())
    cluster.run(10_000)
    assert cluster.primary() == first
    began = cluster.now
    give_to(cluster, "d2", "d3", "d4")
    cluster.run(3000)
    assert handed_over(cluster, first, began)


def test_a_primary_of_what_is_frozen_hands_over_once_that_may_move() -> None:
    cluster = Cluster(4).settled()
    first, second, *_ = (d.id for d in cluster.devices)
    assert propose(cluster, second, FreezeVirtualServer("rdp", True), "f").error is None
    give_to(cluster, "d2", "d3", "d4")
    cluster.run(20_000)
    assert cluster.primary() == first
    began = cluster.now
    assert propose(cluster, second, FreezeVirtualServer("rdp", False), "u").error is None
    cluster.run(3000)
    assert cluster.primary() == second
    assert first not in voters(cluster)
    assert handed_over(cluster, first, began)


def test_a_vip_is_free_for_another_virtual_server_only_after_its_lease_is_over() -> None:
    cluster = Cluster().settled()
    first = cluster.devices[0].id
    propose(cluster, first, DeleteVirtualServer("rdp"))
    propose(cluster, first, web("10.0.0.1/24"), "r2")
    cluster.run(3000)
    uid = in_force(cluster, first).virtual_server_named("web")
    assert uid is not None
    released = max(at for at, _, e in cluster.all_of(Release))
    acquired = min(at for at, _, e in cluster.all_of(Acquire) if e.group == uid.uid)
    assert acquired > released


def test_a_drained_device_hands_over_and_takes_nothing() -> None:
    cluster = Cluster().settled()
    first = cluster.devices[0].id
    assert propose(cluster, cluster.devices[2].id, SetDevice("d1", drained=True)).error is None
    cluster.run(1000)
    assert cluster.primary() not in (None, first)
    assert cluster.view(first).unfit == "is drained"


def test_a_removed_device_votes_on_nothing_any_more() -> None:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    cluster.kill(third)
    assert propose(cluster, second, RemoveDevice("d3")).error is None
    cluster.run(3000)
    config = in_force(cluster, first)
    assert config.site is not None
    assert set(config.site.voters) == set(config.assignments[RDP].voters) == {first, second}


def test_none_of_two_voting_devices_is_removed_as_nothing_could_be_changed_then() -> None:
    cluster = Cluster(2).settled()
    first, second = (d.id for d in cluster.devices)
    refused = propose(cluster, second, RemoveDevice("d2"), "leave").error
    assert isinstance(refused, Refused)
    assert "too few would be left" in refused.message
    assert "leave --force" in refused.remedy
    assert propose(cluster, first, SetDevice("d1", drained=True), "later").error is None


def test_a_repeated_request_is_answered_but_not_carried_out_twice() -> None:
    cluster = Cluster().settled()
    second = cluster.devices[1].id
    assert propose(cluster, second, web()).error is None
    revision = in_force(cluster, second).revision
    cluster.give(second, Propose("r", web(), None, 0))
    cluster.run(1000)
    assert in_force(cluster, second).virtual_server_named("web") is not None
    again = in_force(cluster, second)
    assert again.revision_of(("virtual-server", _uid(again))) <= revision


def _uid(config: Config) -> GroupId:
    found = config.virtual_server_named("web")
    assert found is not None
    return found.uid
