"""What is due, and for what nobody is woken."""

from __future__ import annotations

from protocol.ids import GroupId
from protocol.timers import Timers
from protocol.timing import NEVER

A, B = GroupId("a" * 16), GroupId("b" * 16)


def test_the_earliest_due_time_counts() -> None:
    timers = Timers()
    timers.set(A, 300)
    timers.set(B, 200)
    timers.set(A, 100)
    due = {A: 100, B: 200}
    assert timers.next(0, NEVER, due.__getitem__) == 100
    assert timers.take_due(150) == [A]
    assert timers.next(150, NEVER, due.__getitem__) == 200


def test_what_was_postponed_wakes_nobody() -> None:
    timers = Timers()
    timers.set(A, 100)
    timers.set(B, 200)
    due = {A: 400, B: 300}
    assert timers.next(50, NEVER, due.__getitem__) == 300
    assert timers.take_due(299) == []
    assert timers.take_due(300) == [B]
    assert timers.next(300, NEVER, due.__getitem__) == 400


def test_nobody_is_asked_for_what_is_later_than_something_else() -> None:
    timers = Timers()
    timers.set(A, 100)
    assert timers.next(0, 80, {A: 0}.__getitem__) == 80
    assert timers.next(0, 100, {A: 0}.__getitem__) == 100


def test_what_is_due_already_is_not_asked_again() -> None:
    timers = Timers()
    timers.set(A, 100)
    assert timers.next(100, NEVER, lambda _: NEVER) == 100
    assert timers.take_due(100) == [A]


def test_what_was_dropped_is_never_due() -> None:
    timers = Timers()
    timers.set(A, 100)
    timers.drop(A)
    assert timers.next(0, NEVER, lambda _: 0) == NEVER


def test_nothing_is_kept_of_what_is_never_due() -> None:
    timers = Timers()
    for now in range(100):
        timers.set(A, now)
        assert timers.take_due(now) == [A]
        timers.set(A, NEVER)
        timers.set(B, now + 1)
        assert timers.next(now, NEVER, lambda _: NEVER) == NEVER
    assert not timers._heap
