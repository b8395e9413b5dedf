"""Modes of forwarding in a whole Site: changed while it runs, and kept by a takeover."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from halbctl.lab.measure import Stage
from halbctl.lab.plan import CLIENT, VIRTUAL_SERVER
from halbctl.lab.site import Site, change, in_order
from tests.kernel.gateways import INNER, prepare
from tests.kernel.sites import assert_kept, serving, stage

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.xdist_group("modes")]

WISHES = {
    "routed": ("--inner-vip", f"{INNER[4]}/24", "--inner-vip", f"{INNER[6]}/64"),
    "dsr": (),
}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with serving(devices=2, gateways=2, ipv6=True) as made:
        yield made


def in_force(site: Site, mode: str) -> bool:
    """Whether both devices know the mode, and nothing waits any more."""
    found = [site.virtual_server(host.name) for host in site.plan.device_hosts]
    return all(each["forwarding"] == mode and each["state"] == "ok" for each in found)


@pytest.mark.parametrize("mode", WISHES)
def test_a_mode_that_is_chosen_serves_and_outlives_its_primary(site: Site, mode: str) -> None:
    client = {4: CLIENT.ipv4, 6: CLIENT.ipv6}
    for host in site.plan.gateway_hosts:
        prepare(site.network, host.name, mode, client)
    wish = ("vs", "edit", VIRTUAL_SERVER, "--forwarding", mode, *WISHES[mode])
    change(site, site.plan.device_hosts[0].name, *wish)
    site.wait(f"{mode} is in force", lambda: in_force(site, mode) and in_order(site), 20.0)
    with stage(site) as instruments:
        instruments.wait_agreed()
        crash = instruments.crash()
        assert_kept(crash)
        assert crash.after != crash.before
        assert_kept(instruments.come_back(crash.before))
        if mode == "routed":
            _outlive_crashes_amid_a_drain(instruments)
    ran = site.halbctl(site.primary(), "--output", "json", "doctor")
    found = json.loads(ran.output)["findings"]
    mine = [f for f in found if f["check"] in ("dsr", "mtu", "kernel", "peers", "gateways")]
    assert {f["state"] for f in mine} == {"ok"}, mine


def _outlive_crashes_amid_a_drain(instruments: Stage) -> None:
    """Without memory no slot tells which connections are older than the drain."""
    site = instruments.site
    for name in ("gw1", "gw1-6"):
        change(site, site.primary(), "gateway", "drain", VIRTUAL_SERVER, name)
    for newer in (False, True):
        instruments.wait_agreed()
        assert_kept(instruments.measure("rest", lambda: None, renew=newer))
        crash = instruments.crash()
        assert_kept(crash)
        assert_kept(instruments.come_back(crash.before))
    for name in ("gw1", "gw1-6"):
        change(site, site.primary(), "gateway", "undrain", VIRTUAL_SERVER, name)
