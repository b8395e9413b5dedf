"""Whole Sites in which only the gateways speak: no slot tells where such a flow belongs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

import pytest

from agent.flowtable import FlowTable
from halbctl.lab.measure import Stage, next_device
from halbctl.lab.site import Site
from protocol.flows import key_of
from tests.kernel.namespaces import Inside
from tests.kernel.sites import CONNECTIONS, assert_kept, serving, stage
from tests.kernel.tracked import PACKED

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.xdist_group("flows")]


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
    site, successor = on_stage.site, next_device(on_stage.site)
    # It would stand first: the other one could only be second.
    assert _take_away_flows(site, successor) >= CONNECTIONS
    crash = on_stage.crash()
    assert crash.after == successor
    assert_kept(crash)
    assert_kept(on_stage.come_back(crash.before))


def _take_away_flows(site: Site, device: str) -> int:
    """Remove all flows from a device's kernel, of which its agent does not hear; how many."""
    inside = Inside(site.network, device)

    def take_away() -> int:
        with closing(FlowTable()) as table:
            flows = list(table.all(PACKED))
            table.remove([key_of(flow) for flow in flows])
            return len(flows)

    try:
        return inside.call(take_away)
    finally:
        inside.close()


def _counted(site: Site) -> bool:
    text = site.halbctl(site.primary(), "history").check()
    return re.search(r"\d{3,} flows carried over, \d+ found again", text) is not None
