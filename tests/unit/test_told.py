"""What a device tells of itself, by Virtual Server."""

from __future__ import annotations

from msgspec.structs import replace

from protocol.ids import GroupId
from protocol.told import Told, by_server
from tests.unit.cluster import RDP, Cluster

MAIL = GroupId("e" * 16)


def test_gateways_are_found_by_the_virtual_server_that_has_them() -> None:
    down = by_server([(RDP, "gw1"), (MAIL, "gw1"), (RDP, "gw2")])
    assert down == {RDP: {"gw1", "gw2"}, MAIL: {"gw1"}}


def test_each_reason_is_found_and_what_is_not_told_has_none() -> None:
    cluster = Cluster().settled()
    first, second = (device.id for device in cluster.devices[:2])
    info = cluster.nodes[first].contacts[second].info
    assert info is not None
    told = Told(
        replace(info, unfit=((RDP, "no route"),), behind=((MAIL, "flows"),), late=((RDP, "slow"),))
    )
    assert (told.unfit, told.behind, told.late) == (
        {RDP: "no route"}, {MAIL: "flows"}, {RDP: "slow"}
    )  # fmt: skip
    assert told.down == {}


def test_a_device_that_was_not_heard_of_tells_nothing() -> None:
    told = Told()
    assert not any((told.unfit, told.behind, told.late, told.down))
