"""Whole Sites in which only the gateways speak: no slot tells where such a flow belongs."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from halbctl.lab.measure import Stage, next_device
from halbctl.lab.site import Site
from tests.kernel.sites import assert_kept, serving, stage

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


def _counted(site: Site) -> bool:
    text = site.halbctl(site.primary(), "history").check()
    return re.search(r"\d{3,} flows carried over, \d+ found again", text) is not None
