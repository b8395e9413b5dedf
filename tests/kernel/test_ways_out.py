"""A device that lost the way back to distant clients leaves its VIPs to one that has it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from agent.outlook import Outlook
from halbctl.lab.site import Site, wait_serving
from tests.kernel.namespaces import Inside, one_host
from tests.kernel.sites import serving

pytestmark = pytest.mark.kernel

ROUTER, ROUTER6 = "10.77.0.1", "fd77::1"
BOTH, NONE = frozenset({4, 6}), frozenset[int]()
SEEN = "there is an IPv4 default route"
STAYS_S = 13.0
"""Longer than what is better elsewhere must last before anything moves."""
GONE = "has no IPv4 default route any more: distant clients get no answers"


@pytest.fixture
def host() -> Iterator[Inside]:
    with one_host() as inside:
        yield inside


def look(host: Inside, outlook: Outlook) -> frozenset[int]:
    """IP versions whose way out is lost."""
    host.call(outlook.look)
    return outlook.lost


def route(host: Inside, *words: str) -> None:
    version = "-6" if any(":" in word for word in words) else "-4"
    host.run("ip", version, "route", *words)


def default(site: Site, device: str, verb: str) -> None:
    site.network.run(device, "ip", "route", verb, "default", "via", ROUTER)


def wait_seen(site: Site, device: str) -> None:
    """One that the agent has never seen it cannot miss."""
    log = site.service(device).log
    site.wait("the route is seen", lambda: SEEN in log.read_text(), 20)


def wait_missed(site: Site, device: str) -> None:
    """Until ``status`` says it, as another device sees it."""

    def says() -> bool:
        (server,) = site.ask("witness", "status")["virtual_servers"]
        reasons = {each["name"]: each["reason"] for each in server["devices"]}
        return (server["state"], reasons[device]) == ("degraded", GONE)

    site.wait(f"{device} misses its route", says, 20)


def test_a_default_route_that_never_was_is_not_missed(host: Inside) -> None:
    assert look(host, Outlook("eth0")) == NONE


def test_one_that_was_there_is_missed_until_it_is_back(host: Inside) -> None:
    outlook = Outlook("eth0")
    for router in (ROUTER, ROUTER6):
        route(host, "add", "default", "via", router)
    assert look(host, outlook) == NONE
    route(host, "del", "default", "via", ROUTER)
    assert look(host, outlook) == {4}
    route(host, "del", "default", "via", ROUTER6)
    assert look(host, outlook) == BOTH
    for router in (ROUTER, ROUTER6):
        route(host, "add", "default", "via", router)
    assert look(host, outlook) == NONE


@pytest.mark.parametrize(
    "others",
    [
        [("default", "via", "10.77.0.2", "metric", "4000")],
        [("default", "nexthop", "via", "10.77.0.2", "nexthop", "via", "10.77.0.3")],
        [("0.0.0.0/1", "via", "10.77.0.2"), ("128.0.0.0/1", "via", "10.77.0.2")],
        [("default", "dev", "other0")],
        [("blackhole", "192.0.2.0/24")],
    ],
    ids=["of less worth", "by several routers", "in halves", "another interface", "no answer"],
)
def test_any_other_way_out_will_do(host: Inside, others: list[tuple[str, ...]]) -> None:
    host.run("ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1")
    host.run("ip", "link", "set", "other0", "up")
    outlook = Outlook("eth0")
    route(host, "add", "default", "via", ROUTER, "metric", "7")
    assert look(host, outlook) == NONE
    for other in others:
        route(host, "add", *other)
    route(host, "del", "default", "via", ROUTER, "metric", "7")
    assert look(host, outlook) == NONE
    for other in others:
        route(host, "del", *other)
    assert look(host, outlook) == {4}


def test_a_route_that_says_unreachable_is_no_way_out(host: Inside) -> None:
    outlook = Outlook("eth0")
    route(host, "add", "unreachable", "default", "metric", "4000")
    route(host, "add", "default", "via", ROUTER)
    assert look(host, outlook) == NONE
    route(host, "del", "default", "via", ROUTER)
    assert look(host, outlook) == {4}


@pytest.mark.slow
def test_the_primary_that_lost_it_hands_over_and_where_all_lost_it_nothing_moves() -> None:
    with serving(devices=2, witness=True, gateways=1) as site:
        for name in ("a", "b"):
            default(site, name, "add")
            wait_seen(site, name)
        first = site.primary()
        assert first is not None
        other = "b" if first == "a" else "a"
        default(site, first, "del")
        wait_missed(site, first)
        assert f"this device cannot carry web: {GONE}" in site.halbctl(first, "doctor").output
        site.wait("it was handed over", lambda: site.primary() == other, 30)
        history = site.halbctl(other, "history", "web").output
        assert f"has been better placed for 10 s than this one: {GONE}" in history

        default(site, other, "del")
        wait_missed(site, other)
        time.sleep(STAYS_S)
        assert site.primary() == other
        site.crash(other)
        site.wait("better one without a way than none", lambda: site.primary() == first, 10)
        for name in ("a", "b"):
            default(site, name, "replace")
        site.start(other)
        wait_serving(site)
