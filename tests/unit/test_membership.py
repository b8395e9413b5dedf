"""How a device stands: merging, refutation, suspicion, local health."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.awareness import MAX_SCORE, Awareness
from protocol.ids import NO_REVISION, DeviceId
from protocol.membership import (
    LEAST_BUCKETS,
    MOST_BUCKETS,
    Membership,
    buckets_for,
    differing,
    merged,
    statement,
)
from protocol.messages import Info, Rumour
from protocol.standing import Incarnation, PeerState
from protocol.suspicion import LEAST_NS, MOST, patience

ME, A, B, C = (DeviceId(letter * 16) for letter in "0abc")
ALIVE, SUSPECT, DEAD, STOPPED = (
    PeerState.ALIVE, PeerState.SUSPECT, PeerState.DEAD, PeerState.STOPPED,
)  # fmt: skip


def info(start: int, serial: int = 1, *, stopping: bool = False, refuted: int = 0) -> Info:
    return Info(
        start, "1.0.0", 1, 1, NO_REVISION, NO_REVISION, (), (), (),
        stopping=stopping, serial=serial, refuted=refuted,
    )  # fmt: skip


def said(state: PeerState, start: int = 1, refuted: int = 0, *by: DeviceId) -> Rumour:
    return Rumour(A, Incarnation(start, refuted), state, by)


def table(*rumours: Rumour) -> Membership:
    membership = Membership(ME, 7, lambda before, after: None)
    membership.follow((ME, A, B), 0)
    for rumour in rumours:
        membership.hear(rumour, 1)
    return membership


@pytest.mark.parametrize(
    ("old", "new", "state"),
    [
        (said(ALIVE), said(SUSPECT), SUSPECT),
        (said(SUSPECT), said(DEAD), DEAD),
        (said(DEAD), said(ALIVE), DEAD),
        (said(DEAD), said(STOPPED), STOPPED),
        (said(SUSPECT), said(ALIVE, 1, 1), ALIVE),
        (said(DEAD), said(ALIVE, 1, 1), ALIVE),
        (said(STOPPED), said(ALIVE, 2), ALIVE),
        (said(ALIVE, 2), said(DEAD, 1, 9), ALIVE),
    ],
)
def test_a_newer_incarnation_wins_and_within_one_the_worse_state(
    old: Rumour, new: Rumour, state: PeerState
) -> None:
    assert merged(old, new).state is state
    assert merged(new, old).state is state


rumours = st.builds(
    lambda start, refuted, state, by, told: Rumour(
        A, Incarnation(start, refuted), state, tuple(sorted(by)), told
    ),
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from([ALIVE, SUSPECT, DEAD, STOPPED]),
    st.sets(st.sampled_from([DeviceId(f"{n:016x}") for n in range(8)]), max_size=4),
    st.none() | st.builds(info, st.integers(1, 2), st.integers(1, 3)),
)


@given(rumours, rumours, rumours)
def test_merging_is_commutative_associative_and_idempotent(a: Rumour, b: Rumour, c: Rumour) -> None:
    assert merged(a, b) == merged(b, a)
    assert merged(merged(a, b), c) == merged(a, merged(b, c))
    assert merged(a, a) == a
    assert merged(merged(a, b), b) == merged(a, b)


@given(st.lists(rumours, max_size=8), st.randoms(use_true_random=False))
def test_devices_that_heard_the_same_agree_in_any_order(heard: list[Rumour], chance) -> None:  # type: ignore[no-untyped-def]
    shuffled = [*heard, *heard[:2]]
    chance.shuffle(shuffled)
    one, other = table(*heard), table(*shuffled)
    assert one.members[A].rumour == other.members[A].rumour
    own = statement(ME, info(7))
    assert differing(one.summary(own), other.summary(own)) == []


@pytest.mark.parametrize("state", [SUSPECT, DEAD, STOPPED])
def test_a_device_refutes_what_is_said_against_it(state: PeerState) -> None:
    membership = table()
    assert membership.hear(Rumour(ME, Incarnation(7), state, (B,)), 1)
    assert membership.own == Incarnation(7, 1)


def test_one_refutation_answers_all_accusers() -> None:
    membership = table()
    for accuser in (A, B):
        membership.hear(Rumour(ME, Incarnation(7), SUSPECT, (accuser,)), 1)
    assert membership.own == Incarnation(7, 1)


def test_a_device_brought_back_from_an_old_copy_goes_beyond_its_later_life() -> None:
    membership = table()
    membership.hear(Rumour(ME, Incarnation(9, 3), ALIVE), 1)
    assert membership.own > Incarnation(9, 3)


def test_a_device_that_stops_lets_it_be_said() -> None:
    membership = table()
    membership.stopping = True
    membership.hear(Rumour(ME, Incarnation(7), STOPPED), 1)
    assert membership.own == Incarnation(7)


def test_only_the_configuration_says_who_exists() -> None:
    membership = table()
    assert not membership.hear(Rumour(C, Incarnation(1), ALIVE), 1)
    membership.follow((ME, B), 2)
    assert membership.state(A) is PeerState.LEFT
    assert A in membership.left
    assert membership.state(B) is SUSPECT


def test_who_accuses_is_remembered_and_counted() -> None:
    membership = table(said(ALIVE), said(SUSPECT, 1, 0, B), said(SUSPECT, 1, 0, C))
    membership.accuse(A, SUSPECT, 5)
    assert membership.members[A].rumour.by == (ME, B, C)
    assert membership.members[A].since == 1


def test_what_differs_is_found_by_the_bucket() -> None:
    one, other = table(said(ALIVE)), table(said(ALIVE), said(DEAD, 1, 0, B))
    own = statement(ME, info(7))
    assert len(differing(one.summary(own), other.summary(own))) == 1
    assert differing(one.summary(own), b"short") == list(range(LEAST_BUCKETS))


@pytest.mark.parametrize(
    ("devices", "accusers", "seconds"),
    [(2, 1, 3), (3, 1, 12), (3, 2, 3), (5, 4, 3), (1000, 4, 9), (1000, 1, 36)],
)
def test_the_more_accuse_the_shorter_the_time_to_refute(
    devices: int, accusers: int, seconds: int
) -> None:
    assert patience(devices, accusers) == seconds * LEAST_NS // 3


def test_patience_lies_between_its_bounds() -> None:
    times = [patience(50, n) for n in range(1, 6)]
    assert times == sorted(times, reverse=True)
    assert times[0] == MOST * times[-1]


def test_trouble_of_ones_own_stretches_patience() -> None:
    awareness = Awareness()
    awareness.worse(3)
    assert awareness.stretch(100) == 400
    awareness.worse(99)
    assert awareness.score == MAX_SCORE
    awareness.better()
    assert awareness.score == MAX_SCORE - 1


def test_a_device_that_saw_the_site_grow_agrees_with_one_that_came_late() -> None:
    everyone = [DeviceId(f"{number:016x}") for number in range(1000)]
    early, late = table(), table()
    own = statement(ME, info(7))
    early.follow(everyone[:10], 0)
    for device in everyone[:10]:
        early.hear(Rumour(device, Incarnation(1), ALIVE), 1)
    assert early.buckets == LEAST_BUCKETS
    for membership in (early, late):
        membership.follow(everyone, 2)
        for device in everyone:
            membership.hear(Rumour(device, Incarnation(1), ALIVE), 3)
    assert early.buckets == late.buckets > LEAST_BUCKETS
    assert differing(early.summary(own), late.summary(own)) == []


@pytest.mark.parametrize("devices", [1, 64, 65, 500, 1000, 10_000])
def test_a_part_of_the_knowledge_has_few_devices_while_the_summary_is_small(devices: int) -> None:
    number = buckets_for(devices)
    assert LEAST_BUCKETS <= number <= MOST_BUCKETS
    assert number == MOST_BUCKETS or devices / number <= 4
