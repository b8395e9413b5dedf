"""Releases that differ in one Site, and bytes that older releases recorded."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import msgpack
import pytest

from protocol.changes import SetDevice
from protocol.errors import MalformedMessage
from protocol.ids import SITE_GROUP
from protocol.messages import PROTOCOL_MAX, PROTOCOL_MIN
from protocol.node import Node
from protocol.timing import SECOND
from protocol.versions import SETTLED_NS, Gate
from protocol.view import Role
from protocol.wire import MAX_BULK, UnknownKind, config_from_bytes, decode
from tests.unit.cluster import Cluster
from tests.unit.test_configuration_in_a_site import in_force, propose
from tests.wire.record import FOLDER, MANIFEST
from tests.wire.samples import samples

VERSIONS = sorted(folder.name for folder in FOLDER.glob("v*"))


def recorded(version: str) -> dict[str, bytes]:
    folder: Path = FOLDER / version
    lines = (folder / MANIFEST).read_text(encoding="ascii").splitlines()
    found = {}
    for line in lines:
        digest, name = line.split()
        data = bytes.fromhex((folder / f"{name}.hex").read_text(encoding="ascii"))
        assert sha256(data).hexdigest().startswith(digest), f"{name} was altered"
        found[name] = data
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_what_an_older_release_recorded_can_be_read(version: str) -> None:
    for name, data in recorded(version).items():
        if name == "config":
            assert config_from_bytes(data).site is not None
        else:
            assert decode(data, MAX_BULK) is not None


def test_every_kind_of_message_change_and_object_is_recorded() -> None:
    newest = recorded(f"v{PROTOCOL_MAX}")
    missing = {name for name, _ in samples()} - set(newest)
    assert not missing, "record them by `scripts/record-wire --force` until the first release"


def test_a_kind_of_message_from_a_newer_release_is_no_malformed_one() -> None:
    with pytest.raises(UnknownKind):
        decode(msgpack.packb({"t": "telepathy", "x": 1}), MAX_BULK)
    with pytest.raises(MalformedMessage) as caught:
        decode(msgpack.packb({"t": 7}), MAX_BULK)
    assert not isinstance(caught.value, UnknownKind)


def speaking(cluster: Cluster, index: int, newest: int) -> Node:
    node = cluster.nodes[cluster.devices[index].id]
    node.roster.protocol = (PROTOCOL_MIN, newest)
    node.configuration.gate = Gate(node.me, node.roster.protocol)
    return node


def gate(cluster: Cluster) -> int:
    site = in_force(cluster, cluster.devices[0].id).site
    assert site is not None
    return site.protocol


def test_the_gate_rises_when_every_device_has_spoken_the_newer_version_for_a_while() -> None:
    cluster = Cluster().settled()
    for index in (0, 1):
        speaking(cluster, index, 2)
    cluster.run(2 * SETTLED_NS // 1_000_000)
    assert gate(cluster) == 1
    speaking(cluster, 2, 2)
    cluster.run(SETTLED_NS // 1_000_000 - 2000)
    assert gate(cluster) == 1
    cluster.run(6000)
    assert gate(cluster) == 2


def test_a_device_that_is_away_holds_the_gate_down() -> None:
    cluster = Cluster().settled()
    for index in range(3):
        speaking(cluster, index, 2)
    cluster.kill(cluster.devices[2].id)
    cluster.run(2 * SETTLED_NS // 1_000_000)
    assert gate(cluster) == 1


def test_a_site_of_two_releases_elects_moves_and_changes() -> None:
    cluster = Cluster()
    for index in (0, 2):
        speaking(cluster, index, 2)
    cluster.settled()
    first, second, third = (d.id for d in cluster.devices)
    assert propose(cluster, second, SetDevice("d1", drained=True)).error is None
    cluster.run(1500)
    assert cluster.primary() in (second, third)
    cluster.kill(first)
    cluster.run(3000)
    assert cluster.primary(SITE_GROUP) in (second, third)
    assert cluster.primary() is not None


def test_a_release_that_the_site_has_left_behind_says_so_and_carries_nothing() -> None:
    cluster = Cluster().settled()
    for index in range(3):
        speaking(cluster, index, 2)
    cluster.run(SETTLED_NS // 1_000_000 + 5000)
    assert gate(cluster) == 2
    third = cluster.devices[2].id
    cluster.kill(third)
    cluster.restart(third)
    speaking(cluster, 2, 1)
    cluster.run(3 * SECOND // 1_000_000)
    view = cluster.view(third)
    assert view.role is not Role.PRIMARY
    assert "install its release" in view.unfit
    assert cluster.primary() is not None
