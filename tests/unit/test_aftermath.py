"""What became of the flows of a move, in words, and which flows a primary told of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent import toldflows
from agent.aftermath import MOVING, UNREMEMBERED, Aftermath, Move, Survey
from agent.flows import found_without_entries
from agent.flowtable import Course
from agent.toldflows import ToldFlows
from protocol.changes import SetGateway
from protocol.effects import Event
from protocol.flows import RECORD, TCP, UDP, Flow, key_of
from protocol.ids import GroupId
from tests.unit.cluster import device
from tests.unit.listening import run, until
from tests.unit.paris import RDP as PARIS
from tests.unit.paris import after, server, site

ME = device(1).id
WEB, RDP = GroupId("1" * 16), GroupId("2" * 16)
VIP, OTHER = bytes([10, 77, 0, 100]), bytes([10, 77, 0, 101])
ONE, BOTH = frozenset({VIP}), frozenset({VIP, OTHER})
GATEWAY = bytes([10, 77, 0, 14])


def flow(number: int, vip: bytes = VIP, protocol: int = TCP) -> Flow:
    client, port = bytes([10, 78, number >> 8, number & 255]), bytes(2)
    return RECORD[4].pack(protocol, client, vip, port, port, GATEWAY, vip, port, port, 0)


def told(*flows: Flow, vips: frozenset[bytes] = BOTH) -> ToldFlows:
    found = ToldFlows()
    found.begin(vips)
    found.tell(flows, ())
    found.whole()
    return found


@pytest.mark.parametrize(
    ("found", "carried", "lost"),
    [
        (Aftermath(5, 2, 0, 0), 5, "0 lost"),
        (Aftermath(5, 2, 1, 0), 5, "1 lost"),
        (Aftermath(0, 2, 0, 9), 0, "up to 9 lost"),
        (Aftermath(5, 2, 1, 9), 5, "up to 10 lost"),
        (Aftermath(5, 2, 1, None), 5, "lost: unknown"),
        (Aftermath(70000, 2, 0, 8, sampled=True), 70000, "up to about 8 lost"),
    ],
)
def test_what_became_of_flows_in_words(found: Aftermath, carried: int, lost: str) -> None:
    assert found.text == f"{carried} flows carried over, 2 found again by their slots, {lost}"


class Table:
    """Stands for the kernel's connection table: flows before the takeover, and after it."""

    def __init__(self, before: dict[Flow, bool], after: dict[Flow, bool]) -> None:
        """With each flow, whether it was picked up in the middle."""
        self._looks = iter((before, after))

    def courses(self, vips: frozenset[bytes]) -> Iterator[Course]:
        for each, picked_up in next(self._looks).items():
            yield Course(key_of(each), True, False, picked_up)


def survey(
    table: Table, moves: dict[GroupId, Move], monkeypatch: pytest.MonkeyPatch
) -> list[Event]:
    """What the history is told."""
    for name in ("GATHER_S", "REVIEW_S"):
        monkeypatch.setattr(f"agent.aftermath.{name}", 0.0)
    events: list[Event] = []
    done: list[object] = []

    def count(job: Callable[[Any], Any], then: Callable[[Any], None]) -> None:
        then(job(table))
        done.append(job)

    async def test() -> None:
        counted = Survey(ME, count, events.append)
        for group, move in moves.items():
            counted.moved_here(group, move)
        await until(lambda: len(done) == 2)

    run(test())
    return events


def test_each_virtual_server_is_told_of_what_its_former_primary_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also by a third device that led one of them before, and told of it then."""
    one = told(flow(1), flow(2), flow(3, protocol=UDP), flow(4, OTHER), flow(6))
    other = told(flow(4, OTHER), flow(5, OTHER))
    after = {flow(1): False, flow(2): True, flow(3, protocol=UDP): False, flow(4, OTHER): False}
    table = Table({flow(1): False}, after)
    moves = {WEB: Move(3, ONE, one), RDP: Move(4, frozenset({OTHER}), other)}
    texts = [(e.kind, e.group, e.term, e.text) for e in survey(table, moves, monkeypatch)]
    early = "1 flows carried over; those found again and lost are counted later"
    assert texts == [
        ("carried", WEB, 3, early),  # of no other one was any known then
        ("flows", WEB, 3, "1 flows carried over, 2 found again by their slots, up to 1 lost"),
        ("flows", RDP, 4, "1 flows carried over, 0 found again by their slots, up to 1 lost"),
    ]


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [({}, {}, UNREMEMBERED), ({flow(1): False}, {}, "1 flows carried over, 0 found again")],
)
def test_where_no_kernel_remembers_flows_nothing_is_carried_over_but_what_moved_slots_left(
    before: dict[Flow, bool],
    after: dict[Flow, bool],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    move = Move(2, ONE, told(), UNREMEMBERED)
    *early, event = survey(Table(before, after), {WEB: move}, monkeypatch)
    assert event.text.startswith(text)
    assert len(early) == len(before)


def test_it_is_told_what_leads_connections_that_no_kernel_has_entries_of() -> None:
    config = site({**PARIS, "forwarding": "dsr"})
    vips = ("10.77.0.100",)
    assert found_without_entries(server(config), vips) == UNREMEMBERED
    moving = SetGateway("rdp", "gw2", weight=5)
    assert found_without_entries(server(after(config, moving, int(time.time()))), vips) == MOVING
    assert found_without_entries(server(after(config, moving)), vips) == UNREMEMBERED, "it is over"
    assert found_without_entries(server(site(PARIS)), vips) == ""


def test_a_move_without_flows_is_not_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not survey(Table({}, {}), {WEB: Move(2, ONE, told())}, monkeypatch)


def test_what_was_told_counts_once_all_of_it_was_told() -> None:
    flows = ToldFlows()
    assert not flows.covers(ONE)
    flows.begin(ONE)
    flows.tell([flow(1), flow(2)], ())
    assert not flows.covers(ONE)
    flows.whole()
    assert flows.covers(ONE)
    assert not flows.covers(BOTH)
    flows.tell([flow(3)], [key_of(flow(1))])
    assert flows.keys == {key_of(flow(2)), key_of(flow(3))}
    flows.begin(BOTH)  # told anew
    flows.tell([flow(3)], ())
    assert flows.keys == {key_of(flow(2)), key_of(flow(3))}
    flows.whole()
    assert flows.keys == {key_of(flow(3))}
    assert flows.one_of == 1


def test_of_very_many_flows_a_sample_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toldflows, "MOST", 1000)
    flows = told(*map(flow, range(10_000)))
    assert 250 < len(flows.keys) <= 1000
    assert 0.8 < len(flows.keys) * flows.one_of / 10_000 < 1.2
    flows.tell((), map(key_of, map(flow, range(5000))))
    assert 0.7 < len(flows.keys) * flows.one_of / 5000 < 1.3
