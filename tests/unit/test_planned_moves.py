"""Planned moves: once, at their time, by whoever is primary then."""

from __future__ import annotations

import pytest

from protocol.changes import CancelMove, Change, FreezeVirtualServer, PlanMove
from protocol.effects import Event, Lame, Outcome, Promote, Propose, WallClock
from protocol.errors import InvalidInput, Refused
from protocol.timing import SECOND
from tests.unit.cluster import RDP, Cluster

ID = "0123456789abcdef"


def told(cluster: Cluster, what: Change) -> Outcome:
    """The outcome of a change, asked of the last device."""
    request, unix_s = f"c{cluster.now}", cluster.now // SECOND
    cluster.give(cluster.devices[-1].id, Propose(request, what, None, unix_s))
    cluster.run(700)
    (outcome,) = [e for _, _, e in cluster.all_of(Outcome) if e.request == request]
    return outcome


def planned(cluster: Cluster, to: str | None, after: int) -> int:
    """Plan a move ``after`` seconds ahead; when it is due."""
    at = cluster.now // SECOND + after
    assert told(cluster, PlanMove("rdp", to, at, ID)).error is None
    return at


def notes(cluster: Cluster) -> list[str]:
    return [e.text for _, _, e in cluster.all_of(Event) if e.kind == "move"]


def test_a_planned_move_is_made_at_its_time_and_forgotten() -> None:
    cluster = Cluster().settled()
    first, second, _ = (d.id for d in cluster.devices)
    at = planned(cluster, "d2", 30)
    assert all(RDP in n.configuration.in_force.planned_moves for n in cluster.nodes.values())
    cluster.run((at * SECOND - cluster.now) / 1e6)
    assert cluster.primary() == first
    cluster.run(200)
    assert cluster.primary() == second
    cluster.run(20_000)
    assert cluster.primary() == second
    assert len(cluster.all_of(Lame)) == 1
    assert not cluster.nodes[first].configuration.in_force.planned_moves


def test_wall_clocks_decide_when_its_time_has_come() -> None:
    cluster = Cluster().settled()
    for each in cluster.nodes:
        cluster.give(each, WallClock(1_700_000_000 * SECOND))
    unix_s = 1_700_000_000 + cluster.now // SECOND
    change = PlanMove("rdp", "d3", unix_s + 10, ID)
    cluster.give(cluster.devices[0].id, Propose("c", change, None, unix_s))
    cluster.run(8_000)
    assert cluster.primary() == cluster.devices[0].id
    cluster.run(3_000)
    assert cluster.primary() == cluster.devices[2].id


def test_whoever_is_primary_then_makes_it() -> None:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    planned(cluster, "d3", 10)
    cluster.kill(first)
    cluster.run(5_000)
    assert cluster.primary() == second
    cluster.run(6_000)
    assert cluster.primary() == third


def test_without_a_named_successor_it_is_made_once_too() -> None:
    cluster = Cluster().settled()
    planned(cluster, None, 5)
    cluster.run(30_000)
    assert cluster.primary() == cluster.devices[1].id
    assert len(cluster.all_of(Lame)) == 1


def test_a_plan_can_be_taken_back_and_replaced() -> None:
    cluster = Cluster().settled()
    planned(cluster, "d2", 5)
    planned(cluster, "d3", 8)
    cluster.run(6_000)
    assert cluster.primary() == cluster.devices[0].id
    assert told(cluster, CancelMove("rdp")).error is None
    cluster.run(10_000)
    assert cluster.primary() == cluster.devices[0].id
    assert isinstance(told(cluster, CancelMove("rdp")).error, Refused)


def test_it_waits_for_a_coordinator_but_not_for_ever() -> None:
    cluster = Cluster(5).settled()
    first = cluster.devices[0].id
    planned(cluster, "d2", 5)
    cluster.drop = lambda a, b, m: type(m).__name__ in ("Append", "Stored")
    cluster.run(30_000)
    assert cluster.primary() == first
    cluster.drop = lambda a, b, m: False
    cluster.run(12_000)
    assert cluster.primary() == cluster.devices[1].id


