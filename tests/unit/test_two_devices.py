"""Two devices: who serves without the other, and who never does."""

from __future__ import annotations

import pytest

from protocol.changes import SetDevice
from protocol.effects import Acquire, Announce, Event, Force, Outcome, ProbeArbiter, Propose
from protocol.errors import Refused
from protocol.timing import Profile, Timing
from protocol.view import Role
from tests.unit.cluster import Cluster, server
from tests.unit.pair import Pair

T = Timing.of(Profile.NORMAL)


def events(pair: Pair, kind: str, since: int = 0) -> list[str]:
    return [e.text for _, _, e in pair.all_of(Event, since) if e.kind == kind]


def took_over(pair: Pair, since: int) -> int | None:
    """When somebody took the VIP after ``since``, nanoseconds later."""
    return next((at - since for at, _, _ in pair.all_of(Acquire, since)), None)


def test_in_quiet_times_two_devices_are_like_any_others_and_ask_nobody() -> None:
    pair = Pair()
    pair.settled()
    before = pair.now
    pair.run(20_000)
    assert pair.primaries() == [pair.first]
    assert not pair.all_of(ProbeArbiter, before)
    assert not pair.all_of(Acquire, before)


def test_a_dead_primary_is_replaced_within_three_and_a_half_intervals() -> None:
    pair = Pair()
    pair.settled()
    pair.crash(pair.first)
    crashed = pair.now
    pair.run(1000)
    took = took_over(pair, crashed)
    assert pair.primaries() == [pair.second]
    assert took is not None
    assert took <= 3.5 * T.interval


def test_a_killed_agent_is_replaced_only_after_its_kernel_fell_silent() -> None:
    pair = Pair()
    pair.settled()
    pair.kill(pair.first)
    pair.run(1000)
    assert pair.primaries() == [pair.second]
    assert pair.overlap_ms() == 0


def test_cut_links_between_the_agents_move_nothing() -> None:
    pair = Pair()
    pair.settled()
    pair.cut_links()
    cut = pair.now
    pair.run(20_000)
    assert pair.primaries() == [pair.first]
    assert not pair.all_of(Acquire, cut)
    assert pair.overlap_ms() == 0
    assert pair.view(pair.first).alone
    pair.heal_links()
    pair.run(1000)
    assert pair.primaries() == [pair.first]
    assert pair.view(pair.second).leader == pair.first
    assert not pair.view(pair.first).alone


def test_a_primary_that_dies_behind_cut_links_is_replaced() -> None:
    pair = Pair()
    pair.settled()
    pair.cut_links()
    pair.run(3000)
    pair.crash(pair.first)
    crashed = pair.now
    pair.run(1000)
    took = took_over(pair, crashed)
    assert pair.primaries() == [pair.second]
    assert took is not None
    assert took <= 3.5 * T.interval


def test_a_primary_cut_off_from_everything_falls_silent_before_the_other_takes_over() -> None:
    pair = Pair()
    pair.settled()
    pair.cut_links()
    pair.cut_off = {pair.first}
    pair.run(2000)
    assert pair.primaries() == [pair.second]
    assert pair.overlap_ms() == 0


def test_the_segment_may_fail_as_long_as_the_agents_hear_each_other() -> None:
    pair = Pair()
    pair.settled()
    pair.segment = pair.arbiter = False
    before = pair.now
    pair.run(10_000)
    assert pair.primaries() == [pair.first]
    assert not pair.all_of(Acquire, before)


def test_without_peer_and_arbiter_nobody_serves_and_one_does_when_it_answers_again() -> None:
    pair = Pair()
    pair.settled()
    pair.cut_links()
    pair.arbiter = False
    pair.run(3000)
    assert pair.primaries() == []
    pair.arbiter = True
    pair.run(2000)
    assert len(pair.primaries()) == 1
    assert pair.overlap_ms() == 0


