"""Whole Sites under failures: connections live on, and nobody ever has two owners."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from halbctl.lab.measure import Stage, next_device
from halbctl.lab.site import Site
from tests.kernel.sites import assert_kept, serving

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.xdist_group("failures")]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with serving(devices=3, gateways=2) as made:
        yield made


@pytest.fixture(autouse=True)
def in_order(on_stage: Stage) -> None:
    on_stage.wait_agreed()


def test_a_crash_and_the_return(on_stage: Stage) -> None:
    crash = on_stage.crash()
    assert_kept(crash)
    back = on_stage.come_back(crash.before)
    assert_kept(back)
    assert crash.before not in {owner for _, owner in back.owners}, "nothing moves"


def test_a_planned_move(on_stage: Stage) -> None:
    to = next_device(on_stage.site)
    moved = on_stage.promote(to)
    assert moved.after == to
    assert_kept(moved)


def test_an_agent_that_hangs_and_goes_on(on_stage: Stage) -> None:
    assert_kept(on_stage.hang())


def test_an_agent_that_is_killed_and_started_again(on_stage: Stage) -> None:
    killed = on_stage.kill()
    assert_kept(killed)
    assert_kept(on_stage.revive(killed.before))


def test_a_primary_that_loses_the_other_devices_but_not_the_clients(on_stage: Stage) -> None:
    assert_kept(on_stage.partition())


def test_without_a_majority_nobody_owns_the_vip_and_healing_brings_it_back(
    on_stage: Stage,
) -> None:
    apart = on_stage.shatter()
    assert_kept(apart)
    assert apart.outage_ms > 1000
