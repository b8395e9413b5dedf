"""Shares of gateways that follow what happens."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.balancing import LEAST_HORIZON, MAX_MOVED, Balancer, lean
from agent.distribution import AT_REST, Moment
from agent.hashing import MAX_ROTATION, assign_slots, rotation
from protocol.ids import GroupId
from protocol.objects import SLOTS, Balance, Gateway, Listener, VirtualServer

UID = GroupId("00000000000000aa")
NAMES = ("gw1", "gw2", "gw3", "gw4")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def server(
    slow_start: int = 0,
    balance: Balance = "hash",
    most: int = 0,
    states: tuple[str, ...] = (),
    backups: tuple[str, ...] = (),
) -> VirtualServer:
    return VirtualServer(
        uid=UID,
        name="web",
        vips=(),
        slow_start=slow_start,
        gateways=tuple(
            Gateway(
                name=name,
                address=f"10.0.0.{n}",
                state="draining" if name in states else "enabled",
                max_connections=most,
                backup=name in backups,
            )
            for n, name in enumerate(NAMES, 1)
        ),
        listeners=(Listener(protocol="tcp", port=80, gateway_port=80, balance=balance),),
        seed=7,
    )


def down(*names: str) -> frozenset[tuple[GroupId, str]]:
    return frozenset((UID, name) for name in names)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def balancer(clock: Clock) -> Balancer:
    return Balancer(clock)


def test_a_gateway_that_came_back_grows_in_steps(balancer: Balancer, clock: Clock) -> None:
    vs = server(slow_start=20)
    balancer.observe([vs], down("gw1"))
    assert balancer.moment == AT_REST
    balancer.observe([vs], down())
    seen = []
    for _ in range(21):
        seen.append(balancer.moment.growing.get((UID, "gw1"), 100))
        clock.now += 1
    assert seen == [*range(5, 100, 5), 100, 100]
    assert balancer.moment == AT_REST


def test_a_gateway_that_fails_while_it_grows_begins_anew(balancer: Balancer, clock: Clock) -> None:
    vs = server(slow_start=20)
    for away in (down("gw1"), down(), down("gw1")):
        balancer.observe([vs], away)
        clock.now += 10
    balancer.observe([vs], down())
    assert balancer.moment == Moment(growing={(UID, "gw1"): 5})


def test_a_gateway_that_was_drained_or_is_new_grows_too(balancer: Balancer) -> None:
    vs = server(slow_start=20, states=("gw2",))
    balancer.observe([vs], down())
    balancer.observe([server(slow_start=20)], down())
    assert balancer.moment.growing == {(UID, "gw2"): 5}


def test_another_host_under_the_name_of_one_grows_and_one_that_is_renamed_does_not(
    balancer: Balancer,
) -> None:
    vs = server(slow_start=20)
    balancer.observe([vs], down())
    one, two, *rest = vs.gateways
    moved, renamed = replace(one, address="10.0.0.9"), replace(two, name="new")
    balancer.observe([replace(vs, gateways=(moved, renamed, *rest))], down())
    assert balancer.moment.growing == {(UID, "gw1"): 5}


def test_nothing_grows_when_an_agent_starts_or_without_slow_start(balancer: Balancer) -> None:
    balancer.observe([server(slow_start=20)], down())
    assert balancer.moment == AT_REST
    balancer.observe([server()], down("gw1"))
    balancer.observe([server()], down())
    assert balancer.moment == AT_REST


def test_a_gateway_with_its_most_connections_is_full(balancer: Balancer, clock: Clock) -> None:
    balancer.observe([server(most=10)], down())
    assert balancer.count_is_due
    balancer.count({(UID, "gw1"): 10, (UID, "gw2"): 9}, took_s=0.001)
    assert balancer.moment == Moment(full=down("gw1"))
    assert not balancer.count_is_due
    clock.now += 2
    assert balancer.count_is_due


def test_a_gateway_whose_limit_is_taken_off_is_full_no_more(balancer: Balancer) -> None:
    balancer.observe([server(most=10)], down())
    balancer.count({(UID, "gw1"): 10}, took_s=0.001)
    balancer.observe([server()], down())
    assert balancer.moment == AT_REST
    assert balancer.notes() == {}


def test_another_limit_holds_at_once_for_what_was_counted(balancer: Balancer) -> None:
    """The kernel's count begins anew with it, and would let as many in once more."""
    balancer.observe([server(most=10)], down())
    balancer.count({(UID, "gw1"): 9, (UID, "gw2"): 5}, took_s=0.001)
    shut = []
    for most in (10, 8, 5, 6, 20):
        balancer.observe([server(most=most)], down())
        shut.append(balancer.moment)
    full = [Moment(full=down(*names)) for names in (["gw1"], ["gw1", "gw2"], ["gw1"])]
    assert shut == [AT_REST, *full, AT_REST]


def test_what_was_counted_before_nobody_counted_fills_no_gateway(balancer: Balancer) -> None:
    balancer.observe([server(most=10)], down())
    balancer.count({(UID, "gw1"): 10}, took_s=0.001)
    for most in (0, 10):
        balancer.observe([server(most=most)], down())
    assert balancer.moment == AT_REST


