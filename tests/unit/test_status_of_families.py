"""What `halbctl status` says of gateways whose address is of another IP version than the VIPs."""

from __future__ import annotations

import msgspec

from protocol.objects import Gateway
from tests.unit.test_status import Site

NOTE = "takes nothing: no VIP has its IP version"


def test_when_all_gateways_are_of_another_family() -> None:
    site = Site()
    site.server = msgspec.structs.replace(site.server, vips=("fd77::100/64",))
    rdp = site.rdp()
    assert "no gateway has an address of the VIPs' family" in rdp.reasons
    assert {gateway.note for gateway in rdp.gateways} == {NOTE}


def test_one_of_another_family_does_not_hide_that_those_of_the_vips_take_nothing() -> None:
    site = Site()
    gateways = (
        Gateway(name="gw1", address="10.77.0.31", state="draining"),
        Gateway(name="gw6", address="fd77::31"),
    )
    site.server = msgspec.structs.replace(site.server, gateways=gateways)
    rdp = site.rdp()
    assert rdp.state == "down"
    assert rdp.reasons == ("no gateway can take a connection (gw1 draining)",)
    assert [gateway.note for gateway in rdp.gateways] == ["", NOTE]
