"""How ``scripts/bench failover`` counts survivors, and what it shows."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from halbctl.lab.failover import GROUPS, Course, failover_lines, summary
from halbctl.lab.kinds import CLIENTS, KINDS, USUAL
from halbctl.lab.measure import Held
from halbctl.lab.owners import SOURCE4
from halbctl.lab.plan import Plan
from halbctl.lab.promises import TITLES
from halbctl.lab.survival import PACE, Flow, outcome
from halbctl.output import Paint
from protocol.errors import InvalidInput
from tests.unit.test_lab import GOOD


def flow(last: float, *, lost: str = "", worst: float = 0.0) -> Flow:
    return Flow(lost=lost, received=5, last=last, worst=worst, counted=True)


def test_a_survivor_was_never_lost_and_spoke_in_the_last_second() -> None:
    flows = [flow(9.5, worst=0.35), flow(8.0), flow(9.9, lost="ECONNRESET"), Flow(last=9.9)]
    found = outcome(flows, 10.0)
    assert (found["connections"], found["survivors"], found["silent"]) == (3, 1, 1)
    assert found["lost"] == {"ECONNRESET": 1}
    assert found["stall_ms"] == pytest.approx((0.5 - PACE) * 1000)


def test_a_connection_that_is_meant_to_be_silent_does_not_stall() -> None:
    assert outcome([flow(9.9, worst=60.0)], 10.0, paced=False)["stall_ms"] is None


def test_only_what_was_heard_since_the_window_was_asked_for_counts() -> None:
    early, late, never = flow(4.0), flow(6.0, worst=3.0), Flow()
    for each in (early, late, never):
        each.count(since=5.0)
    assert [each.counted for each in (early, late, never)] == [False, True, False]
    assert late.worst == 0.0


def test_by_default_every_event_happens_and_every_kind_but_idle_is_held() -> None:
    course = Course.of(1, ",".join(USUAL), "")
    assert course.groups == GROUPS
    assert set(course.kinds) == set(KINDS) - {"idle"}


def test_an_event_brings_those_that_belong_to_it() -> None:
    course = Course.of(2, "echo, push", "return,upgrade")
    assert course.groups == (("crash", "return"), ("upgrade",))
    assert course.kinds == ("echo", "push")


@pytest.mark.parametrize(
    ("rounds", "kinds", "events", "word"),
    [
        (1, "echo,carrier-pigeon", "", "carrier-pigeon"),
        (1, "echo", "flood", "flood"),
        (0, "echo", "", "nothing to measure"),
        (1, ",", "", "nothing to measure"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(
    rounds: int, kinds: str, events: str, word: str
) -> None:
    with pytest.raises(InvalidInput, match=word):
        Course.of(rounds, kinds, events)


def test_the_table_has_a_column_for_each_kind_and_a_row_for_each_event() -> None:
    held = {"echo": Held(200, 200, {}, 4.0), "udp": Held(200, 198, {"moved": 2}, 0.0)}
    results = [replace(GOOD, kinds=held), replace(GOOD, kinds=held, outage_ms=310.0)]
    (row,) = summary(results)
    found = {"kinds": {"echo": "", "udp": ""}, "events": [row], "broken": []}
    assert (row["event"], row["runs"]) == ("crash", 2)
    assert row["outage_ms"] == {"median": 300.0, "min": 290.0, "max": 310.0}
    assert row["kinds"]["udp"]["survivors"] == {"median": 198, "min": 198, "max": 198}
    lines = failover_lines(found, Paint(on=False))
    assert lines[2].split()[:4] == ["EVENT", "RUNS", "ECHO", "UDP"]
    assert TITLES["crash"] in lines[-1]
    assert lines[-1].split()[-6:-2] == ["198", "420", "290/300/310", "50"]


def test_the_clients_with_equal_ports_have_addresses_of_their_own() -> None:
    taken = {host.ipv4 for host in Plan("x", devices=10, gateways=20, witness=True).hosts}
    sampling = {str(IPv4Address(SOURCE4 + index)) for index in range(32)}
    assert not {host.ipv4 for host in CLIENTS} & (taken | sampling)
    assert len(set(CLIENTS)) == 20
