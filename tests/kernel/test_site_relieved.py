"""A primary that operators take a Virtual Server from hands it over: nobody is elected for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from halbctl.lab.measure import Stage
from halbctl.lab.plan import VIRTUAL_SERVER
from halbctl.lab.site import Site, change, wait_serving
from protocol.errors import ExitCode
from tests.kernel.sites import assert_kept, serving, stage

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

OUTAGE_MS = 150.0
"""Of new connections: some 20 ms, and on a busy machine more; after an election 220 ms."""
IN_FORCE_S = 20.0
"""Seconds within which voters follow an edit."""


@contextmanager
def carried_by(*names: str, devices: int) -> Iterator[Stage]:
    """A Site whose Virtual Server is for the first of these to carry, or else for the others."""
    with serving(devices, gateways=2) as site, stage(site, "echo", "push") as on_stage:
        name(site, *names)
        wait_voters(site, len(names))
        if site.primary() != names[0]:
            site.wait("the first is primary", lambda: promoted(site, names[0]), IN_FORCE_S)
        wait_serving(site)
        yield on_stage


def name(site: Site, *names: str) -> None:
    options = [word for each in names for word in ("--device", each)]
    change(site, "b", "vs", "edit", VIRTUAL_SERVER, *options)


def wait_voters(site: Site, number: int) -> None:
    def agreed() -> bool:
        told = json.loads(site.halbctl("b", "explain", VIRTUAL_SERVER, "-o", "json").check())
        return bool(told["voters"] == number)

    site.wait(f"{number} devices vote", agreed, IN_FORCE_S, every=0.3)


def promoted(site: Site, to: str) -> bool:
    """Moved there, where it has the flows already."""
    ran = site.halbctl(to, "promote", VIRTUAL_SERVER, "--to", to, "--wait")
    return ran.code == 0 and site.primary() == to


def assert_handed_over(on_stage: Stage, act: Callable[[], object]) -> None:
    """That connections which no other device has ever seen live on, and nobody was elected."""
    moved = on_stage.measure("promote", act, renew=True)
    assert_kept(moved)
    assert moved.outage_ms - moved.late_ms < OUTAGE_MS, moved
    ran = on_stage.site.halbctl("a", "history", VIRTUAL_SERVER, "-o", "json")
    entries = json.loads(ran.check())["entries"]
    assert [entry["kind"] for entry in entries if entry["device"] == "a"][-1] == "lame", entries


def test_a_primary_that_is_replaced_hands_over_before_it_is_cut_off() -> None:
    with carried_by("a", "b", "c", devices=4) as on_stage:
        site, command = on_stage.site, ("device", "replace", "a", "--by", "d", "--yes")
        refused = site.halbctl("b", *command)
        assert refused.code == ExitCode.FAILED
        assert "Use --force: it hands over first" in refused.errors

        def replace() -> None:
            done = site.halbctl("b", *command, "--force")
            assert done.code == 0, done
            assert "was not handed over" not in done.errors

        assert_handed_over(on_stage, replace)
        assert {device["name"] for device in site.status("b")["devices"]} == {"b", "c", "d"}


def test_a_primary_that_is_named_no_more_serves_until_another_one_has_its_flows() -> None:
    """Of which the other one has none at first, for it was no voter."""
    with carried_by("a", devices=3) as on_stage:
        site = on_stage.site

        def edit() -> None:
            name(site, "b")
            site.wait("b is primary", lambda: site.primary() == "b", IN_FORCE_S)

        assert_handed_over(on_stage, edit)
        wait_voters(site, 1)
