"""Moves that devices make on their own: preemption, the view of gateways, and what holds them."""

from __future__ import annotations

from protocol.changes import DeleteVirtualServer, FreezeVirtualServer, SetDevice
from protocol.damping import Damping
from protocol.effects import (
    Event,
    Fitness,
    GatewayHealth,
    Lame,
    Outcome,
    Pace,
    Promote,
    Propose,
    Send,
)
from protocol.ids import DeviceId
from protocol.messages import HandOver, Info
from protocol.objects import Gateway
from protocol.timing import MILLISECOND, SECOND
from tests.unit.cluster import RDP, Cluster, server

GATEWAYS = tuple(Gateway(name=f"gw{i}", address=f"10.0.0.3{i}") for i in (1, 2))


def cluster_of(**changes: object) -> tuple[Cluster, DeviceId, DeviceId, DeviceId]:
    cluster = Cluster(servers=(server(gateways=GATEWAYS, **changes),)).settled()
    first, second, third = (d.id for d in cluster.devices)
    return cluster, first, second, third


def promote(cluster: Cluster, to: str) -> None:
    request = f"p{cluster.now}"
    cluster.give(cluster.devices[0].id, Promote(request, "rdp", to))
    cluster.run(500)


def change(cluster: Cluster, what: FreezeVirtualServer | SetDevice) -> None:
    request = f"c{cluster.now}"
    cluster.give(cluster.devices[0].id, Propose(request, what, None, 0))
    cluster.run(500)
    (outcome,) = [e for _, _, e in cluster.all_of(Outcome) if e.request == request]
    assert outcome.error is None


def events(cluster: Cluster, kind: str, since: int = 0) -> list[Event]:
    return [e for _, _, e in cluster.all_of(Event, since) if e.kind == kind]


# Preemption


def test_without_preempt_a_better_ranked_device_stays_secondary() -> None:
    cluster, _, second, _ = cluster_of()
    promote(cluster, "d2")
    cluster.run(300_000)
    assert cluster.primary() == second


def test_preempt_hands_over_when_a_better_ranked_device_was_fit_for_that_long() -> None:
    cluster, first, second, _ = cluster_of(preempt=60)
    promote(cluster, "d2")
    cluster.run(59_000)
    assert cluster.primary() == second
    before = cluster.now
    cluster.run(3_000)
    assert cluster.primary() == first
    assert [who for _, who, _ in cluster.all_of(Lame, before)] == [second]
    (event,) = events(cluster, "move", before)
    assert event.text == "has been better placed for 60 s: ranks first"


def test_the_time_starts_anew_when_the_better_device_was_unfit_meanwhile() -> None:
    cluster, first, second, _ = cluster_of(preempt=60)
    promote(cluster, "d2")
    cluster.run(40_000)
    cluster.give(first, Fitness(((RDP, "interface eth0 has no carrier"),)))
    cluster.run(1_000)
    cluster.give(first, Fitness())
    cluster.run(50_000)
    assert cluster.primary() == second
    cluster.run(12_000)
    assert cluster.primary() == first


def test_a_device_that_returns_from_a_crash_is_handed_the_service_after_that_time() -> None:
    cluster, first, _, _ = cluster_of(preempt=5)
    cluster.kill(first)
    cluster.run(2_000)
    successor = cluster.primary()
    cluster.restart(first)
    cluster.run(4_000)
    assert cluster.primary() == successor
    cluster.run(3_000)
    assert cluster.primary() == first


# The view of the gateways


def test_a_primary_that_sees_fewer_gateways_for_a_while_hands_over() -> None:
    cluster, first, second, third = cluster_of()
    cluster.give(first, GatewayHealth(((RDP, "gw1"),)))
    cluster.give(second, GatewayHealth(((RDP, "gw2"), (RDP, "gw1"))))
    cluster.run(9_000)
    assert cluster.primary() == first
    cluster.run(2_000)
    assert cluster.primary() == third
    assert events(cluster, "move")[0].text.endswith("sees more healthy gateways")


def test_a_primary_that_sees_no_gateway_at_all_hands_over_after_two_checks() -> None:
    cluster, first, _, third = cluster_of()
    everything = tuple((RDP, gateway.name) for gateway in GATEWAYS)
    cluster.give(first, GatewayHealth(everything))
    cluster.give(third, GatewayHealth(everything[1:]))
    cluster.run(5_000)
    assert cluster.primary() == first
    cluster.run(2_500)
    assert cluster.primary() not in (first, third)


