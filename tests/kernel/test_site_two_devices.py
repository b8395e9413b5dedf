"""Two devices with an arbiter, on real kernels: links between the agents, and the segment."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from halbctl.lab.measure import Stage, next_device
from halbctl.lab.plan import VIRTUAL_SERVER
from halbctl.lab.site import Site, change
from protocol.api import DEFAULT_PORT
from tests.kernel.sites import assert_kept, serving

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.xdist_group("two-devices")]

LINKS = f"{DEFAULT_PORT}-{DEFAULT_PORT + 2}"
CUT = f"""
table inet links {{
  chain drop_links {{
    type filter hook input priority 0;
    tcp dport {LINKS} drop
    tcp sport {LINKS} drop
  }}
}}
"""
CUT_S = 4.0


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with serving(devices=2, gateways=2) as made:
        yield made


@pytest.fixture(autouse=True)
def in_order(on_stage: Stage) -> None:
    on_stage.wait_agreed()


def cut_links(site: Site) -> None:
    """The agents hear each other no more; ARP and traffic pass."""
    site.network.run("a", "nft", "-f", "-", text=CUT)


def heal_links(site: Site) -> None:
    site.network.run("a", "nft", "delete", "table", "inet", "links")


def test_a_crash_and_the_return(on_stage: Stage) -> None:
    crash = on_stage.crash()
    assert_kept(crash)
    assert crash.after != crash.before
    assert_kept(on_stage.come_back(crash.before))


def test_cut_links_move_nothing_and_never_make_two_owners(on_stage: Stage) -> None:
    site = on_stage.site

    def cut_for_a_while() -> None:
        cut_links(site)
        time.sleep(CUT_S)
        alone = site.virtual_server(before)
        heal_links(site)
        assert any("serves alone" in reason for reason in alone["reasons"])

    before = site.primary()
    measured = on_stage.measure("links cut", cut_for_a_while)
    assert measured.after == before
    assert measured.two_owners_ms == 0
    assert_kept(measured)


def test_so_it_is_where_both_would_answer_with_one_virtual_mac(on_stage: Stage) -> None:
    site = on_stage.site
    command = ("vs", "edit", VIRTUAL_SERVER, "--virtual-mac")
    change(site, "a", *command, "auto")
    try:
        test_cut_links_move_nothing_and_never_make_two_owners(on_stage)
        on_stage.wait_agreed()
        assert_kept(on_stage.promote(next_device(site)))
    finally:
        on_stage.wait_agreed()
        change(site, "a", *command, "no")


def test_a_hung_primary_is_replaced_and_takes_nothing_back(on_stage: Stage) -> None:
    site = on_stage.site
    before = site.primary()

    def hang() -> None:
        site.freeze(before)
        time.sleep(2.0)
        site.thaw(before)

    measured = on_stage.measure("hang", hang)
    assert measured.two_owners_ms == 0
    assert measured.after != before


def test_a_device_that_starts_alone_waits_and_failover_ends_the_wait(site: Site) -> None:
    for device in ("a", "b"):
        site.crash(device)
    site.start("b")
    waits = "since it started"

    def says_so() -> bool:
        server = site.virtual_server("b")
        able = {device["name"] for device in server["devices"] if device["eligible"]}
        return "b" in able and any(waits in reason for reason in server["reasons"])

    site.wait("b could serve, and says that it waits", says_so, 10.0)
    assert site.virtual_server("b")["primary"] is None
    refused = site.halbctl("b", "failover", VIRTUAL_SERVER)
    assert refused.code == 2
    done = site.halbctl("b", "-o", "json", "failover", VIRTUAL_SERVER, "--force").check()
    assert json.loads(done)["changed"]
    assert site.virtual_server("b")["primary"] == "b"
    site.start("a")