def test_a_large_limit_is_met_with_foresight(balancer: Balancer, clock: Clock) -> None:
    balancer.observe([server(most=10_000)], down())
    full = []
    for live in (0, 4000, 8000, 8100, 9000, 10_000, 9990):
        balancer.count({(UID, "gw1"): live}, took_s=0.001)
        full.append((UID, "gw1") in balancer.moment.full)
        balancer.observe([server(most=10_000)], down("gw2"))
        assert ((UID, "gw1") in balancer.moment.full) is full[-1], "until the next count"
    assert full == [False, False, True, False, False, True, False]


def test_counting_takes_a_small_part_of_the_time(balancer: Balancer, clock: Clock) -> None:
    balancer.observe([server(balance="least-connections")], down())
    balancer.count({}, took_s=0.5)
    clock.now += 9
    assert not balancer.count_is_due
    clock.now += 1
    assert balancer.count_is_due


def test_nothing_is_counted_where_nobody_needs_it(balancer: Balancer) -> None:
    balancer.observe([server()], down())
    assert not balancer.count_is_due


def test_the_notes_say_why_a_gateway_takes_nothing(balancer: Balancer) -> None:
    vs = server(slow_start=20, most=3, backups=("gw4",))
    balancer.observe([vs], down("gw2"))
    balancer.observe([vs], down())
    balancer.count({(UID, "gw1"): 3}, took_s=0.001)
    notes = {name: note.partition(":")[0] for (_, name), note in balancer.notes().items()}
    assert notes == {"gw1": "full", "gw2": "slow start", "gw4": "backup"}


def flow_on(weights: dict[str, int], live: dict[str, int], flows: int) -> dict[str, int]:
    """Connections after ``flows`` new ones, with a pass after each eight."""
    part: dict[str, int] = {}
    for _ in range(flows // 8):
        part = lean(weights, live, part)
        by_seat = {seat: w * part[n] for seat, (n, w) in enumerate(weights.items())}
        slots = Counter(assign_slots(by_seat, 7))
        live = {n: live[n] + round(8 * slots[seat] / SLOTS) for seat, n in enumerate(weights)}
    return live


def test_connections_become_even() -> None:
    found = flow_on(dict.fromkeys(NAMES, 1), {"gw1": 60, "gw2": 0, "gw3": 0, "gw4": 0}, 240)
    assert max(found.values()) - min(found.values()) <= 20, found
    assert found["gw1"] <= 85


def test_even_means_by_weight() -> None:
    found = flow_on({"gw1": 3, "gw2": 1}, {"gw1": 0, "gw2": 40}, 160)
    assert 2 <= found["gw1"] / found["gw2"] <= 4, found


@pytest.mark.parametrize("lasting", [0.0, 0.1, 0.5, 0.9])
def test_shares_come_to_rest_however_long_connections_last(lasting: float) -> None:
    """Of what lives at one pass that part does at the next: at 0.0, none, as with short ones."""
    weights = {"gw1": 1, "gw2": 1, "gw3": 2}
    live, part = {"gw1": 200.0, "gw2": 100.0, "gw3": 100.0}, dict[str, int]()
    passes = []
    for _ in range(60):
        counted = {name: round(count) for name, count in live.items()}
        part = lean(weights, counted, part)
        passes.append(part)
        whole = sum(weight * part[name] for name, weight in weights.items())
        for name, weight in weights.items():
            begun = 400 * (1 - lasting) * weight * part[name] / whole
            live[name] = live[name] * lasting + begun
    assert all(each == part for each in passes[-20:]), passes[-4:]
    for name, weight in weights.items():
        assert abs(live[name] - 100 * weight) < 15 * weight, live


live = st.integers(0, 10_000)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(NAMES), st.tuples(st.integers(1, 256), live), min_size=2),
    st.dictionaries(st.sampled_from(NAMES), st.integers(1, 3000)),
)
def test_one_pass_moves_few_slots_and_starves_nobody(
    gateways: dict[str, tuple[int, int]], before: dict[str, int]
) -> None:
    weights = {name: weight for name, (weight, _) in gateways.items()}
    found = lean(weights, {name: count for name, (_, count) in gateways.items()}, before)

    def shares(parts: dict[str, int]) -> dict[str, float]:
        whole = sum(weights[n] * parts.get(n, 100) for n in weights)
        return {n: weights[n] * parts.get(n, 100) / whole for n in weights}

    was, now = shares(before), shares(found)
    rounding = 0.02 * len(weights) + sum(w for w in weights.values()) / 100 / min(weights.values())
    assert sum(abs(now[n] - was[n]) for n in weights) / 2 <= MAX_MOVED + rounding
    assert set(found) == set(weights)
    assert all(part >= 1 for part in found.values())


def test_what_is_even_stays_as_it_is() -> None:
    weights = dict.fromkeys(NAMES, 1)
    assert lean(weights, dict.fromkeys(NAMES, 50), {}) == dict.fromkeys(NAMES, 100)
    assert lean(weights, {}, {}) == dict.fromkeys(NAMES, 100)
    assert LEAST_HORIZON > 0


def test_turns_are_exact_and_interleaved() -> None:
    assert rotation({1: 5, 2: 1, 3: 1}) == (1, 1, 2, 1, 3, 1, 1)
    assert Counter(rotation({1: 50, 2: 30, 3: 20})) == {1: 5, 2: 3, 3: 2}
    assert rotation({1: 7}) == (1,)


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 99), st.integers(1, 256), min_size=1, max_size=100))
def test_a_round_is_bounded_and_leaves_nobody_out(weights: dict[int, int]) -> None:
    found = Counter(rotation(weights))
    assert set(found) == set(weights)
    assert found.total() <= MAX_ROTATION + len(weights)
