"""Whose unanswered flows go elsewhere: those of gateways that are to answer no more."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.leftovers import departed
from agent.ruleset import Desired
from protocol.ids import GroupId
from protocol.objects import Gateway, VirtualServer

UID, OTHER = GroupId("0000000000000001"), GroupId("0000000000000002")
ONE, TWO = Gateway(name="gw1", address="10.0.0.31"), Gateway(name="gw2", address="10.0.0.32")


def wanted(*gateways: Gateway, down: tuple[str, ...] = (), uid: GroupId = UID) -> Desired:
    server = VirtualServer(uid=uid, name="rdp", vips=("10.0.0.9/24",), seed=1, gateways=gateways)
    return Desired((server,), {uid: ("10.0.0.9",)}, frozenset((uid, name) for name in down))


def read_anew(desired: Desired) -> Desired:
    """The same, read anew."""
    servers = tuple(replace(vs) for vs in desired.virtual_servers)
    return Desired(servers, desired.vips, desired.down)


@pytest.mark.parametrize(
    "now",
    [
        wanted(ONE, TWO, down=("gw1",)),
        wanted(replace(ONE, state="disabled"), TWO),
        wanted(TWO),
        wanted(replace(ONE, address="10.0.0.33"), TWO),
    ],
    ids=["failed", "disabled", "removed", "moved"],
)
def test_a_gateway_that_is_there_no_more_has_departed(now: Desired) -> None:
    assert departed(wanted(ONE, TWO), now) == {(UID, ONE.address)}
    assert not departed(now, now)
    assert not departed(now, read_anew(now)), "it had departed before"


@pytest.mark.parametrize("change", [{"state": "draining"}, {"weight": 0}, {"backup": True}])
def test_a_gateway_that_merely_takes_no_new_flows_answers_those_it_has(
    change: dict[str, object],
) -> None:
    assert not departed(wanted(ONE, TWO), wanted(replace(ONE, **change), TWO))


def test_a_gateway_that_fails_while_it_drains_has_departed() -> None:
    drains = replace(ONE, state="draining")
    assert departed(wanted(drains, TWO), wanted(drains, TWO, down=("gw1",))) == {(UID, ONE.address)}


def test_a_gateway_departs_from_the_virtual_server_that_sees_it_down() -> None:
    here, there = wanted(ONE, TWO), wanted(ONE, uid=OTHER)
    servers, vips = here.virtual_servers + there.virtual_servers, {**here.vips, **there.vips}
    before, now = Desired(servers, vips), Desired(servers, vips, frozenset({(OTHER, "gw1")}))
    assert departed(before, now) == {(OTHER, ONE.address)}


def test_what_comes_or_goes_as_a_whole_has_no_flows_to_send_elsewhere() -> None:
    assert not departed(Desired(), wanted(ONE, down=("gw1",)))
    assert not departed(wanted(ONE), Desired())