def test_a_gateway_that_nobody_sees_moves_nothing() -> None:
    cluster, first, second, third = cluster_of()
    for each in (first, second, third):
        cluster.give(each, GatewayHealth(((RDP, "gw1"),)))
    cluster.run(60_000)
    assert cluster.primary() == first


def test_a_better_view_for_a_moment_moves_nothing() -> None:
    cluster, first, _, _ = cluster_of()
    for _ in range(5):
        cluster.give(first, GatewayHealth(((RDP, "gw1"),)))
        cluster.run(8_000)
        cluster.give(first, GatewayHealth())
        cluster.run(1_000)
    assert cluster.primary() == first


def test_preempt_returns_to_no_device_that_sees_fewer_gateways() -> None:
    cluster, first, second, _ = cluster_of(preempt=5)
    cluster.give(first, GatewayHealth(((RDP, "gw1"),)))
    cluster.run(60_000)
    assert cluster.primary() == second
    cluster.give(first, GatewayHealth())
    cluster.run(10_000)
    assert cluster.primary() == first


# Late devices


def test_a_late_device_is_ranked_last_and_says_why() -> None:
    cluster, first, second, third = cluster_of()
    cluster.give(second, Pace(45 * MILLISECOND))
    cluster.run(3_000)
    assert cluster.view(second).late == "its agent wakes up 45 ms late"
    cluster.kill(first)
    cluster.run(1_000)
    assert cluster.primary() == third


def test_a_late_device_serves_where_no_other_can() -> None:
    cluster, first, second, third = cluster_of()
    cluster.give(second, Pace(45 * MILLISECOND))
    cluster.give(third, Fitness(((RDP, "interface eth0 is down"),)))
    cluster.run(3_000)
    cluster.kill(first)
    cluster.run(1_000)
    assert cluster.primary() == second


def test_preempt_moves_away_from_a_late_primary() -> None:
    cluster, first, second, _ = cluster_of(preempt=5)
    cluster.give(first, Pace(45 * MILLISECOND))
    cluster.run(10_000)
    assert cluster.primary() == second


def test_lateness_in_between_changes_nothing_so_that_it_does_not_flap() -> None:
    cluster, _, second, _ = cluster_of()
    cluster.give(second, Pace(21 * MILLISECOND))
    cluster.run(2_000)
    since = cluster.now
    for late in (18, 22, 17, 25):
        cluster.give(second, Pace(late * MILLISECOND))
        cluster.run(2_000)
    assert cluster.view(second).late == "its agent wakes up 21 ms late"
    sent = [e.message for _, who, e in cluster.all_of(Send, since) if who == second]
    told = [message for message in sent if isinstance(message, Info)]
    assert len({info.late for info in told}) == 1
    cluster.give(second, Pace(3 * MILLISECOND))
    cluster.run(2_000)
    assert cluster.view(second).late == ""


def test_one_slow_voter_of_three_makes_nobody_late_but_two_do() -> None:
    cluster, first, second, third = cluster_of()
    contacts = cluster.nodes[first].beats.contacts
    for _ in range(20):
        contacts[third].round_trips.append(90 * MILLISECOND)
    cluster.run(1_500)
    assert cluster.view(first).late == ""
    for _ in range(20):
        contacts[second].round_trips.append(70 * MILLISECOND)
    cluster.run(1_500)
    assert cluster.view(first).late == "its voters answer after 70 ms"


# Damping


def test_three_moves_within_a_minute_are_nobodys_concern() -> None:
    damping = Damping()
    for at in (0, 20, 40, 61):
        damping.note(at * SECOND)
    assert damping.left(61 * SECOND) == 0


