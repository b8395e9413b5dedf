"""Break glass: what one device may change while no coordinator can be reached."""

from __future__ import annotations

import pytest

from protocol.changes import (
    AddGateway,
    Change,
    DeleteVirtualServer,
    PutVirtualServer,
    RemoveDevice,
    RemoveGateway,
    SetDevice,
    SetGateway,
)
from protocol.coordinator import NOTHING_TO_CHANGE
from protocol.document import VirtualServerDocument
from protocol.effects import Acquire, Apply, KeepConflict, Outcome, PersistLocal, Propose
from protocol.errors import Refused
from protocol.gateway_document import GatewayDocument
from protocol.ids import DeviceId
from protocol.listener_document import ListenerDocument
from tests.unit.cluster import RDP, Cluster
from tests.unit.test_configuration_in_a_site import in_force, propose, web

GW1 = AddGateway("rdp", GatewayDocument(name="gw1", address="10.0.0.9"))
WEIGHT = SetGateway("rdp", "gw1", weight=7)


def break_glass(cluster: Cluster, at: DeviceId, change: Change, request: str = "local") -> Outcome:
    cluster.give(at, Propose(request, change, None, unix_s=99, local=True))
    cluster.run(10)
    (outcome,) = [e for _, _, e in cluster.all_of(Outcome) if e.request == request]
    return outcome


@pytest.fixture
def cut() -> Cluster:
    """Three devices with a gateway, of which the third is cut off."""
    cluster = Cluster().settled()
    third = cluster.devices[2].id
    assert propose(cluster, third, GW1, "gw1").error is None
    cluster.run(500)
    cluster.drop = lambda a, b, m: third in (a, b)
    cluster.run(3000)
    return cluster


def weight(cluster: Cluster, at: DeviceId) -> int:
    (gateway,) = cluster.nodes[at].configuration.in_use.virtual_servers[RDP].gateways
    return gateway.weight


def test_only_where_it_is_removed_locally_do_the_connections_of_a_gateway_go_on(
    cut: Cluster,
) -> None:
    first, _, third = (d.id for d in cut.devices)
    gw2 = AddGateway("rdp", GatewayDocument(name="gw2", address="10.0.0.10"))
    assert propose(cut, first, gw2, "gw2").error is None
    assert propose(cut, first, RemoveGateway("rdp", "gw2"), "away").detail == "- gateway rdp/gw2"
    detail = break_glass(cut, third, RemoveGateway("rdp", "gw1")).detail
    assert detail == "- gateway rdp/gw1: connections that it still has go on"


def test_a_local_change_is_in_use_on_one_device_and_said_so(cut: Cluster) -> None:
    first, _, third = (d.id for d in cut.devices)
    outcome = break_glass(cut, third, WEIGHT)
    assert outcome.error is None
    assert (weight(cut, third), weight(cut, first)) == (7, 1)
    local = cut.nodes[third].view().local
    assert local is not None
    assert [e.unix_s for e in local.edits] == [99]
    assert [e.local for _, _, e in cut.all_of(PersistLocal)] == [local]
    applied = [e.config for _, who, e in cut.all_of(Apply) if who == third][-1]
    assert applied.virtual_servers[RDP].gateways[0].weight == 7
    assert in_force(cut, third).virtual_servers[RDP].gateways[0].weight == 1


def test_a_local_change_that_changes_nothing_is_none(cut: Cluster) -> None:
    third = cut.devices[2].id
    again = SetGateway("rdp", "gw1", weight=1)
    outcome = break_glass(cut, third, again)
    assert (outcome.error, outcome.detail) == (None, NOTHING_TO_CHANGE)
    assert cut.nodes[third].view().local is None
    break_glass(cut, third, WEIGHT, "one")
    assert break_glass(cut, third, WEIGHT, "two").detail == NOTHING_TO_CHANGE
    local = cut.nodes[third].view().local
    assert local is not None
    assert [e.id for e in local.edits] == ["one"]
    assert not [e for _, _, e in cut.all_of(PersistLocal) if e.local is None]


def test_a_local_drain_with_a_deadline_is_refused_for_nobody_could_meet_it(cut: Cluster) -> None:
    third = cut.devices[2].id
    drained = SetGateway("rdp", "gw1", state="draining", drain_until=1000)
    error = break_glass(cut, third, drained).error
    assert isinstance(error, Refused)
    assert "rdp/gw1 cannot have a deadline" in error.message
    assert "gateway set rdp gw1 --state disabled" in error.remedy
    assert cut.nodes[third].view().local is None
    assert break_glass(cut, third, SetGateway("rdp", "gw1", state="draining"), "two").error is None


def test_a_gateway_that_drains_until_a_deadline_may_be_changed_locally(cut: Cluster) -> None:
    first, _, third = (d.id for d in cut.devices)
    cut.drop = lambda a, b, m: False
    drained = SetGateway("rdp", "gw1", state="draining", drain_until=1000)
    assert propose(cut, first, drained, "drain").error is None
    cut.run(500)
    cut.drop = lambda a, b, m: third in (a, b)
    cut.run(3000)
    assert break_glass(cut, third, WEIGHT).error is None


def test_what_is_committed_wins_when_the_coordinator_is_back(cut: Cluster) -> None:
    third = cut.devices[2].id
    break_glass(cut, third, WEIGHT)
    cut.drop = lambda a, b, m: False
    cut.run(3000)
    assert weight(cut, third) == 1
    assert cut.nodes[third].view().local is None
    (conflict,) = [e.conflict for _, _, e in cut.all_of(KeepConflict)]
    assert conflict.kind == "local"
    assert [e.local for _, _, e in cut.all_of(PersistLocal)][-1] is None
    applied = [e.config for _, who, e in cut.all_of(Apply) if who == third][-1]
    assert applied == in_force(cut, third)


@pytest.mark.parametrize(
    "change",
    [
        DeleteVirtualServer("rdp"),
        web(),
        SetDevice("d1", drained=True),
        RemoveDevice("d1"),
        PutVirtualServer(VirtualServerDocument(name="rdp", vips=("10.0.0.7/24",))),
        PutVirtualServer(VirtualServerDocument(name="rdp", vips=("10.0.0.1/24",), devices=("d3",))),
    ],
)
def test_what_decides_who_owns_an_address_is_refused(cut: Cluster, change: Change) -> None:
    third = cut.devices[2].id
    outcome = break_glass(cut, third, change)
    assert isinstance(outcome.error, Refused)
    assert "local change cannot" in outcome.error.message
    assert cut.nodes[third].view().local is None


def test_a_local_change_opens_no_lease(cut: Cluster) -> None:
    third, began = cut.devices[2].id, cut.now
    listener = ListenerDocument(port=443)
    gateway = GatewayDocument(name="gw1", address="10.0.0.9")
    document = VirtualServerDocument(
        name="rdp", vips=("10.0.0.1/24",), listeners=(listener,), gateways=(gateway,)
    )
    assert break_glass(cut, third, PutVirtualServer(document)).error is None
    cut.run(5000)
    assert [who for _, who, _ in cut.all_of(Acquire, began) if who == third] == []


def test_with_a_coordinator_there_is_no_reason_to_break_glass() -> None:
    cluster = Cluster().settled()
    for device in cluster.devices:
        outcome = break_glass(cluster, device.id, WEIGHT, f"r-{device.name}")
        assert isinstance(outcome.error, Refused)
        assert "can be reached" in outcome.error.message
