"""Flows told from one device to another: numbered, bounded, and begun anew after a loss."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from agent.flowstream import (
    MAX_WAITING,
    SILENT_S,
    WINDOW,
    Chunk,
    Incoming,
    Outgoing,
    Step,
    chunks,
    kept,
)
from protocol.errors import MalformedMessage
from protocol.flows import MAX_FLOWS, RECORD, TCP, UDP, Flow, FlowsPart, FlowsWanted, key_of, vip_of
from protocol.ids import GroupId

WEB, MAIL = GroupId("00000000000000aa"), GroupId("00000000000000bb")
VIP, OTHER, VIP6 = bytes([10, 77, 0, 100]), bytes([10, 77, 0, 101]), b"\xfd" + bytes(15)
VIPS = frozenset({VIP, VIP6})
ANEW = FlowsWanted((WEB,), 0, 0)


def flow(number: int, vip: bytes = VIP, protocol: int = TCP) -> Flow:
    size = len(vip)
    client, port = bytes(size - 4) + number.to_bytes(4, "big"), b"\x01\xbb"
    return RECORD[4 if size == 4 else 6].pack(
        protocol, client, vip, b"\x80\x00", port, bytes(size), vip, port, b"\x80\x01", 0
    )


def numbers(parts: Iterable[FlowsPart]) -> list[int]:
    return [part.number for part in parts]


def stream(flows: int = 0) -> Outgoing:
    """A stream that has begun with so many flows."""
    out = Outgoing(1, (WEB,), VIPS, 0.0)
    out.begin(chunks(map(flow, range(flows)), (), VIPS))
    return out


def change(number: int) -> tuple[Chunk, ...]:
    return chunks([flow(number)], [], VIPS)


def test_records_of_both_ip_versions_go_through_a_part_unharmed() -> None:
    begun = [flow(1), flow(2, VIP6), flow(3, protocol=UDP)]
    ended = [key_of(flow(4)), key_of(flow(5, VIP6))]
    (chunk,) = chunks(begun, ended, VIPS)
    part = FlowsPart(1, 1, True, (), *chunk)
    assert set(part.begun) == set(begun)
    assert set(part.ended) == set(ended)
    assert [vip_of(each) for each in part.ended] == [VIP, VIP6]


def test_flows_to_other_vips_are_not_told() -> None:
    assert chunks([flow(1, OTHER)], [key_of(flow(2, OTHER))], VIPS) == ()


def test_flows_that_a_new_primary_lacks_are_told_it_whole_and_in_messages_of_bounded_size() -> None:
    lacked = [*map(flow, range(MAX_FLOWS + 1)), flow(1, VIP6)]
    first, second = kept(lacked)
    assert sorted([*first.flows, *second.flows]) == sorted(lacked)
    assert len(first.flows4) == MAX_FLOWS * RECORD[4].size
    assert list(kept([])) == []


def test_the_last_word_of_a_stream_is_its_primarys_and_none_about_another_stream() -> None:
    source, out = Incoming(frozenset({WEB})), stream(1)
    for part in out.due():
        source.take(part, 1.0)
    assert source.heard == 1.0
    source.take(out.sign(), 3.0)
    assert source.heard == 3.0
    source.take(FlowsPart(99, 7, False, sign=True), 5.0)
    assert source.heard == 3.0


def test_many_flows_are_cut_into_parts() -> None:
    cut = chunks(map(flow, range(2 * MAX_FLOWS + 1)), (), VIPS)
    assert [len(chunk.begun4) // RECORD[4].size for chunk in cut] == [MAX_FLOWS, MAX_FLOWS, 1]


@pytest.mark.parametrize("bad", [flow(1)[:-1], b"\x01" + flow(1)[1:]])
def test_torn_records_and_other_protocols_are_refused(bad: bytes) -> None:
    with pytest.raises(MalformedMessage):
        list(FlowsPart(1, 1, True, (), bad).begun)


def test_a_stream_begins_with_all_flows_and_says_where_they_end() -> None:
    out = stream(2 * MAX_FLOWS)
    out.go_on(change(7))
    parts = list(out.due())
    assert [(p.number, p.complete, p.groups) for p in parts] == [
        (1, False, (WEB,)),
        (2, True, ()),
        (3, False, ()),
    ]


def test_a_stream_without_flows_is_complete_at_once() -> None:
    (part,) = stream().due()
    assert part.complete


def test_changes_before_the_beginning_are_part_of_it() -> None:
    out = Outgoing(1, (WEB,), VIPS, 0.0)
    out.go_on(change(1))
    assert not out.ready
    out.begin(chunks([flow(1)], (), VIPS))
    assert out.ready
    assert [list(part.begun) for part in out.due()] == [[flow(1)]]


def test_only_a_window_of_parts_is_on_the_way() -> None:
    out = stream()
    for number in range(2 * WINDOW):
        out.go_on(change(number))
    assert numbers(out.due()) == list(range(1, WINDOW + 1))
    assert not list(out.due())
    out.acknowledge(3, 1.0)
    assert numbers(out.due()) == [WINDOW + 1, WINDOW + 2, WINDOW + 3]


def test_acknowledgements_of_what_was_never_sent_count_for_nothing() -> None:
    out = stream()
    list(out.due())
    out.acknowledge(1000, 1.0)
    for number in range(2 * WINDOW):
        out.go_on(change(number))
    assert len(list(out.due())) == WINDOW - 1


def test_a_receiver_that_is_too_slow_is_given_up_rather_than_remembered_for() -> None:
    out = stream(MAX_FLOWS * 2 * MAX_WAITING)
    for number in range(MAX_WAITING):
        out.go_on(change(number))
    assert not out.given_up
    out.go_on(change(0))
    assert out.given_up
    assert not list(out.due())


def test_a_receiver_that_asks_no_more_is_silent() -> None:
    out = stream()
    out.acknowledge(0, 5.0)
    assert not out.silent(5.0 + SILENT_S)
    assert out.silent(5.1 + SILENT_S)


def following(out: Outgoing) -> Incoming:
    """A receiver that has everything."""
    source = Incoming(frozenset({WEB, MAIL}))
    for part in out.due():
        source.take(part, 0.0)
        source.enter(part)
    return source


def test_a_receiver_is_in_step_once_the_beginning_is_in_its_kernel() -> None:
    source = Incoming(frozenset({WEB, MAIL}))
    first, last = stream(2 * MAX_FLOWS).due()
    assert source.take(first, 0.0) is Step.FIRST
    assert source.covered == {WEB}
    assert source.take(last, 0.0) is Step.NEXT
    assert not source.enter(first)
    assert not source.complete
    assert source.enter(last)
    assert source.complete


def test_a_receiver_asks_for_all_first_and_then_says_where_it_is() -> None:
    source = Incoming(frozenset({WEB}))
    assert source.questions() == (ANEW,)
    out = stream()
    (part,) = out.due()
    source.take(part, 0.0)
    assert source.questions() == (FlowsWanted((), 1, 0),)
    source.enter(part)
    assert source.questions() == (FlowsWanted((), 1, 1),)


def test_a_receiver_that_wants_a_new_stream_goes_on_with_the_present_one_until_it_begins() -> None:
    """The primary does not read all flows at any time, and tells no more than fits on the way."""
    out = stream()
    source = following(out)
    source.anew = True
    for number in range(2 * WINDOW):
        out.go_on(change(number))
        (part,) = out.due()
        assert source.take(part, 0.0) is Step.NEXT
        source.enter(part)
        here, anew = source.questions()
        assert (anew.epoch, set(anew.groups)) == (0, {WEB, MAIL})
        out.acknowledge(here.number, 1.0)
    newer = Outgoing(2, (WEB,), VIPS, 0.0)
    newer.begin(())
    assert [source.take(part, 0.0) for part in newer.due()] == [Step.FIRST]
    assert source.questions() == (FlowsWanted((), 2, 0),)


def test_a_repeated_part_is_nothing_new() -> None:
    out = stream()
    source = following(out)
    out.go_on(change(1))
    (part,) = out.due()
    assert source.take(part, 0.0) is Step.NEXT
    assert source.take(part, 0.0) is Step.SIGN
    assert source.take(out.sign(), 0.0) is Step.SIGN


def test_a_lost_part_ends_the_stream_and_a_new_one_mends_it() -> None:
    out = stream()
    source = following(out)
    out.go_on(change(1))
    list(out.due())
    out.go_on(change(2))
    (late,) = out.due()
    assert source.take(late, 0.0) is Step.GAP
    source.forget()
    assert not source.complete
    assert [each.epoch for each in source.questions()] == [0]
    assert source.take(late, 0.0) is Step.SIGN
    again = Outgoing(2, (WEB,), VIPS, 0.0)
    again.begin(())
    assert [source.take(part, 0.0) for part in again.due()] == [Step.FIRST]


def test_a_lost_last_part_shows_in_the_next_sign_of_life() -> None:
    out = stream()
    source = following(out)
    out.go_on(change(1))
    list(out.due())
    assert source.take(out.sign(), 0.0) is Step.GAP


def test_a_part_of_an_older_stream_is_ignored() -> None:
    older, newer = stream(), Outgoing(2, (WEB,), VIPS, 0.0)
    newer.begin(())
    source = following(newer)
    assert [source.take(part, 0.0) for part in older.due()] == [Step.SIGN]


def test_a_primary_that_knows_nothing_of_the_stream_has_it_begun_anew() -> None:
    source = following(stream())
    assert source.take(FlowsPart(0, 0, False), 0.0) is Step.GAP


def test_more_parts_than_were_asked_for_end_the_stream() -> None:
    out = stream()
    source = Incoming(frozenset({WEB}))
    (first,) = out.due()
    source.take(first, 0.0)
    steps = [source.take(FlowsPart(1, n, False), 0.0) for n in range(2, 2 * WINDOW + 4)]
    assert steps[-1] is Step.GAP


def test_a_stream_that_is_begun_anew_to_compare_leaves_the_receiver_in_step() -> None:
    source = following(stream())
    source.anew = True
    assert source.questions()[-1].epoch == 0
    again = Outgoing(2, (WEB,), VIPS, 0.0)
    again.begin(())
    (part,) = again.due()
    assert source.take(part, 0.0) is Step.FIRST
    assert source.complete
    assert not source.anew


def test_what_only_the_next_stream_covers_is_in_step_at_its_end() -> None:
    """A primary is asked for groups that it does not lead yet: it tells of the others first."""
    source = Incoming(frozenset({WEB, MAIL}))
    for epoch, groups in ((1, (WEB,)), (2, (WEB, MAIL))):
        out = Outgoing(epoch, groups, VIPS, 0.0)
        out.begin(())
        (part,) = out.due()
        assert source.take(part, 0.0) is Step.FIRST
        assert source.covered == set(groups)
        assert source.enter(part)
