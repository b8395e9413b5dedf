"""Whole Sites that operators change, with connections of every kind open: all of them survive."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from halbctl.lab import changes
from halbctl.lab.kinds import USUAL
from halbctl.lab.measure import Measured, Stage
from tests.kernel.sites import CONNECTIONS, serving, stage

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.xdist_group("changes")]

RELOADED = 12


@pytest.fixture(scope="module")
def on_stage() -> Iterator[Stage]:
    with serving(devices=3, gateways=3, spare=1, ipv6=True) as site, stage(site, *USUAL) as made:
        yield made


@pytest.fixture(autouse=True)
def in_order(on_stage: Stage) -> None:
    on_stage.wait_agreed()


def assert_all_survived(measured: Measured) -> None:
    assert measured.two_owners_ms == 0, measured
    each = CONNECTIONS // len(USUAL)
    assert {kind: held.survivors for kind, held in measured.kinds.items()} == dict.fromkeys(
        USUAL, each
    ), measured


def test_every_kind_survives_the_crash_of_the_primary_and_its_return(on_stage: Stage) -> None:
    crash = on_stage.crash()
    assert_all_survived(crash)
    assert_all_survived(on_stage.come_back(crash.before))


def test_every_kind_survives_another_version_of_the_agent(on_stage: Stage) -> None:
    upgraded = changes.upgrade(on_stage)
    assert_all_survived(upgraded)
    versions = {d["name"]: d["version"] for d in on_stage.site.status("a")["devices"]}
    assert versions[upgraded.before] == changes.OTHER_VERSION
    assert set(versions.values()) != {changes.OTHER_VERSION}


def test_every_kind_survives_a_gateway_that_is_added_and_one_that_is_drained(
    on_stage: Stage,
) -> None:
    assert_all_survived(changes.add_gateway(on_stage))
    spare = on_stage.site.plan.gateway_hosts[-1].name
    assert on_stage.connections_of(spare) == 0, "those that were open stay where they are"
    assert_all_survived(changes.drain_gateway(on_stage))
    assert on_stage.connections_of(spare) == 0, "they ended by themselves"


def test_every_kind_survives_that_all_virtual_servers_are_reloaded(on_stage: Stage) -> None:
    assert_all_survived(changes.reload(on_stage, RELOADED))
