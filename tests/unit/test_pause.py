"""A machine that was paused: noticed by clocks that went on, and given up what it held."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agent.pause import (
    CALIBRATION_NS,
    RTC_MARGIN_NS,
    TSC_MARGIN_NS,
    Battery,
    Clock,
    Comparison,
    PauseWatch,
    Reading,
    Ticks,
)
from agent.steadyclocks import READ_TSC, rtc_reader, tsc_reader, undisturbed
from protocol.effects import Event, Paused, Received, Release
from protocol.messages import Ack, Beat, Voted
from protocol.timing import MILLISECOND, SECOND
from protocol.view import Role
from tests.unit.cluster import Cluster

GIGAHERTZ = 3
"""Ticks of a nanosecond."""


def test_clocks_that_go_alike_show_no_pause() -> None:
    comparison = Comparison(TSC_MARGIN_NS)
    found = [comparison.lost(t, t + t // 1000) for t in range(0, 100 * SECOND, SECOND // 3)]
    assert set(found) == {0}


def test_the_first_reading_is_compared_with_nothing() -> None:
    assert Comparison(TSC_MARGIN_NS).lost(0, 10**18) == 0


def test_a_jump_of_the_clock_that_goes_on_is_a_pause_once() -> None:
    comparison = Comparison(TSC_MARGIN_NS)
    comparison.lost(0, 0)
    assert comparison.lost(100 * MILLISECOND, 100 * MILLISECOND + 5 * SECOND) == 5 * SECOND
    assert comparison.lost(200 * MILLISECOND, 200 * MILLISECOND + 5 * SECOND) == 0


def test_a_clock_of_whole_seconds_shows_no_pause_where_there_was_none() -> None:
    comparison = Comparison(RTC_MARGIN_NS)
    shown = [(t, t // SECOND * SECOND) for t in range(0, 30 * SECOND, 250 * MILLISECOND)]
    assert {comparison.lost(*each) for each in shown} == {0}


@pytest.mark.parametrize("phase_ms", [0, 400, 990])
def test_a_clock_of_whole_seconds_shows_every_pause_over_three(phase_ms: int) -> None:
    comparison = Comparison(RTC_MARGIN_NS)
    at = phase_ms * MILLISECOND
    comparison.lost(at, at // SECOND * SECOND)
    after, real = at + MILLISECOND, at + MILLISECOND + 3 * SECOND + MILLISECOND
    assert comparison.lost(after, real // SECOND * SECOND) > 0


def test_a_clock_that_was_set_back_is_no_pause() -> None:
    comparison = Comparison(RTC_MARGIN_NS)
    comparison.lost(0, 100 * SECOND)
    assert comparison.lost(SECOND, 0) == 0


def shown(*readings: tuple[int, int, int]) -> int:
    """Seconds that a watch takes for a pause, of readings of three clocks in seconds."""
    battery, comparison = Battery(), Comparison(RTC_MARGIN_NS)
    found = [
        comparison.lost(
            own * SECOND, battery.shown(*(each * SECOND for each in (own, rtc, people)))
        )
        for own, rtc, people in readings
    ]
    return sum(found) // SECOND


def test_a_battery_backed_clock_that_this_host_sets_shows_no_pause() -> None:
    hour = 3600
    assert shown((0, 0, 0), (1, 1, 1 + hour), (660, 660 + hour, 660 + hour)) == 0
    assert shown((0, 0, hour), (1, 1 + hour, 1 + hour), (2, 12 + hour, 2 + hour)) == 10


def test_a_pause_shows_whatever_people_have_set() -> None:
    hour = 3600
    assert shown((0, 0, 0), (1, 11, 1)) == 10
    assert shown((0, 0, 0), (1, 11, 11)) == 10, "a time server was quicker"
    assert shown((0, 0, hour), (1, 11, 1 + hour)) == 10, "not set yet"
    assert shown((0, hour, 0), (1, 11 + hour, 1)) == 10, "in local time"


def test_a_process_that_was_stopped_was_not_a_machine_that_was_paused() -> None:
    comparison = Comparison(TSC_MARGIN_NS)
    comparison.lost(0, 0)
    assert comparison.lost(3600 * SECOND, 3600 * SECOND + SECOND) == 0


def calibrated(ticks: Ticks, start: int = 0) -> int:
    """Count ticks until their rate is known; when that was."""
    for now in range(start, start + 10 * SECOND, 100 * MILLISECOND):
        if ticks.nanoseconds(now, now * GIGAHERTZ) is not None:
            return now
    raise AssertionError("the rate was not found")


def test_the_rate_of_ticks_is_learnt_in_two_periods() -> None:
    ticks = Ticks()
    assert calibrated(ticks) <= 2 * CALIBRATION_NS + 200 * MILLISECOND
    assert ticks.nanoseconds(0, 9 * SECOND * GIGAHERTZ) == 9 * SECOND


def test_a_pause_while_the_rate_is_learnt_spoils_nothing() -> None:
    ticks = Ticks()
    ticks.nanoseconds(0, 0)
    paused = 7 * SECOND * GIGAHERTZ
    now = 0
    while ticks.nanoseconds(now, now * GIGAHERTZ + (paused if now > SECOND // 2 else 0)) is None:
        now += 100 * MILLISECOND
        assert now < 10 * SECOND
    later = ticks.nanoseconds(0, 9 * SECOND * GIGAHERTZ)
    assert later == pytest.approx(9 * SECOND, rel=1e-3)


def test_each_clock_is_read_as_often_as_it_may_be() -> None:
    reads: list[int] = []

    def read() -> Reading:
        reads.append(1)
        return 0, 0

    watch = PauseWatch([Clock("it", read, Comparison(0), every=250 * MILLISECOND)])
    for now in range(0, SECOND, 50 * MILLISECOND):
        watch.lost(now)
    assert len(reads) == 4


def test_the_longest_pause_that_any_clock_shows_counts() -> None:
    values = iter([(0, 0), (0, 0), (SECOND, 9 * SECOND), (SECOND, SECOND)])
    clocks = [Clock(name, lambda: next(values), Comparison(SECOND)) for name in ("one", "two")]
    watch = PauseWatch(clocks)
    assert [watch.lost(0), watch.lost(SECOND)] == [0, 8 * SECOND]
    assert str(watch) == "one and two"


def test_without_such_a_clock_nothing_is_noticed() -> None:
    watch = PauseWatch(())
    assert (watch.lost(0), str(watch)) == (0, "nothing")


def test_the_rtc_is_read_anew_each_time(tmp_path: Path) -> None:
    file = tmp_path / "since_epoch"
    assert rtc_reader(file) is None
    file.write_text("1000\n", encoding="ascii")
    read = rtc_reader(file)
    assert read is not None
    first = read()
    assert first is not None
    assert first[1] == 1000 * SECOND
    file.write_text("1007\n", encoding="ascii")
    second = read()
    assert second is not None
    assert second[1] == 1007 * SECOND
    file.write_text("", encoding="ascii")
    assert read() is None


def test_the_time_stamp_counter_of_this_processor_grows() -> None:
    read = tsc_reader()
    if read is None:
        pytest.skip("this processor has none that can be read")
    assert len(READ_TSC) == 10
    values = [read() for _ in range(1000)]
    assert values[0] < values[-1]


def test_a_reading_in_the_middle_of_which_the_process_waited_is_dropped() -> None:
    quick = undisturbed(lambda: 7)
    assert any(quick() is not None for _ in range(1000))

    def slow() -> int:
        time.sleep(0.005)
        return 7

    assert undisturbed(slow)() is None


# What the core does


def test_a_primary_that_was_paused_gives_up_before_it_reads_what_waited() -> None:
    cluster = Cluster().settled()
    primary = cluster.primary()
    assert primary is not None
    node = cluster.nodes[primary]
    other = next(d.id for d in cluster.devices if d.id != primary)
    fresh = node.contacts[other].last_sent
    effects = node.step(cluster.now, [Paused(9 * SECOND), Received(other, Ack(fresh, 1))])
    assert any(isinstance(effect, Release) for effect in effects)
    assert any(isinstance(e, Event) and e.kind == "paused" for e in effects)
    assert cluster.view(primary).role is Role.SECONDARY


def test_votes_for_a_candidate_that_was_paused_make_no_primary() -> None:
    cluster = Cluster().settled()
    primary = cluster.primary()
    assert primary is not None
    kept: list[tuple[object, object, Voted]] = []

    def drop(sender: object, to: object, message: object) -> bool:
        if isinstance(message, Voted):
            kept.append((sender, to, message))
            return True
        return isinstance(message, Beat | Ack) and primary in (sender, to)

    cluster.drop = drop
    cluster.run_until(lambda: any(message.granted for _, _, message in kept))
    sender, candidate, vote = next(each for each in kept if each[2].granted)
    node = cluster.nodes[candidate]  # type: ignore[index]
    votes = [Received(sender, vote)]  # type: ignore[arg-type]
    node.step(cluster.now, [Paused(9 * SECOND), *votes])
    assert node.groups[vote.group].role is Role.SECONDARY


def test_what_a_paused_device_promised_stays() -> None:
    cluster = Cluster().settled()
    primary = cluster.primary()
    voter = next(d.id for d in cluster.devices if d.id != primary)
    group = cluster.nodes[voter].groups
    before = {gid: each.voter.promise_until for gid, each in group.items()}
    cluster.nodes[voter].step(cluster.now, [Paused(9 * SECOND)])
    assert {gid: each.voter.promise_until for gid, each in group.items()} == before


def test_a_site_in_which_the_primary_was_paused_has_one_again() -> None:
    cluster = Cluster().settled()
    primary = cluster.primary()
    assert primary is not None
    cluster.give(primary, Paused(SECOND))
    cluster.run(50)
    assert cluster.primary() is None
    cluster.run_until(lambda: cluster.primary() is not None, 2000)
