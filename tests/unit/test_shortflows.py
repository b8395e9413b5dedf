"""What is told of short flows: nothing, unless they may be known already."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.shortflows import Notice, ShortFlows, Turn

FLOWS = (b"one", b"two", b"three")
turns = st.lists(st.tuples(st.sampled_from(Turn), st.sampled_from(FLOWS)), max_size=12)
looks = st.lists(st.tuples(turns, st.booleans()), max_size=8)


def notices(*some: tuple[Turn, bytes]) -> list[Notice]:
    return [Notice(turn, entry, entry) for turn, entry in some]


def look(
    short: ShortFlows, *some: tuple[Turn, bytes], whole: bool = False
) -> tuple[set[bytes], set[bytes]]:
    begun, ended = short.look(notices(*some), whole=whole)
    return set(begun), set(ended)


def test_a_flow_is_told_with_the_second_look() -> None:
    short = ShortFlows()
    assert look(short, (Turn.BEGUN, b"one")) == (set(), set())
    assert short
    assert look(short) == ({b"one"}, set())
    assert not short


def test_what_ends_before_the_second_look_is_not_told() -> None:
    short = ShortFlows()
    assert look(short, (Turn.BEGUN, b"one"), (Turn.ENDED, b"one")) == (set(), set())
    look(short, (Turn.BEGUN, b"two"))
    assert look(short, (Turn.ENDED, b"two")) == (set(), set())


def test_what_was_told_before_ends_at_once() -> None:
    assert look(ShortFlows(), (Turn.ENDED, b"one")) == (set(), {b"one"})


def test_a_whole_look_tells_what_waited_and_what_is_new_and_every_end() -> None:
    short = ShortFlows()
    look(short, (Turn.BEGUN, b"one"))
    found = look(
        short, (Turn.BEGUN, b"two"), (Turn.BEGUN, b"three"), (Turn.ENDED, b"three"), whole=True
    )
    assert found == ({b"one", b"two"}, {b"three"})
    assert not short


def test_a_flow_that_changed_is_told_at_once_unless_it_is_new() -> None:
    short = ShortFlows()
    found = look(short, (Turn.BEGUN, b"one"), (Turn.CHANGED, b"one"), (Turn.CHANGED, b"two"))
    assert found == ({b"two"}, set())


@given(looks)
def test_the_other_side_ends_with_the_flows_that_live(
    course: list[tuple[list[tuple[Turn, bytes]], bool]],
) -> None:
    short, here, there = ShortFlows(), set[bytes](), set[bytes]()
    for some, whole in [*course, ([], True)]:
        happened = []
        for turn, flow in some:
            # A flow that is there already is not established anew, and one that is not changes not.
            if (turn is Turn.BEGUN) is (flow in here):
                continue
            (here.discard if turn is Turn.ENDED else here.add)(flow)
            happened.append((turn, flow))
        begun, ended = look(short, *happened, whole=whole)
        # A receiver enters first, and removes then; see the flow table for flows of one key.
        there |= begun
        there -= ended - begun
    assert there == here
