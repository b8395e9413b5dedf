"""``halbctl doctor`` of what the agent knows already."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec.structs import replace as replaced

from agent.doctor import known, two_ways, unheard
from protocol.ids import GroupId
from protocol.messages import LinkReport
from protocol.objects import Gateway, VirtualServer
from protocol.view import PeerState
from tests.unit.test_status import A, B, C, Site


@pytest.mark.parametrize("state", [PeerState.SUSPECT, PeerState.DEAD, PeerState.STOPPED])
def test_a_device_that_is_not_heard_is_named_once(state: PeerState) -> None:
    site = Site()
    site.states[B] = state
    site.facts = replace(site.facts, lease_enforced=False)
    found = [f for f in known("a", site.status()) if f.state != "ok"]
    assert [(f.check, "device b" in f.text) for f in found] == [("peers", True), ("agent", False)]


def test_a_device_that_lives_and_is_not_heard_here_is_named() -> None:
    """As in a ring of cuts, where each device is heard by some other one."""
    site = Site()
    links = (LinkReport(B, 5_000, (), None), LinkReport(C, 120, (), None))
    assert unheard((*links, LinkReport(A, None, (), None))) == {A, B}
    (found,) = (f for f in known("a", site.status(), {"b"}) if f.check == "peers")
    assert found.state == "problem"
    assert found.text == "device b (10.0.0.2:7480) is not heard here, but by others"
    assert found.remedy.startswith("A firewall between must let TCP to its port")
    (well,) = (f for f in known("a", site.status()) if f.check == "peers")
    assert well.state == "ok"


def test_a_gateway_with_two_ways_back_is_named() -> None:
    both = (Gateway(name="gw1", address="10.0.0.1"), Gateway(name="gw6", address="fd00::1"))
    routed = VirtualServer(
        uid=GroupId("00000000000000aa"),
        name="web",
        vips=(),
        forwarding="routed",
        gateways=both,
        seed=1,
    )
    direct = replaced(routed, name="mail", forwarding="dsr", vips=("10.0.0.100/24", "fd00::100/64"))
    (found,) = two_ways((routed, direct))
    assert (found.check, found.state) == ("dsr", "warning")
    assert "gateway mail/gw1 (10.0.0.1) is one of web, too" in found.text
    assert "ip rule add from 10.0.0.100 lookup 100" in found.remedy
    other = replaced(direct, gateways=(Gateway(name="gw2", address="10.0.0.2"),))
    for servers in ((routed,), (direct,), (routed, other), (routed, routed)):
        assert not list(two_ways(servers))