def test_it_is_made_once_although_nobody_answers_that_the_plan_was_taken() -> None:
    """What became of that is read in the configuration."""
    cluster = Cluster().settled()
    coordinator, primary, other = (d.id for d in cluster.devices)
    cluster.give(coordinator, Promote("p", "rdp", "d2"))
    cluster.run(1_000)
    assert cluster.primary() == primary
    cluster.effects.clear()
    planned(cluster, "d3", 5)
    cluster.drop = lambda a, b, m: type(m).__name__ == "Return" and b == primary
    cluster.run(12_000)
    assert not cluster.nodes[primary].configuration.in_force.planned_moves
    cluster.drop = lambda a, b, m: False
    cluster.run(20_000)
    assert cluster.primary() == other
    assert len(cluster.all_of(Lame)) == 1
    assert notes(cluster) == ["begins a planned move"]


def test_a_plan_that_somebody_else_took_back_meanwhile_is_not_made() -> None:
    cluster = Cluster().settled()
    coordinator, primary, _ = (d.id for d in cluster.devices)
    cluster.give(coordinator, Promote("p", "rdp", "d2"))
    cluster.run(1_000)
    cluster.effects.clear()
    planned(cluster, "d3", 5)
    cluster.drop = lambda a, b, m: a == primary and type(m).__name__ == "ProposeChange"
    cluster.run(4_500)
    assert told(cluster, CancelMove("rdp")).error is None
    cluster.run(12_000)
    cluster.drop = lambda a, b, m: False
    cluster.run(20_000)
    assert cluster.primary() == primary
    assert not cluster.all_of(Lame)
    assert notes(cluster) == []


def test_a_move_that_could_not_be_made_for_long_is_dropped() -> None:
    cluster = Cluster().settled()
    first = cluster.devices[0].id
    planned(cluster, "d2", 5)
    for each in cluster.nodes:
        cluster.give(each, WallClock(400 * SECOND))
    cluster.run(3_000)
    assert cluster.primary() == first
    (note,) = notes(cluster)
    assert note.startswith("planned move not made: it could not be made for 39")
    assert not cluster.nodes[first].configuration.in_force.planned_moves


def test_a_refused_move_says_why() -> None:
    cluster = Cluster().settled()
    planned(cluster, "d2", 5)
    cluster.kill(cluster.devices[1].id)
    cluster.run(8_000)
    assert cluster.primary() == cluster.devices[0].id
    assert notes(cluster)[-1].startswith("planned move not made: cannot hand over: the device has")


def test_a_frozen_service_takes_no_plan_and_makes_no_planned_move() -> None:
    cluster = Cluster().settled()
    planned(cluster, "d2", 5)
    assert told(cluster, FreezeVirtualServer("rdp", True)).error is None
    cluster.run(8_000)
    assert cluster.primary() == cluster.devices[0].id
    assert notes(cluster) == ["planned move not made: the Virtual Server is frozen"]
    refused = told(cluster, PlanMove("rdp", "d2", cluster.now // SECOND + 60, ID)).error
    assert isinstance(refused, Refused)


def test_a_plan_of_what_is_primary_already_changes_nothing() -> None:
    cluster = Cluster().settled()
    planned(cluster, "d2", 5)
    cluster.give(cluster.devices[0].id, Promote("p", "rdp", "d2"))
    cluster.run(10_000)
    assert cluster.primary() == cluster.devices[1].id
    assert len(cluster.all_of(Lame)) == 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (PlanMove("rdp", "d2", 0, ID), InvalidInput),
        (PlanMove("rdp", "d2", 40 * 86_400, ID), InvalidInput),
        (PlanMove("rdp", "d9", 60, ID), InvalidInput),
        (PlanMove("web", "d2", 60, ID), InvalidInput),
        (PlanMove("rdp", "d2", 60, "x"), InvalidInput),
    ],
)
def test_a_plan_that_cannot_be_is_refused(change: PlanMove, error: type[Exception]) -> None:
    cluster = Cluster().settled()
    assert isinstance(told(cluster, change).error, error)
