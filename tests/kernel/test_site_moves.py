"""Moves without a failure, in a whole Site: real agents, real checks, real stalls."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from halbctl.lab.plan import VIRTUAL_SERVER
from halbctl.lab.site import Site, apply, change, wait_serving
from protocol.errors import ExitCode
from tests.kernel.sites import CHECK_INTERVAL, serving

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.xdist_group("moves")]

ASLEEP_S = 3.0


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with serving(devices=3, gateways=2) as made:
        yield made


@pytest.fixture
def fresh() -> Iterator[Site]:
    """A Site without moves before: too many of them hold back those that devices make alone."""
    with serving(devices=3, gateways=2) as made:
        yield made


def wait_primary(site: Site, device: str, timeout: float) -> float:
    return site.wait(f"{device} is primary", lambda: site.primary() == device, timeout)


def promote(site: Site, to: str) -> None:
    site.halbctl(to, "promote", VIRTUAL_SERVER, "--to", to, "--wait").check()
    wait_serving(site)


def told(site: Site, device: str, why: str) -> bool:
    """Whether a device's history gives this reason for a move."""
    found = json.loads(site.halbctl(device, "history", VIRTUAL_SERVER, "-o", "json").check())
    return any(e["kind"] == "move" and why in e["text"] for e in found["entries"])


def test_a_secondary_that_was_stopped_blames_nobody_when_it_goes_on(site: Site) -> None:
    promote(site, "a")
    term = site.virtual_server("a")["term"]
    site.freeze("b")
    time.sleep(ASLEEP_S)
    site.thaw("b")
    site.wait_answers("b")
    time.sleep(1.0)
    assert site.primary() == "a"
    assert {site.virtual_server(device)["term"] for device in "abc"} == {term}


def test_preempt_hands_over_to_a_device_that_ranks_better(fresh: Site) -> None:
    """As a rule to ``a``; on a busy machine others may rank before it for a while."""
    promote(fresh, "b")
    ranked = ("--device", "a", "--device", "b", "--device", "c")
    change(fresh, "a", "vs", "edit", VIRTUAL_SERVER, *ranked, "--preempt", "3s")
    assert fresh.wait("b hands over", lambda: fresh.primary() != "b", 60.0) > 1.0


def test_a_primary_that_sees_fewer_gateways_hands_over(fresh: Site) -> None:
    promote(fresh, "a")
    fresh.cut("a", "gw1")

    def handed_over() -> bool:
        if told(fresh, "a", "sees more healthy gateways"):
            return True
        if fresh.primary() != "a":  # relieved because this machine is too busy
            fresh.halbctl("a", "promote", VIRTUAL_SERVER, "--to", "a")
        return False

    fresh.wait("a hands over", handed_over, 60.0, every=1.0)
    fresh.wait("another device is primary", lambda: fresh.primary() != "a", 10.0)
    fresh.heal("a", "gw1")
    wait_serving(fresh)


def test_a_planned_move_comes_at_its_time(site: Site) -> None:
    apply(site, site.plan.document(CHECK_INTERVAL))
    promote(site, "a")
    site.halbctl("c", "promote", VIRTUAL_SERVER, "--to", "c", "--at", "+10s").check()
    notes = site.virtual_server("b")["notes"]
    assert any(note.startswith("moves to c at ") for note in notes)
    assert wait_primary(site, "c", 30.0) > 1.0


def test_promote_returns_when_the_successor_serves_and_names_it_whoever_is_asked(
    site: Site,
) -> None:
    """Also a device that does not hear the successor, and knows the former primary only."""
    promote(site, "a")
    site.cut("b", "c")
    for asked, named in (("c", ("--to", "b")), ("b", ("--to", "a")), ("c", ())):
        ran = site.halbctl(asked, "promote", VIRTUAL_SERVER, *named, "--wait")
        assert ran.code == 0, ran
        now = site.primary()
        assert site.virtual_server(now)["primary"] == now
        if named:
            assert f"\n{named[1]} is primary of {VIRTUAL_SERVER}, after " in ran.errors
            assert now == named[1]
        else:
            unheard = f"\n{VIRTUAL_SERVER} has moved, after "
            assert (f"\n{now} is primary" in ran.errors) or unheard in ran.errors, ran
            assert now != "a"
    site.heal("b", "c")
    wait_serving(site)


def test_promote_says_why_it_moved_nothing(site: Site) -> None:
    promote(site, "a")
    site.freeze("b")
    ran = site.halbctl("a", "promote", VIRTUAL_SERVER, "--to", "b", "--wait")
    site.thaw("b")
    assert ran.code == ExitCode.FAILED, ran
    assert site.primary() == "a"
    wait_serving(site)


def _explained(site: Site, device: str) -> Any:
    return json.loads(site.halbctl(device, "explain", VIRTUAL_SERVER, "-o", "json").check())


def _knows_all_roles(site: Site, device: str) -> bool:
    roles = {each["role"] for each in _explained(site, device)["devices"]}
    return roles == {"primary", "secondary"}


def test_every_device_explains_and_hears_every_other(site: Site) -> None:
    promote(site, "b")
    promote(site, "a")
    for device in "abc":
        # One that was frozen has said nothing of itself at first.
        site.wait(f"{device} was told by all", partial(_knows_all_roles, site, device), 5.0)
        found = _explained(site, device)
        assert found["primary"] == "a"
        assert found["election"]["cause"] == "the primary handed over to it"
        heard = json.loads(site.halbctl(device, "matrix", "-o", "json").check())
        assert not heard["silent"]
        assert len(heard["links"]) == 6
        assert all(0 <= link["heard_ms"] < 2000 for link in heard["links"])


def test_a_pair_that_does_not_hear_each_other_is_said_so(site: Site) -> None:
    promote(site, "a")
    site.cut("b", "c")
    site.wait(
        "the cut is said",
        lambda: any("does not hear" in r for r in site.virtual_server("a")["reasons"]),
        15.0,
    )
    assert site.primary() == "a"
    site.heal("b", "c")
    wait_serving(site)


def test_a_device_that_is_cut_off_says_why_it_changes_nothing_before_time_is_up(
    site: Site,
) -> None:
    promote(site, "a")
    site.cut("c")
    site.wait("c knows it", lambda: site.status("c")["coordinator"] is None, 15.0)
    try:
        for change_ in (("vs", "freeze", VIRTUAL_SERVER), ("device", "drain", "c")):
            ran = site.halbctl("c", *change_, "--timeout", "2")
            assert ran.code == ExitCode.NO_QUORUM, ran
    finally:
        site.heal("c")
    wait_serving(site)