def test_more_are_and_the_hold_doubles_each_time() -> None:
    damping, now = Damping(), 0
    holds = []
    for _ in range(7):
        for _ in range(4):
            now += SECOND
            damping.note(now)
        holds.append(damping.left(now) // SECOND)
        now = damping.until
    assert holds == [120, 240, 480, 960, 1920, 3840, 3840]


def test_after_an_hour_of_peace_the_next_hold_is_short_again() -> None:
    damping = Damping()
    for at in range(4):
        damping.note(at * SECOND)
    later = damping.until + 3601 * SECOND
    for at in range(4):
        damping.note(later + at * SECOND)
    assert damping.left(later + 3 * SECOND) == 120 * SECOND


def test_a_damped_service_stays_but_obeys_its_operator_and_fails_over() -> None:
    cluster, first, second, third = cluster_of(preempt=5)
    for to in ("d2", "d3", "d2", "d3"):
        promote(cluster, to)
    held = cluster.view(first).damped
    assert 119 * SECOND < held <= 120 * SECOND
    cluster.run(60_000)
    assert cluster.primary() == third  # preemption waits
    promote(cluster, "d2")
    assert cluster.primary() == second  # an operator does not
    cluster.kill(second)
    cluster.run(1_000)
    assert cluster.primary() == first  # nor does a failure


def test_what_a_damped_service_was_held_back_from_happens_afterwards() -> None:
    cluster, first, _, third = cluster_of(preempt=5)
    for to in ("d2", "d3", "d2", "d3"):
        promote(cluster, to)
    cluster.run(110_000)
    assert cluster.primary() == third
    cluster.run(15_000)
    assert cluster.primary() == first


# Freeze


def test_a_frozen_service_is_neither_preempted_nor_drained_but_promoted() -> None:
    cluster, first, second, third = cluster_of(preempt=5)
    promote(cluster, "d2")
    change(cluster, FreezeVirtualServer("rdp", True))
    change(cluster, SetDevice("d2", True))
    cluster.run(20_000)
    assert cluster.primary() == second
    promote(cluster, "d3")
    assert cluster.primary() == third
    change(cluster, FreezeVirtualServer("rdp", False))
    cluster.run(10_000)
    assert cluster.primary() == first


def test_nobody_takes_a_frozen_service_over_but_its_last_primary_comes_back() -> None:
    cluster, first, _, _ = cluster_of()
    change(cluster, FreezeVirtualServer("rdp", True))
    cluster.kill(first)
    cluster.run(20_000)
    assert cluster.primary() is None
    cluster.restart(first)
    cluster.run(2_000)
    assert cluster.primary() == first


def test_a_frozen_primary_keeps_its_lease_through_a_cut() -> None:
    cluster, first, _, _ = cluster_of()
    change(cluster, FreezeVirtualServer("rdp", True))
    cluster.drop = lambda a, b, m: first in (a, b)
    cluster.run(2_000)
    assert cluster.primary() is None
    cluster.drop = lambda a, b, m: False
    cluster.run(2_000)
    assert cluster.primary() == first


def test_unfreezing_lets_another_take_over_at_once() -> None:
    cluster, first, second, third = cluster_of()
    change(cluster, FreezeVirtualServer("rdp", True))
    cluster.kill(first)
    cluster.run(3_000)
    assert cluster.primary() is None
    cluster.give(second, Propose("u1", FreezeVirtualServer("rdp", False), None, 0))
    cluster.run(1_000)
    assert cluster.primary() in (second, third)


# Stalls of the own process


def test_a_device_that_was_stopped_for_long_starts_no_election_when_it_goes_on() -> None:
    cluster, first, second, _ = cluster_of()
    term = cluster.view(first).term
    asleep = cluster.nodes.pop(second)
    cluster.run(10_000)
    cluster.nodes[second] = asleep
    before = cluster.now
    cluster.run(3_000)
    assert cluster.primary() == first
    assert cluster.view(second).term == term
    assert not [e for _, _, e in cluster.all_of(Event, before) if e.kind == "primary"]


def test_a_lost_hand_over_message_is_a_move_that_some_voters_did_not_count() -> None:
    cluster, first, second, third = cluster_of()
    cluster.drop = lambda a, b, m: isinstance(m, HandOver) and b == third
    for to in ("d2", "d1", "d2", "d1"):
        promote(cluster, to)
    assert cluster.view(first).damped > 0
    assert cluster.view(second).damped > 0
    assert cluster.view(third).damped == 0


def test_nothing_is_remembered_of_the_moves_of_what_is_gone() -> None:
    cluster = Cluster().settled()
    first, second, _ = (d.id for d in cluster.devices)
    cluster.give(second, Propose("d", SetDevice("d1", drained=True), None, 0))
    cluster.run(500)
    assert cluster.primary() == second
    cluster.give(second, Propose("x", DeleteVirtualServer("rdp"), None, 0))
    cluster.run(3_000)
    assert not cluster.nodes[first].moving._not_before
