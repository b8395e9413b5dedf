"""What a Site remembers and forgets: deletions, requests, and what it had to drop."""

from __future__ import annotations

from protocol.changes import AddGateway, DeleteVirtualServer, PutVirtualServer
from protocol.config import Config
from protocol.conflicts import requests_of
from protocol.document import VirtualServerDocument
from protocol.effects import KeepConflict, Outcome, Propose
from protocol.gateway_document import GatewayDocument
from protocol.ids import NO_REVISION, SITE_GROUP, DeviceId
from protocol.messages import Append, Return
from protocol.objects import MAX_HANDLED
from protocol.timing import MILLISECOND
from protocol.tombstones import Retention
from tests.unit.cluster import RDP, Cluster
from tests.unit.test_configuration_in_a_site import in_force, propose, web

SECOND_NS = 1000 * MILLISECOND


def hurried(cluster: Cluster, shortest: int = 2, longest: int = 60) -> Cluster:
    """A Site that keeps tombstones for seconds instead of minutes and days."""
    for node in cluster.nodes.values():
        node.configuration.tombstones.retention = Retention(
            shortest * SECOND_NS, longest * SECOND_NS, SECOND_NS
        )
    return cluster


def tombstones(cluster: Cluster, at: DeviceId) -> list[tuple[str, str]]:
    return [(r.kind, r.key) for r in in_force(cluster, at).tombstones()]


# Tombstones


def test_a_tombstone_that_all_devices_have_is_collected_when_old_enough() -> None:
    cluster = hurried(Cluster().settled())
    first = cluster.devices[0].id
    assert propose(cluster, first, DeleteVirtualServer("rdp")).error is None
    cluster.run(1000)
    assert ("virtual-server", RDP) in tombstones(cluster, first)
    cluster.run(5000)
    for device in cluster.devices:
        assert tombstones(cluster, device.id) == []
        assert in_force(cluster, device.id) == in_force(cluster, first)
    assert in_force(cluster, first).floor > NO_REVISION


def test_a_tombstone_waits_for_a_device_that_is_away() -> None:
    cluster = hurried(Cluster().settled())
    first, _, third = (d.id for d in cluster.devices)
    cluster.kill(third)
    propose(cluster, first, DeleteVirtualServer("rdp"))
    cluster.run(10_000)
    assert ("virtual-server", RDP) in tombstones(cluster, first)


def test_a_device_away_for_longer_than_that_does_not_bring_the_object_back() -> None:
    cluster = hurried(Cluster().settled(), longest=5)
    first, _, third = (d.id for d in cluster.devices)
    cluster.kill(third)
    propose(cluster, first, DeleteVirtualServer("rdp"))
    cluster.run(10_000)
    assert tombstones(cluster, first) == []
    cluster.restart(third)
    back = cluster.now
    cluster.run(3000)
    assert RDP not in in_force(cluster, third).virtual_servers
    assert in_force(cluster, third) == in_force(cluster, first)
    appends = [e.message for _, _, e in cluster.sent_to(third, back)]
    assert None in [m.base for m in appends if isinstance(m, Append)]


# Requests


def lose_answers(cluster: Cluster) -> None:
    cluster.drop = lambda a, b, m: isinstance(m, Return)


def test_a_repeated_request_is_answered_by_whoever_coordinates_now() -> None:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    assert cluster.primary(SITE_GROUP) == first
    lose_answers(cluster)
    cluster.give(third, Propose("r", web(), None, unix_s=7))
    cluster.run_until(lambda: in_force(cluster, third).virtual_server_named("web") is not None)
    stored = in_force(cluster, third).handled("r")
    assert stored is not None
    cluster.kill(first)
    cluster.drop = lambda a, b, m: False
    outcome = propose_again(cluster, third)
    assert outcome.error is None
    assert outcome.revision == stored.revision
    assert "web" in outcome.detail
    config = in_force(cluster, second)
    assert config.revision_of(("virtual-server", _uid(config))) == stored.revision


def propose_again(cluster: Cluster, at: DeviceId) -> Outcome:
    cluster.run_until(lambda: bool(cluster.all_of(Outcome)), 10_000)
    (outcome,) = [e for _, who, e in cluster.all_of(Outcome) if who == at]
    return outcome


def _uid(config: Config) -> str:
    found = config.virtual_server_named("web")
    assert found is not None
    return found.uid


def test_only_the_newest_requests_are_remembered_and_by_all_alike() -> None:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    for n in range(MAX_HANDLED + 20):
        gateway = GatewayDocument(name="gw", address="10.0.0.9", weight=n % 200)
        change = (
            AddGateway("rdp", gateway)
            if n == 0
            else PutVirtualServer(
                VirtualServerDocument(name="rdp", vips=("10.0.0.1/24",), gateways=(gateway,))
            )
        )
        cluster.give(first, Propose(f"r{n}", change, None, 0), n * 10 * MILLISECOND)
        if n == 100:
            cluster.run(1100)
            cluster.kill(third)
    cluster.run(4000)
    cluster.restart(third)
    cluster.run(3000)
    assert in_force(cluster, third) == in_force(cluster, second)
    kept = [r for r in in_force(cluster, third).records.values() if r.kind == "handled"]
    assert len(kept) == MAX_HANDLED
    assert in_force(cluster, first).handled("r0") is None


# What was dropped


def test_what_a_device_had_to_drop_is_kept_with_who_asked_for_it() -> None:
    cluster = Cluster().settled()
    first, second, _ = (d.id for d in cluster.devices)
    cluster.drop = lambda a, b, m: first in (a, b)
    cluster.give(first, Propose("lost", web(), None, unix_s=1234))
    cluster.run(4000)
    propose(cluster, second, web("10.0.0.3/24", "ssh"), "kept")
    cluster.drop = lambda a, b, m: False
    cluster.run(2000)
    (conflict,) = [e.conflict for _, who, e in cluster.all_of(KeepConflict) if who == first]
    assert conflict.kind == "dropped"
    kinds = sorted(r.kind for r in conflict.records)
    assert kinds == ["handled", "virtual-server"]
    (request,) = requests_of(conflict)
    assert (request.by, request.unix_s) == (first, 1234)


def test_an_empty_suffix_is_no_conflict() -> None:
    cluster = Cluster().settled()
    first = cluster.devices[0].id
    cluster.drop = lambda a, b, m: first in (a, b) and isinstance(m, Append)
    cluster.run(3000)
    cluster.drop = lambda a, b, m: False
    cluster.run(2000)
    assert cluster.all_of(KeepConflict) == []
