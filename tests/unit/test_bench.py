"""How ``scripts/bench failover`` counts survivors, and what it shows."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address
from itertools import product
from pathlib import Path

import pytest

from halbctl.lab.failover import GROUPS, Course, exempt, failover_lines, summary
from halbctl.lab.kinds import CLIENTS, KINDS, USUAL
from halbctl.lab.measure import Held, Measured
from halbctl.lab.owners import SOURCE4
from halbctl.lab.plan import INNER, MODES, Plan
from halbctl.lab.promises import EXEMPT, TITLES, Exempt, broken, why_not_all
from halbctl.lab.survival import PACE, Flow, outcome
from halbctl.output import Paint
from protocol.document import parse_site
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
    found = {"kinds": {"echo": "", "udp": ""}, "events": [row], "exempt": [], "broken": []}
    assert (row["event"], row["runs"]) == ("crash", 2)
    assert row["outage_ms"] == {"median": 300.0, "min": 290.0, "max": 310.0}
    assert row["kinds"]["udp"]["survivors"] == {"median": 198, "min": 198, "max": 198}
    lines = failover_lines(found, Paint(on=False))
    assert lines[2].split()[:5] == ["MODE", "EVENT", "RUNS", "ECHO", "UDP"]
    assert TITLES["crash"] in lines[-1]
    assert lines[-1].split()[-6:-2] == ["198", "420", "290/300/310", "50"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("snat", ("snat",)),
        ("routed", ("routed-memory", "routed-memoryless")),
        ("dsr, routed-memory", ("routed-memory", "dsr")),
        ("all", MODES),
    ],
)
def test_modes_are_named_one_by_one_or_together(word: str, meant: tuple[str, ...]) -> None:
    assert Course.of(1, "echo", "", word).modes == meant


@pytest.mark.parametrize("word", ["tunnel", "routed-dsr", " ,"])
def test_a_mode_that_is_not_there_is_refused(word: str) -> None:
    with pytest.raises(InvalidInput, match=word.strip(" ,") or "nothing to measure"):
        Course.of(1, "echo", "", word)


def without_some_datagrams(mode: str, event: str, left: int) -> Measured:
    held = {"echo": Held(200, 200, {}, 0.0), "udp": Held(200, left, {"moved": 200 - left}, 0.0)}
    return replace(
        GOOD, mode=mode, event=event, kinds=held, after="a",
        wanted=400, connections=400, survivors=200 + left, lost={"moved": 200 - left},
    )  # fmt: skip


@pytest.mark.parametrize("each", EXEMPT, ids=lambda each: each.why[:20])
def test_each_exemption_is_documented_and_shown_and_has_an_end(each: Exempt) -> None:
    text = " ".join((Path(__file__).parents[2] / "docs/benchmarks.md").read_text().split())
    assert each.why in text
    for mode, event in product(each.modes, each.events):
        assert not broken(without_some_datagrams(mode, event, 160))
        (few,) = broken(without_some_datagrams(mode, event, 90))
        assert str(few).startswith(f"{mode}: {TITLES[event]}: promised 100 of 200 of kind udp")
        results = [without_some_datagrams(mode, event, 160)]
        found = {"kinds": {"echo": "", "udp": ""}, "events": summary(results), "broken": []}
        found["exempt"] = exempt(results)
        lines = failover_lines(found, Paint(on=False))
        assert "160*" in lines[-2].split()
        assert lines[-1].endswith(each.why)


def test_what_is_not_exempt_is_lost_in_every_mode() -> None:
    for mode in MODES:
        for event in ("crash", "return", "promote", "upgrade"):
            assert not why_not_all(mode, event, "udp")
    (lost,) = broken(without_some_datagrams("snat", "gateway-added", 160))
    assert "promised 400 of 400 connections live on, measured 360 of 400" in str(lost)
    (lost,) = broken(replace(without_some_datagrams("dsr", "reload", 160), survivors=359))
    assert "promised 200 of 200 connections live on, measured 199 of 200" in str(lost)


@pytest.mark.parametrize("mode", MODES)
def test_the_document_of_a_mode_is_one_that_can_be_applied(mode: str) -> None:
    plan = Plan("x", 3, 2, ipv6=True, mode=mode)
    (server,) = parse_site(json.loads(plan.document())).virtual_servers
    assert server.forwarding == mode.partition("-")[0]
    assert bool(server.inner_vips) == mode.startswith("routed")
    assert {each.balance for each in server.listeners} == {
        "round-robin" if mode == "routed-memory" else "hash"
    }


def test_the_clients_with_equal_ports_have_addresses_of_their_own() -> None:
    taken = {host.ipv4 for host in Plan("x", devices=10, gateways=20, witness=True).hosts}
    sampling = {str(IPv4Address(SOURCE4 + index)) for index in range(32)}
    assert not {host.ipv4 for host in CLIENTS} & (taken | sampling)
    assert INNER not in taken | sampling | {host.ipv4 for host in CLIENTS}
    assert len(set(CLIENTS)) == 20
