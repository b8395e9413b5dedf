"""Whole Sites that operators change, with connections of every kind open: all of them survive."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from halbctl.lab import changes
from halbctl.lab.kinds import USUAL
from halbctl.lab.measure import Measured, Stage, next_device
from halbctl.lab.plan import VIP, VIRTUAL_SERVER
from halbctl.lab.probes import Probe
from halbctl.lab.site import apply, change
from tests.kernel.sites import CHECK_INTERVAL, CONNECTIONS, serving, stage

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


def test_a_gateway_that_a_document_leaves_out_keeps_its_connections_through_a_move(
    on_stage: Stage,
) -> None:
    site = on_stage.site
    on_stage.probes.begin(renew=True)
    on_stage.probes.end()
    document = json.loads(site.plan.document(CHECK_INTERVAL))
    (server,) = document["virtual_servers"]
    server["gateways"] = [g for g in server["gateways"] if not g["name"].startswith("gw1")]
    assert on_stage.connections_of("gw1") > 0
    left_out = on_stage.measure("reload", lambda: apply(site, json.dumps(document)))
    assert_all_survived(left_out)
    assert_all_survived(on_stage.measure("promote", lambda: promote(on_stage)))
    assert on_stage.connections_of("gw1") > 0
    apply(site, site.plan.document(CHECK_INTERVAL))
    on_stage.wait_gateway("gw1", "up")


def test_a_gateway_with_connections_is_removed_only_by_force_and_then_its_clients_know(
    on_stage: Stage,
) -> None:
    site = on_stage.site
    with closing(Probe(site.network, "client", "established", VIP, "40")) as clients:
        clients.begin()
        site.wait("gw1 is seen to have connections", lambda: counted(on_stage) > 5, 10)
        before = site.ask("a", "export")["document"]
        refused = site.halbctl("b", "gateway", "remove", VIRTUAL_SERVER, "gw1")
        assert refused.code == 1
        assert "connections" in refused.errors
        assert "--force" in refused.errors
        assert site.ask("a", "export")["document"] == before
        change(site, "b", "gateway", "remove", VIRTUAL_SERVER, "gw1", "--force")
        assert "gw1" not in {g["name"] for g in site.virtual_server("b")["gateways"]}
        site.wait("its clients were reset", lambda: bool(clients.end()["lost"]), 10)
        assert set(clients.end()["lost"]) == {"ECONNRESET"}
    apply(site, site.plan.document(CHECK_INTERVAL))
    on_stage.wait_gateway("gw1", "up")


def promote(on_stage: Stage) -> None:
    to = next_device(on_stage.site)
    on_stage.site.halbctl(to, "promote", VIRTUAL_SERVER, "--to", to, "--wait").check()


def counted(on_stage: Stage) -> int:
    gateways = on_stage.site.virtual_server(on_stage.site.primary())["gateways"]
    return next(int(g["connections"]) for g in gateways if g["name"] == "gw1")
