"""Whose unanswered flows go elsewhere: those that no rule leads there any more."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.conntrack import Route
from agent.leftovers import departed, forgotten, hidden
from agent.ruleset import Desired
from protocol.ids import GroupId
from protocol.objects import Gateway, Listener, VirtualServer

UID, OTHER = GroupId("0000000000000001"), GroupId("0000000000000002")
ONE, TWO = Gateway(name="gw1", address="10.0.0.31"), Gateway(name="gw2", address="10.0.0.32")


WEB = Listener(protocol="tcp", port=80, gateway_port=8080)
VIP, VIP2 = "10.0.0.9", "10.0.0.10"
SERVER = VirtualServer(uid=UID, name="rdp", vips=(), listeners=(WEB,), seed=1)


def wanted(
    *gateways: Gateway,
    down: tuple[str, ...] = (),
    uid: GroupId = UID,
    vips: tuple[str, ...] = (VIP,),
    listeners: tuple[Listener, ...] = (WEB,),
) -> Desired:
    server = replace(SERVER, uid=uid, gateways=gateways, listeners=listeners)
    return Desired((server,), {uid: vips}, frozenset((uid, name) for name in down))


def route(gateway: Gateway = ONE, vip: str = VIP, listener: Listener = WEB) -> Route:
    service = (vip, listener.protocol, listener.ports)
    return Route(service, gateway.address, listener.gateway_ports)


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
    assert departed(wanted(ONE, TWO), now) == {route()}
    assert not departed(now, now)
    assert not departed(now, read_anew(now)), "it had departed before"


@pytest.mark.parametrize("change", [{"state": "draining"}, {"weight": 0}, {"backup": True}])
def test_a_gateway_that_merely_takes_no_new_flows_answers_those_it_has(
    change: dict[str, object],
) -> None:
    assert not departed(wanted(ONE, TWO), wanted(replace(ONE, **change), TWO))


def test_a_gateway_that_fails_while_it_drains_has_departed() -> None:
    drains = replace(ONE, state="draining")
    assert departed(wanted(drains, TWO), wanted(drains, TWO, down=("gw1",))) == {route()}


def test_a_gateway_departs_from_the_virtual_server_that_sees_it_down() -> None:
    here, there = wanted(ONE, TWO), wanted(ONE, uid=OTHER, vips=(VIP2,))
    servers, vips = here.virtual_servers + there.virtual_servers, {**here.vips, **there.vips}
    before, now = Desired(servers, vips), Desired(servers, vips, frozenset({(OTHER, "gw1")}))
    assert departed(before, now) == {route(vip=VIP2)}


@pytest.mark.parametrize(
    "listeners",
    [(), (replace(WEB, gateway_port=81),), (replace(WEB, protocol="udp"),)],
    ids=["gone", "another port", "another protocol"],
)
def test_a_listener_that_leads_elsewhere_leads_there_no_more(
    listeners: tuple[Listener, ...],
) -> None:
    before, now = wanted(ONE, TWO), wanted(ONE, TWO, listeners=listeners)
    assert departed(before, now) == {route(ONE), route(TWO)}


def test_a_vip_that_goes_leads_nowhere_from_there() -> None:
    both = wanted(ONE, vips=(VIP, VIP2))
    assert departed(both, wanted(ONE, vips=(VIP2,))) == {route()}
    assert departed(wanted(ONE), Desired()) == {route()}
    assert not departed(wanted(ONE), both)


def test_what_comes_has_no_flows_to_send_elsewhere_but_to_gateways_that_are_down() -> None:
    """They may be of a former life of the agent."""
    assert not departed(Desired(), wanted(ONE, TWO))
    assert departed(Desired(), wanted(ONE, TWO, down=("gw1",))) == {route(ONE)}


def test_gateways_that_see_the_vip_from_now_on_answer_no_client() -> None:
    snat = wanted(ONE)
    routed = Desired((replace(SERVER, forwarding="routed", gateways=(ONE,)),), snat.vips)
    assert hidden(routed, snat) == {(VIP, "tcp", (80, 80))}
    for before, now in ((snat, routed), (routed, routed), (Desired(), snat), (snat, snat)):
        assert not hidden(before, now)


def test_packets_that_are_merely_sent_on_need_no_entry() -> None:
    snat = wanted(ONE)
    direct = Desired((replace(SERVER, forwarding="dsr", gateways=(ONE,)),), snat.vips)
    assert forgotten(direct) == {(VIP, "tcp", (80, 80))}
    assert not forgotten(snat)
