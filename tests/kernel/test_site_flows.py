"""Whole Sites in which only the gateways speak: no slot tells where such a flow belongs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple

import pytest

from agent.flowtable import FlowTable
from halbctl.lab.measure import Stage, next_device
from halbctl.lab.plan import VIRTUAL_SERVER
from halbctl.lab.site import Site
from protocol.flows import Flow, key_of
from tests.kernel.namespaces import Inside
from tests.kernel.sites import CONNECTIONS, assert_kept, serving, stage
from tests.kernel.tracked import PACKED

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.xdist_group("flows")]


REPEATED_S = 7.0
"""After some seconds without an answer TCP repeats what it sent so long after it did so last."""


@pytest.fixture(scope="module")
def on_stage() -> Iterator[Stage]:
    with serving(devices=3, gateways=2) as site, stage(site, "push") as made:
        yield made


def test_gateway_push_survives_a_crash_the_return_and_a_planned_move(on_stage: Stage) -> None:
    on_stage.wait_agreed()
    crash = on_stage.crash()
    assert_kept(crash)
    site = on_stage.site
    site.wait("the history tells of the flows", lambda: _counted(site), 15.0)
    assert_kept(on_stage.come_back(crash.before))
    assert_kept(on_stage.promote(next_device(on_stage.site)))


def test_a_successor_that_lost_its_flows_is_told_them_by_the_third_device(on_stage: Stage) -> None:
    on_stage.wait_agreed()
    assert_kept(on_stage.measure("rest", lambda: None))
    site, successor = on_stage.site, next_device(on_stage.site)
    for host in site.plan.device_hosts:
        _wait_for_flows(site, host.name)
    # It would stand first: the other one could only be second.
    assert _in_kernel(site, successor, _take_away_flows) >= CONNECTIONS
    crash = on_stage.crash()
    assert crash.after == successor
    assert_kept(crash)
    assert_kept(on_stage.come_back(crash.before))


def test_flows_of_a_move_are_told_of_although_the_new_primary_crashes_before_it_counts_again(
    on_stage: Stage,
) -> None:
    on_stage.wait_agreed()
    site, successor = on_stage.site, next_device(on_stage.site)
    (third,) = {"a", "b", "c"} - {site.primary(), successor}
    terms: list[int] = []

    def move_and_crash() -> None:
        on_stage.wait_agreed()
        site.halbctl(successor, "promote", VIRTUAL_SERVER, "--to", successor, "--wait").check()
        terms.append(site.virtual_server(successor)["term"])
        site.wait("the others hear", lambda: "carried" in _of_flows(site, third, terms[0]), 4.0)
        site.crash(successor)

    moved = on_stage.measure("crash", move_and_crash, renew=True)
    assert moved.survivors == CONNECTIONS
    # Its own successor may have needed more than one election.
    terms.append(site.virtual_server(third)["term"])
    site.wait("that one counts again", lambda: "flows" in _of_flows(site, third, terms[1]), 15.0)
    found = _of_flows(site, third, terms[0])
    assert found.keys() == {"carried"}
    assert int(found["carried"].split()[0]) >= CONNECTIONS
    assert_kept(on_stage.come_back(successor))


def _of_flows(site: Site, device: str, term: int) -> dict[str, str]:
    """What a device's history tells of the flows of the takeover in a term, by kind."""
    entries = json.loads(site.halbctl(device, "history", VIRTUAL_SERVER, "-o", "json").check())[
        "entries"
    ]
    kinds = ("carried", "flows")
    return {e["kind"]: e["text"] for e in entries if e["term"] == term and e["kind"] in kinds}


def test_flows_that_only_one_of_two_devices_has_survive_the_restart_of_its_agent() -> None:
    with serving(devices=2, gateways=2, witness=True) as site:
        gone = site.primary()
        (kept,) = {"a", "b"} - {gone}
        site.crash(gone)
        site.wait(f"{kept} is primary", lambda: _leads(site, kept), 15.0)

        def swap() -> None:
            site.service(kept).kill()
            site.network.plug(gone)
            site.start_agent(gone)
            site.wait_answers(gone)
            site.wait(f"{gone} is primary", lambda: _leads(site, gone), 15.0)
            site.start_agent(kept)
            site.wait_answers(kept)
            made.wait_agreed()

        # The connections begin only now: the device that is away knows none of them.
        with stage(site, "push") as made:
            assert_kept(replace(made, settle_s=REPEATED_S).measure("swap", swap))


def test_the_history_tells_of_flows_that_a_takeover_lost() -> None:
    with serving(devices=2, gateways=2, witness=True) as site, stage(site, "push", "udp") as made:
        made.wait_agreed()
        assert_kept(made.promote(next_device(site)))
        successor = next_device(site)
        site.wait("the move is told of", lambda: len(_told(site, successor)) == 1, 15.0)

        def lose_all_flows() -> None:
            _wait_for_flows(site, successor)
            assert _in_kernel(site, successor, _take_away_flows) >= CONNECTIONS
            site.crash(site.primary())

        lost = made.measure("crash", lose_all_flows).kinds["push"].lost
        assert lost.keys() <= {"reset", "silent"}
        assert sum(lost.values()) == CONNECTIONS // 2
        site.wait("the crash is, too", lambda: len(_told(site, successor)) == 2, 15.0)
        planned, crash = _told(site, successor)
        assert planned.carried >= CONNECTIONS
        assert (planned.most, planned.lost) == ("", 0)
        assert crash.most
        assert CONNECTIONS // 2 <= crash.lost < CONNECTIONS // 2 + CONNECTIONS // 10
        # Datagrams find their gateways by their slots, some before they are counted first.
        assert CONNECTIONS // 2 <= crash.carried + crash.found < CONNECTIONS


class _Told(NamedTuple):
    """What the history tells of the flows of a move."""

    carried: int
    found: int
    most: str
    lost: int


def _told(site: Site, device: str) -> list[_Told]:
    text = site.halbctl(device, "history").check()
    form = r"(\d+) flows carried over, (\d+) found again by their slots, (up to |)(\d+) lost"
    return [_Told(int(a), int(b), c, int(d)) for a, b, c, d in re.findall(form, text)]


def _leads(site: Site, device: str) -> bool:
    return bool(site.virtual_server(device)["primary"] == device)


def _wait_for_flows(site: Site, device: str) -> None:
    """Wait until a device's kernel holds a flow for each connection."""

    def told() -> bool:
        return _in_kernel(site, device, lambda table: len(_flows(table))) >= CONNECTIONS

    site.wait(f"{device} holds all flows", told, 15.0)


def _take_away_flows(table: FlowTable) -> int:
    """Remove all flows, of which the device's agent does not hear; how many."""
    flows = _flows(table)
    table.remove([key_of(flow) for flow in flows])
    return len(flows)


def _flows(table: FlowTable) -> list[Flow]:
    return list(table.all(PACKED))


def _in_kernel(site: Site, device: str, look: Callable[[FlowTable], int]) -> int:
    """What ``look`` makes of the connections in a device's kernel."""
    inside = Inside(site.network, device)

    def with_table() -> int:
        with closing(FlowTable()) as table:
            return look(table)

    try:
        return inside.call(with_table)
    finally:
        inside.close()


def _counted(site: Site) -> bool:
    return any(each.carried >= CONNECTIONS for each in _told(site, site.primary()))
