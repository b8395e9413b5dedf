"""Whole Sites under failures: connections live on, and nobody ever has two owners."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.history import FILE as HISTORY
from halbctl.lab.measure import Stage, next_device
from halbctl.lab.namespaces import INTERFACE
from halbctl.lab.plan import VIRTUAL_SERVER
from halbctl.lab.site import START_TIMEOUT, Site
from tests.kernel.sites import assert_kept, serving

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.xdist_group("failures")]

BLACKOUT_S = 5.0
"""Longer than the checks of a gateway that is gone need to say so."""


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


def test_a_primary_whose_interface_is_taken_away_and_given_anew(on_stage: Stage) -> None:
    site = on_stage.site
    former = site.primary()
    other = next_device(site)

    def taken_away() -> None:
        site.network.run(former, "ip", "link", "delete", INTERFACE)
        moved = f"somebody takes over from {former}"
        site.wait(moved, lambda: site.virtual_server(other)["primary"] != former, START_TIMEOUT)

    def given() -> None:
        site.network.wire(site.plan.host(former))
        on_stage.wait_fit(former)

    assert_kept(on_stage.measure("crash", taken_away))
    assert f"interface {INTERFACE} does not exist" in site.status(former)["warnings"]
    assert_kept(on_stage.measure("return", given))
    assert_kept(on_stage.promote(former))


def test_histories_on_disks_that_hang_hold_nobody_up(on_stage: Stage) -> None:
    with no_history_is_written(on_stage.site):
        assert_kept(on_stage.promote(next_device(on_stage.site)))
        crash = on_stage.crash()
        assert_kept(crash)
    assert_kept(on_stage.come_back(crash.before))


@contextmanager
def no_history_is_written(site: Site) -> Iterator[None]:
    """Whoever writes a device's history waits, as for a disk that hangs."""
    files = [site.folder / host.name / "state" / HISTORY for host in site.plan.device_hosts]
    for file in files:
        file.unlink(missing_ok=True)
        os.mkfifo(file)
    try:
        yield
    finally:
        for file in files:
            reader = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
            file.unlink()
            os.close(reader)


def test_a_switch_that_is_out_is_held_against_no_gateway(on_stage: Stage) -> None:
    site = on_stage.site
    devices = [host.name for host in site.plan.device_hosts]
    seen: set[tuple[str, str, str]] = set()

    def blackout() -> None:
        for name in devices:
            site.network.unplug(name)
        time.sleep(BLACKOUT_S)
        for name in devices:
            told = site.ask(name, "gateways", virtual_server=VIRTUAL_SERVER)
            seen.update(
                (name, gateway["name"], view["state"])
                for gateway in told["gateways"]
                for view in gateway["devices"]
                if view["device"] == name
            )
            assert "interface eth0 has no carrier" in site.status(name)["warnings"]
        for name in devices:
            site.network.plug(name)
        on_stage.wait_agreed()
        time.sleep(BLACKOUT_S + 1.0)  # TCP, that doubles its timer, has sent everything once more

    measured = on_stage.measure("blackout", blackout)
    assert measured.survivors == measured.wanted, measured
    assert measured.two_owners_ms == 0, measured
    gateways = [host.name for host in site.plan.gateway_hosts]
    assert seen == {(name, gateway, "up") for name in devices for gateway in gateways}
