"""The barrier before a planned move: passed when the successor has entered all there is."""

from __future__ import annotations

from agent.barrier import Barrier
from agent.flowstream import Chunk, Outgoing
from protocol.flows import Flush, Flushed
from protocol.ids import DeviceId, GroupId

NEXT = DeviceId("b" * 16)
WEB, MAIL = GroupId("1" * 16), GroupId("2" * 16)
CHANGE = (Chunk(b"flow"),)


def stream(epoch: int = 1, *groups: GroupId) -> Outgoing:
    """One whose receiver has all that there was in the beginning."""
    out = Outgoing(epoch, groups or (WEB, MAIL), frozenset(), 0.0)
    out.begin(())
    assert [part.number for part in out.due()] == [1]
    out.acknowledge(1, 0.0)
    return out


class Passing:
    """A barrier, and what has passed it."""

    def __init__(self) -> None:
        self.passed: list[Flushed] = []
        self.barrier = Barrier(self.passed.append)

    def look(self, out: Outgoing | None = None) -> None:
        self.barrier.looked(self.barrier.unmarked, {} if out is None else {NEXT: out})


def test_a_successor_that_has_everything_passes_with_the_first_look() -> None:
    each, out = Passing(), stream()
    each.barrier.add(Flush(WEB, NEXT))
    assert each.passed == []
    each.look(out)
    assert each.passed == [Flushed(WEB, NEXT)]
    assert each.barrier.unmarked == frozenset()


def test_it_passes_when_the_last_part_is_acknowledged_and_not_before() -> None:
    each, out = Passing(), stream()
    each.barrier.add(Flush(WEB, NEXT))
    out.go_on(CHANGE * 3)
    each.look(out)
    list(out.due())
    for number in (2, 3):
        out.acknowledge(number, 1.0)
        each.barrier.check({NEXT: out})
    assert each.passed == []
    out.acknowledge(4, 1.0)
    each.barrier.check({NEXT: out})
    assert each.passed == [Flushed(WEB, NEXT)]
    each.barrier.check({NEXT: out})
    assert len(each.passed) == 1


def test_a_look_that_began_before_the_move_counts_for_nothing() -> None:
    each, out = Passing(), stream()
    awaited = each.barrier.unmarked
    each.barrier.add(Flush(WEB, NEXT))
    each.barrier.looked(awaited, {NEXT: out})
    assert each.passed == []
    assert each.barrier.unmarked == {WEB}


def test_without_a_stream_that_covers_the_group_it_waits_for_one() -> None:
    each = Passing()
    each.barrier.add(Flush(WEB, NEXT))
    each.look()
    each.look(stream(1, MAIL))
    assert each.passed == []
    assert each.barrier.unmarked == {WEB}
    each.look(stream(2, WEB))
    assert each.passed == [Flushed(WEB, NEXT)]


def test_a_stream_that_begins_anew_is_waited_for_from_its_beginning() -> None:
    each, out = Passing(), stream()
    each.barrier.add(Flush(WEB, NEXT))
    out.go_on(CHANGE)
    each.look(out)
    again = Outgoing(2, (WEB,), frozenset(), 0.0)
    each.barrier.check({NEXT: again})
    assert each.barrier.unmarked == {WEB}
    each.look(again)
    assert each.passed == []
    again.begin(())
    list(again.due())
    each.look(again)
    assert each.passed == []
    again.acknowledge(1, 1.0)
    each.barrier.check({NEXT: again})
    assert each.passed == [Flushed(WEB, NEXT)]


def test_a_group_that_has_moved_already_is_forgotten() -> None:
    each, out = Passing(), stream()
    each.barrier.add(Flush(WEB, NEXT))
    each.barrier.add(Flush(MAIL, NEXT))
    each.barrier.drop(WEB)
    each.look(out)
    assert each.passed == [Flushed(MAIL, NEXT)]