@pytest.mark.parametrize("offset_ms", range(0, 200, 25))
def test_two_that_find_the_vip_free_at_any_distance_of_time_do_not_both_take_it(
    offset_ms: int,
) -> None:
    pair = Pair()
    pair.settled()
    pair.cut_links()
    pair.arbiter = False
    pair.run(3000)
    pair.cut_off = {pair.second}
    pair.arbiter = True
    pair.run(offset_ms)
    pair.cut_off = set()
    pair.run(2000)
    assert len(pair.primaries()) == 1
    assert pair.overlap_ms() == 0


def test_cut_on_both_paths_both_serve_and_on_contact_one_stays_within_one_interval() -> None:
    pair = Pair()
    pair.settled()
    pair.cut_links()
    pair.segment = False
    pair.run(2000)
    assert pair.primaries() == [pair.first, pair.second]
    pair.heal_links()
    pair.segment = True
    healed = pair.now
    pair.run_until(lambda: len(pair.primaries()) == 1, 2000)
    assert pair.now - healed <= T.interval
    stays = pair.primaries()
    assert stays == [pair.second]
    pair.run(1000)
    assert pair.primaries() == stays
    told = events(pair, "two-owners", healed)
    assert any("this one lets go" in text for text in told)
    assert [who for _, who, _ in pair.all_of(Announce, healed)] == stays


@pytest.mark.parametrize("ms", range(0, 100, 13))
def test_one_stays_at_whatever_moment_of_a_beat_both_paths_come_back(ms: int) -> None:
    pair = Pair()
    pair.settled()
    pair.cut_links()
    pair.segment = False
    pair.run(2000 + ms)
    pair.heal_links()
    pair.segment = True
    healed = pair.now
    pair.run_until(lambda: len(pair.primaries()) < 2, 2000)
    assert pair.now - healed <= T.interval
    assert pair.primaries() == [pair.second]
    pair.run(1000)
    assert pair.primaries() == [pair.second]


def test_two_owners_that_meet_on_the_segment_alone_become_one() -> None:
    pair = Pair()
    pair.settled()
    pair.cut_links()
    pair.segment = False
    pair.run(2000)
    pair.segment = True
    healed = pair.now
    pair.run_until(lambda: len(pair.primaries()) == 1, 2000)
    assert pair.now - healed <= T.interval
    pair.run(3000)
    assert len(pair.primaries()) == 1
    assert events(pair, "two-owners", healed)


def test_two_terms_made_alone_with_one_number_resolve_to_the_higher_id() -> None:
    pair = Pair(wait_for_peer=False)
    pair.settled()
    for device in (pair.first, pair.second):
        pair.crash(device)
    pair.cut_links()
    pair.segment = False
    for device in (pair.first, pair.second):
        pair.restart(device)
    pair.run(3000)
    assert sorted(pair.primaries()) == [pair.first, pair.second]
    assert pair.view(pair.first).term == pair.view(pair.second).term
    pair.heal_links()
    pair.run(int(T.interval / 1e6) + 10)
    assert pair.primaries() == [pair.second]
    pair.run(2000)
    assert pair.view(pair.first).leader == pair.second


def test_a_device_that_starts_waits_for_the_other_one() -> None:
    pair = Pair()
    pair.settled()
    for device in (pair.first, pair.second):
        pair.crash(device)
    pair.restart(pair.second)
    pair.run(10_000)
    assert pair.primaries() == []
    assert "since it started" in pair.view(pair.second).waits
    pair.restart(pair.first)
    pair.run(3000)
    assert len(pair.primaries()) == 1


def test_without_wait_for_peer_a_device_that_starts_serves_alone() -> None:
    pair = Pair(wait_for_peer=False)
    pair.settled()
    for device in (pair.first, pair.second):
        pair.crash(device)
    pair.restart(pair.second)
    pair.run(2000)
    assert pair.primaries() == [pair.second]


