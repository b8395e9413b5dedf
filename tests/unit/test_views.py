"""Gateways as all devices see them: may one be removed?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.views import refuse_used, seen, side_by_side
from protocol.errors import Refused
from protocol.insight import Gateways, GatewayView, GatewayViews
from protocol.messages import Report
from protocol.wire import MAX_BULK, decode, encode
from tests.unit.paris import RDP, server, site


def gateways(primary: int | None, state: str = "enabled") -> Gateways:
    """``primary`` counts so many connections of gw1; None: there is no primary."""
    views = [GatewayView("b", "secondary", "up", "", 7)]
    if primary is not None:
        views.insert(0, GatewayView("a", "primary", "up", "", primary))
    gateway = GatewayViews("gw1", "10.77.0.31", 1, state, None, tuple(views))
    return Gateways("rdp", "a", "a" if primary is not None else None, (gateway,))


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
        refuse_used(gateways(primary), "gw1")
    refuse_used(gateways(primary, "draining"), "gw1")
    refuse_used(gateways(primary, "disabled"), "gw1")


def test_a_gateway_that_does_not_exist_is_for_others_to_refuse() -> None:
    refuse_used(gateways(3), "gw9")


CHECKS = cast(Any, SimpleNamespace(reasons=dict, checks=lambda gateway: True))


@pytest.mark.parametrize("counted", [True, False])
def test_what_nobody_counts_reaches_the_others_as_unknown(counted: bool) -> None:
    """With `dsr` a kernel counts -1, and soon after the start nothing has been counted."""
    config = site(RDP)
    vs = server(config)
    counts = {(vs.uid, "gw1"): -1, (vs.uid, "gw2"): 3} if counted else None
    report = decode(encode(Report("r", (), gateways=seen(vs, CHECKS, counts))), MAX_BULK)
    assert isinstance(report, Report)
    told = side_by_side(config, vs, "b", None, {vs.devices[0]: report.gateways})
    shown = [
        (gateway.devices[0].state, gateway.devices[0].connections) for gateway in told.gateways
    ]
    assert shown == [("up", -1), ("up", 3 if counted else -1)]
