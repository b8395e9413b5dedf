"""Modes of forwarding in a whole Site: changed while it runs, and kept by a takeover."""

from __future__ import annotations

import json
import re

import pytest

from agent.aftermath import UNREMEMBERED
from halbctl.lab.measure import Stage, next_device
from halbctl.lab.plan import CLIENT, VIRTUAL_SERVER
from halbctl.lab.servers import ECHO
from halbctl.lab.site import Site, change, in_order
from tests.kernel.gateways import INNER, prepare
from tests.kernel.sites import CONNECTIONS, assert_kept, serving, stage

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.xdist_group("modes")]

ROUTED = ("--inner-vip", f"{INNER[4]}/24", "--inner-vip", f"{INNER[6]}/64")


def in_force(site: Site, mode: str) -> bool:
    """Whether both devices know the mode, and nothing waits any more."""
    found = [site.virtual_server(host.name) for host in site.plan.device_hosts]
    return all(each["forwarding"] == mode and each["state"] == "ok" for each in found)


def test_connections_go_on_as_snat_becomes_routed_and_after_the_primarys_crash() -> None:
    client = {4: CLIENT.ipv4, 6: CLIENT.ipv6}
    with serving(devices=2, gateways=2, ipv6=True) as site:
        for host in site.plan.gateway_hosts:
            prepare(site.network, host.name, "routed", client)
        wish = ("vs", "edit", VIRTUAL_SERVER, "--forwarding", "routed", *ROUTED)
        with stage(site, "echo", "push") as instruments:
            instruments.wait_agreed()
            edited = instruments.measure("edit", lambda: change(site, site.primary(), *wish))
            assert edited.survivors == edited.connections == CONNECTIONS, edited
            site.wait("it is in force", lambda: in_force(site, "routed") and in_order(site), 20.0)
            instruments.wait_agreed()
            crash = instruments.crash()
            assert crash.survivors == crash.connections == CONNECTIONS, crash
            assert crash.after != crash.before


@pytest.mark.parametrize("mode", ["routed-memoryless", "dsr"])
def test_connections_that_nothing_remembers_outlive_what_happens(mode: str) -> None:
    with serving(devices=2, gateways=2, ipv6=True, mode=mode) as site:
        _outlive(site)


def _outlive(site: Site) -> None:
    with stage(site) as instruments:
        instruments.wait_agreed()
        crash = instruments.crash()
        assert_kept(crash)
        assert crash.after != crash.before
        site.wait("the history says so", lambda: _told_of_nothing(site, crash.after), 15.0)
        assert_kept(instruments.come_back(crash.before))
        names = ("gw1", "gw1-6")
        for name in names:
            change(site, site.primary(), "gateway", "drain", VIRTUAL_SERVER, name)
        _outlive_crash(instruments, newer=False)
        _outlive_crash(instruments, newer=True)
        for name in names:
            change(site, site.primary(), "gateway", "undrain", VIRTUAL_SERVER, name)
            change(site, site.primary(), "gateway", "set", VIRTUAL_SERVER, name, "--weight", "3")
        _outlive_crash(instruments, newer=False)
        for _ in range(2):
            assert_kept(instruments.promote(next_device(site)))
    ran = site.halbctl(site.primary(), "--output", "json", "doctor")
    found = json.loads(ran.output)["findings"]
    mine = [f for f in found if f["check"] in ("dsr", "mtu", "kernel", "peers", "gateways")]
    assert {f["state"] for f in mine} == {"ok"}, mine


def _told_of_nothing(site: Site, device: str) -> bool:
    """Whether the history says that the last move had nothing to carry over."""
    return site.halbctl(device, "history").check().count(UNREMEMBERED) == 1


def _outlive_crash(instruments: Stage, *, newer: bool) -> None:
    """Without memory no slot tells which connections are older than the change of slots."""
    site = instruments.site
    instruments.wait_agreed()
    assert_kept(instruments.measure("rest", lambda: None, renew=newer))
    primary, devices = site.primary(), [h.name for h in site.plan.device_hosts]

    def all_told() -> bool:
        known = _known(site, primary)  # less and less, as those of connections that ended expire
        return all(known <= _known(site, device) for device in devices)

    # One that has just come back is told with the others, every 30 s.
    site.wait("all are told", all_told, 50.0)
    crash = instruments.crash()
    assert_kept(crash)
    assert_kept(instruments.come_back(crash.before))


def _known(site: Site, device: str) -> set[str]:
    """Numbers of the connections that last and that a device remembers for `dsr`."""
    listed = site.network.run(device, "nft", "list", "ruleset", "netdev")
    maps = re.findall(rf"map \S+_tcp_{ECHO}_ip6?_known {{(.*?)\n\t}}", listed, re.DOTALL)
    return set(re.findall(r"0x[0-9a-f]{8} timeout", " ".join(maps)))