def test_so_does_one_with_a_change_on_its_disk_that_the_other_did_not_confirm() -> None:
    pair = Pair(wait_for_peer=False)
    pair.settled()
    coordinator = pair.nodes[pair.first].view().coordinator
    assert coordinator is not None
    pair.crash(pair.other(coordinator))
    name = next(d.name for d in pair.devices if d.id == coordinator)
    pair.give(coordinator, Propose("c", SetDevice(name, drained=True), None, 0))
    pair.run(5000)
    config, committed = pair.disks[coordinator]
    assert config.revision > committed
    assert pair.primaries() == [coordinator]
    pair.crash(coordinator)
    pair.restart(coordinator)
    pair.run(2000)
    assert pair.primaries() == [coordinator]


def test_serve_takes_over_without_an_arbiter_and_hold_waits_for_an_operator() -> None:
    serve = Pair(arbiter=None, on_peer_loss="serve")
    serve.settled()
    serve.crash(serve.first)
    serve.run(1000)
    assert serve.primaries() == [serve.second]
    hold = Pair(arbiter=None, on_peer_loss="hold")
    hold.settled()
    hold.crash(hold.first)
    hold.run(10_000)
    assert hold.primaries() == []
    assert "operator" in hold.view(hold.second).waits
    hold.give(hold.second, Force("r", "rdp"))
    hold.run(1000)
    assert hold.primaries() == [hold.second]
    assert [e.error for _, _, e in hold.all_of(Outcome) if e.request == "r"] == [None]


def test_hold_lets_the_primary_go_on_without_the_other() -> None:
    pair = Pair(arbiter=None, on_peer_loss="hold")
    pair.settled()
    pair.crash(pair.second)
    crashed = pair.now
    pair.run(10_000)
    assert pair.primaries() == [pair.first]
    assert not pair.all_of(Acquire, crashed)
    assert events(pair, "alone", crashed) == ["serves alone: the other device is silent"]


def forced(pair: Pair) -> Exception | None:
    pair.give(pair.second, Force("r", "rdp"))
    pair.run(4000)
    (outcome,) = [e for _, _, e in pair.all_of(Outcome) if e.request == "r"]
    return outcome.error


def test_force_is_refused_while_the_other_device_is_heard() -> None:
    pair = Pair()
    pair.settled()
    assert "is heard" in str(forced(pair))


def test_force_is_refused_while_somebody_answers_for_the_vip() -> None:
    pair = Pair(arbiter=None, on_peer_loss="hold")
    pair.settled()
    pair.cut_links()
    pair.run(2000)
    assert isinstance(forced(pair), Refused)
    assert pair.primaries() == [pair.first]


def test_each_of_two_forces_has_its_outcome() -> None:
    hold = Pair(arbiter=None, on_peer_loss="hold")
    hold.settled()
    hold.crash(hold.first)
    hold.run(2000)
    hold.give(hold.second, Force("one", "rdp"))
    hold.give(hold.second, Force("two", "rdp"))
    hold.run(4000)
    assert hold.primaries() == [hold.second]
    outcomes = {e.request: e.error for _, _, e in hold.all_of(Outcome)}
    assert isinstance(outcomes["one"], Refused)
    assert outcomes["two"] is None


def test_force_ends_the_wait_of_a_device_that_started() -> None:
    pair = Pair()
    pair.settled()
    for device in (pair.first, pair.second):
        pair.crash(device)
    pair.restart(pair.second)
    pair.run(3000)
    assert forced(pair) is None
    assert pair.primaries() == [pair.second]


def test_two_voters_without_a_mode_need_each_other() -> None:
    cluster = Cluster(2, (server(),)).settled()
    cluster.kill(cluster.devices[0].id)
    cluster.run(5000)
    assert cluster.primary() is None


def test_a_primary_that_lost_its_lease_while_alone_asks_before_it_takes_the_vip_again() -> None:
    pair = Pair()
    pair.settled()
    pair.cut_links()
    pair.run(2000)
    pair.arbiter = False
    pair.run(400)
    assert pair.primaries() == []
    pair.arbiter = True
    pair.run(3000)
    assert len(pair.primaries()) == 1
    assert pair.overlap_ms() == 0
    assert pair.view(pair.second).role in (Role.PRIMARY, Role.SECONDARY, Role.CANDIDATE)
