"""Gateways that are gone for a moment, or changed, where nothing remembers connections."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from halbctl.lab.measure import Stage
from halbctl.lab.plan import VIRTUAL_SERVER
from halbctl.lab.site import change
from tests.kernel.sites import assert_kept, serving, stage

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.slow,
    pytest.mark.xdist_group("returning"),
    pytest.mark.parametrize("mode", ["routed-memoryless", "dsr"]),
]

GATEWAY = "gw1"
DEAF = """
add table inet deaf
add chain inet deaf input {{ type filter hook input priority 0; }}
add rule inet deaf input ip saddr {{ {} }} tcp flags syn drop
"""
"""Rules of a gateway that answers no check, and goes on with what it has."""


def fall(instruments: Stage) -> None:
    devices = ", ".join(host.ipv4 for host in instruments.site.plan.device_hosts)
    instruments.site.network.run(GATEWAY, "nft", DEAF.format(devices))
    instruments.wait_gateway(GATEWAY, "down")


def return_(instruments: Stage) -> None:
    instruments.site.network.run(GATEWAY, "nft", "delete table inet deaf")
    instruments.wait_gateway(GATEWAY, "up")


def test_connections_live_on_as_a_gateway_falls_and_returns(mode: str) -> None:
    with serving(gateways=3, mode=mode) as site, stage(site) as instruments:
        instruments.wait_agreed()
        back = partial(return_, instruments)

        def lives_through(act: Callable[[], object], *, newer: bool = False) -> None:
            assert_kept(instruments.measure("gateway", act, renew=newer))

        lives_through(partial(fall, instruments))  # what it had
        lives_through(back)
        fall(instruments)
        lives_through(back, newer=True)  # what began elsewhere
        fall(instruments)
        lives_through(lambda: None, newer=True)
        assert_kept(instruments.crash())
        lives_through(back)


def test_connections_live_on_as_slots_go_by_another_mark_and_another_hash(mode: str) -> None:
    with serving(devices=2, gateways=3, mode=mode) as site, stage(site) as instruments:
        instruments.wait_agreed()
        for wish in (
            ("gateway", "set", VIRTUAL_SERVER, GATEWAY, "--backup"),
            ("vs", "edit", VIRTUAL_SERVER, "--balance", "source-hash"),
        ):
            act = partial(change, site, site.primary(), *wish)
            assert_kept(instruments.measure("reload", act))
        assert_kept(instruments.crash())
