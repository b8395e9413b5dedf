"""Devices that are renamed, replaced, removed, and come back."""

from __future__ import annotations

import pytest

from protocol.changes import (
    AdmitDevice,
    PutToken,
    PutVirtualServer,
    RenameDevice,
    ReplaceDevice,
    found_site,
)
from protocol.document import VirtualServerDocument
from protocol.errors import InvalidInput, Refused
from protocol.ids import SITE_GROUP
from protocol.joining import JoinRequest, membership
from protocol.token import digest_of
from tests.unit.cluster import RDP, Cluster, device, server
from tests.unit.paris import NOW, SECRET, TOKEN, after, edit, site
from tests.unit.paris import device as parisian
from tests.unit.test_configuration_in_a_site import in_force, propose


def test_a_renamed_device_is_the_same_device() -> None:
    cluster = Cluster().settled()
    first, second, _ = (d.id for d in cluster.devices)
    before = cluster.primary()
    assert propose(cluster, second, RenameDevice("d1", "berlin")).error is None
    cluster.run(2000)
    assert in_force(cluster, second).devices[first].name == "berlin"
    assert cluster.primary() == before


def test_a_name_that_is_taken_is_refused() -> None:
    config = site()
    first, second, *_ = (d.name for d in config.devices.values())
    with pytest.raises(Refused, match="already"):
        edit(config, RenameDevice(first, second))


@pytest.mark.parametrize("name", ["all", "no"])
def test_a_word_that_stands_for_a_list_of_devices_is_no_name(name: str) -> None:
    config = site()
    with pytest.raises(InvalidInput, match=f"named '{name}'"):
        edit(config, RenameDevice("a", name))
    with pytest.raises(InvalidInput, match=f"named '{name}'"):
        found_site("paris", "5" * 16, parisian(name, 9))


def test_the_id_of_another_device_is_no_name() -> None:
    """Commands take either, and would find the wrong one."""
    first, second, *_ = site().devices.values()
    with pytest.raises(Refused, match=f"is the id of device '{first.name}'"):
        edit(site(), RenameDevice(second.name, first.id))
    assert edit(site(), RenameDevice(second.name, second.id)).put
    config = after(site(), PutToken(TOKEN, digest_of(SECRET), NOW + 60, 1))
    with pytest.raises(Refused, match="is the id of device"):
        edit(config, AdmitDevice(TOKEN, SECRET, parisian(first.id, 9)))


def test_a_replacement_takes_the_place_in_all_lists_and_then_the_votes() -> None:
    devices = tuple(device(i).id for i in (1, 2, 3))
    cluster = Cluster(4, (server(devices=devices),)).settled()
    first, second, third, fourth = (d.id for d in cluster.devices)
    cluster.kill(second)
    assert propose(cluster, first, ReplaceDevice("d2", "d4")).error is None
    cluster.run(5000)
    config = in_force(cluster, first)
    assert config.virtual_servers[RDP].devices == (first, fourth, third)
    assert set(config.assignments[RDP].voters) == {first, third, fourth}
    assert config.site is not None
    assert set(config.site.voters) == {first, third, fourth}
    assert list(config.devices) == [first, fourth, third]
    assert cluster.primary(SITE_GROUP) is not None


def test_a_device_does_not_replace_itself_nor_one_of_another_kind() -> None:
    config = site()
    name = next(iter(config.devices.values())).name
    with pytest.raises(InvalidInput, match="itself"):
        edit(config, ReplaceDevice(name, name))
    witness = next((d.name for d in config.devices.values() if d.witness), None)
    if witness is not None:
        with pytest.raises(Refused, match="witness"):
            edit(config, ReplaceDevice(name, witness))


def test_a_removed_device_is_told_so_and_a_stranger_nothing() -> None:
    config = site()
    assert config.site is not None
    known = next(iter(config.devices.values()))
    gone = parisian("gone", 77)
    ours = config.site.id
    assert membership(config, JoinRequest("", "", known, ours)).member is True
    assert membership(config, JoinRequest("", "", gone, ours)).member is False
    assert membership(config, JoinRequest("", "", gone, "f" * 16)).member is True


def test_a_replaced_device_is_in_no_list() -> None:
    config = site()
    names = [d.name for d in config.devices.values() if not d.witness]
    config = after(
        config,
        PutVirtualServer(
            VirtualServerDocument(name="one", vips=("10.77.0.99/24",), devices=(names[0],))
        ),
    )
    old = config.device_named(names[0])
    assert old is not None
    config = after(config, ReplaceDevice(names[0], names[1]))
    assert all(old.id not in (*v.devices, *v.witnesses) for v in config.virtual_servers.values())
