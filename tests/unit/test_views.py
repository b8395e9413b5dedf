"""Gateways as all devices see them: may one be removed?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from agent.kernel import Counts
from agent.ruleset import remembers_all
from agent.views import refuse_used, seen, side_by_side
from protocol.config import Config
from protocol.errors import Refused
from protocol.ids import Revision
from protocol.insight import Gateways, GatewayView, GatewayViews
from protocol.messages import Report
from protocol.objects import VirtualServer
from protocol.wire import MAX_BULK, decode, encode
from tests.unit.cluster import RDP as CLUSTER_RDP
from tests.unit.cluster import Cluster
from tests.unit.paris import RDP, server, site


def gateways(primary: int | None, state: str = "enabled", *, counted: bool = True) -> Gateways:
    """``primary`` counts so many connections of gw1; None: there is no primary."""
    views = [GatewayView("b", "secondary", "up", "", 7)]
    if primary is not None:
        views.insert(0, GatewayView("a", "primary", "up", "", primary))
    gateway = GatewayViews("gw1", "10.77.0.31", 1, state, None, tuple(views))
    return Gateways("rdp", "a", "a" if primary is not None else None, (gateway,), counted)


@pytest.mark.parametrize("state", ["enabled", "draining", "disabled"])
def test_a_gateway_with_connections_is_not_removed_by_mistake(state: str) -> None:
    with pytest.raises(Refused, match="gateway rdp/gw1 has 3 connections") as refused:
        refuse_used(gateways(3, state), "gw1")
    assert "--force" in refused.value.remedy


def test_a_gateway_without_connections_may_go() -> None:
    refuse_used(gateways(0), "gw1")


@pytest.mark.parametrize("primary", [-1, None])
def test_where_nobody_counts_only_a_gateway_that_was_drained_may_go(primary: int | None) -> None:
    with pytest.raises(Refused, match="nobody counts"):
        refuse_used(gateways(primary, counted=False), "gw1")
    refuse_used(gateways(primary, "draining", counted=False), "gw1")
    refuse_used(gateways(primary, "disabled", counted=False), "gw1")


@pytest.mark.parametrize("state", ["enabled", "draining", "disabled"])
def test_a_gateway_whose_connections_are_not_known_now_is_not_removed(state: str) -> None:
    with pytest.raises(Refused, match="a has not said in time") as refused:
        refuse_used(gateways(-1, state), "gw1")
    assert "--drain" in refused.value.remedy


def test_a_drained_gateway_of_what_nobody_serves_may_go() -> None:
    with pytest.raises(Refused):
        refuse_used(gateways(None), "gw1")
    refuse_used(gateways(None, "draining"), "gw1")


def test_a_gateway_that_does_not_exist_is_for_others_to_refuse() -> None:
    refuse_used(gateways(3), "gw9")


CHECKS = cast(Any, SimpleNamespace(reasons=dict, checks=lambda gateway: True))


@pytest.mark.parametrize("counted", [True, False])
def test_what_nobody_counts_reaches_the_others_as_unknown(counted: bool) -> None:
    """With `dsr` a kernel counts -1, and soon after the start nothing has been counted."""
    config = site(RDP)
    vs = server(config)
    counts = {(vs.uid, "gw1"): -1, (vs.uid, "gw2"): 3} if counted else None
    told = told_by_the_first(config, vs, config.revision, counts)
    assert told == [("up", -1), ("up", 3 if counted else -1)]


def test_what_a_device_counted_before_it_applied_the_newest_configuration_is_unknown() -> None:
    """It may yet send new connections to a gateway that is drained since."""
    config = site(RDP)
    vs = server(config)
    counts = {(vs.uid, "gw1"): 0, (vs.uid, "gw2"): 0}
    before = Revision(config.revision.term, config.revision.n - 1)
    assert told_by_the_first(config, vs, config.revision, counts) == [("up", 0), ("up", 0)]
    assert told_by_the_first(config, vs, before, counts) == [("up", -1), ("up", -1)]


def test_a_gateway_that_was_not_there_when_flows_were_counted_is_unknown() -> None:
    config = site(RDP)
    vs = server(config)
    counts = {(vs.uid, "gw1"): 0}
    assert told_by_the_first(config, vs, config.revision, counts) == [("up", 0), ("up", -1)]


def told_by_the_first(
    config: Config, vs: VirtualServer, applied: Revision, counts: Counts | None
) -> list[tuple[str, int]]:
    """How the first device's gateways are shown on another one."""
    cluster = Cluster().settled()
    (own, *_) = (node.report(CLUSTER_RDP, cluster.now) for node in cluster.nodes.values())
    assert own is not None
    own = msgspec.structs.replace(own, applied=applied)
    report = decode(encode(Report("r", (), own, gateways=seen(vs, CHECKS, counts))), MAX_BULK)
    assert isinstance(report, Report)
    shown = side_by_side(config, vs, "b", None, {vs.devices[0]: report})
    return [
        (gateway.devices[0].state, gateway.devices[0].connections) for gateway in shown.gateways
    ]


@pytest.mark.parametrize(("forwarding", "counted"), [("snat", True), ("dsr", False)])
def test_connections_are_counted_where_the_kernel_remembers_them(
    forwarding: str, counted: bool
) -> None:
    listeners = [{"protocol": "tcp", "port": 443}]
    config = site({**RDP, "forwarding": forwarding, "listeners": listeners})
    assert remembers_all(server(config)) is counted


def test_none_of_what_is_counted_is_unknown_where_that_is_not_all() -> None:
    """A listener of `routed` remembers its flows, and another one does not."""
    listeners = [
        {"protocol": "tcp", "port": 443},
        {"protocol": "tcp", "port": 80, "client_connections": 9},
    ]
    more: dict[str, object] = {"forwarding": "routed", "inner_vips": ["10.77.0.101/24"]}
    config = site({**RDP, **more, "listeners": listeners})
    vs = server(config)
    assert not remembers_all(vs)
    counts = {(vs.uid, "gw1"): 0, (vs.uid, "gw2"): 3}
    assert told_by_the_first(config, vs, config.revision, counts) == [("up", -1), ("up", 3)]
