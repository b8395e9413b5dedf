"""A Site whose VIPs keep their hardware address: taken up, moved with, given up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from halbctl.lab.measure import Stage, next_device
from halbctl.lab.plan import CLIENT, VIRTUAL_SERVER
from halbctl.lab.site import Site, change
from tests.kernel.sites import assert_kept, serving

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.xdist_group("virtual-mac")]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with serving() as made:
        yield made


@pytest.fixture(autouse=True)
def in_order(on_stage: Stage) -> None:
    on_stage.wait_agreed()


def edit(site: Site, mac: str) -> None:
    change(site, site.primary(), "vs", "edit", VIRTUAL_SERVER, "--virtual-mac", mac)


def believed(site: Site, vip: str) -> str:
    """The hardware address of a VIP in the client's cache."""
    words = site.network.run(CLIENT.name, "ip", "neighbour", "show", "to", vip).split()
    return words[words.index("lladdr") + 1] if "lladdr" in words else ""


def remember(site: Site, mac: str) -> None:
    """From now on the client takes no announcement."""
    for vip in site.plan.vips:
        entry = (vip, "lladdr", mac, "dev", "eth0", "nud", "permanent")
        site.network.run(CLIENT.name, "ip", "neighbour", "replace", *entry)


def test_it_is_taken_up_moved_with_and_given_up_while_connections_last(on_stage: Stage) -> None:
    site = on_stage.site
    assert_kept(on_stage.measure("taken up", lambda: edit(site, "auto")))
    primary = site.primary()
    mac = site.virtual_server(primary)["virtual_mac"]
    for vip in site.plan.vips:
        site.wait(f"{vip} is at {mac}", lambda: believed(site, vip) == mac, 60.0)  # noqa: B023

    remember(site, mac)
    assert_kept(on_stage.promote(next_device(site)))
    on_stage.wait_agreed()
    crash = on_stage.crash()
    assert_kept(crash)
    assert_kept(on_stage.come_back(crash.before))

    on_stage.wait_agreed()
    for vip in site.plan.vips:
        entry = (vip, "lladdr", mac, "dev", "eth0", "nud", "reachable")
        site.network.run(CLIENT.name, "ip", "neighbour", "replace", *entry)
    assert_kept(on_stage.measure("given up", lambda: edit(site, "no")))
    for vip in site.plan.vips:
        site.wait(f"{vip} moved", lambda: believed(site, vip) not in ("", mac), 60.0)  # noqa: B023
