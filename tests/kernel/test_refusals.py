"""A Virtual Server that the kernel refuses stays as it was, and the others go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from msgspec.structs import replace

from agent.dataplane import Desired
from halbctl.lab.namespaces import Network
from protocol.ids import GroupId
from protocol.objects import Gateway, Listener, VirtualServer
from tests.kernel.namespaces import Device, hosts

pytestmark = pytest.mark.kernel

ONE, TWO, THREE = UIDS = [GroupId(f"{number:016x}") for number in (1, 2, 3)]
VIPS = {uid: (f"10.77.0.{100 + number}",) for number, uid in enumerate(UIDS)}
GATEWAYS = (Gateway(name="gw1", address="10.77.0.31"), Gateway(name="gw2", address="10.77.0.32"))
WEB = Listener(protocol="tcp", port=80, gateway_port=80)
OVERLAPPING = tuple(
    Listener(protocol="tcp", port=first, last_port=first + 10, gateway_port=first)
    for first in (7000, 7005)
)
"""The kernel takes no two intervals that have ports in common."""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with hosts("a") as built:
        yield built


@pytest.fixture
def device(network: Network) -> Iterator[Device]:
    made = Device(network, "a")
    yield made
    made.call(made.plane.remove)
    made.close()


def server(uid: GroupId, *listeners: Listener) -> VirtualServer:
    return VirtualServer(
        uid=uid, name=uid, vips=(), gateways=GATEWAYS, listeners=listeners or (WEB,), seed=1
    )


def wish(*servers: VirtualServer, down: Sequence[tuple[GroupId, str]] = ()) -> Desired:
    return Desired(servers, {vs.uid: VIPS[vs.uid] for vs in servers}, frozenset(down))


ALL = wish(*map(server, UIDS))


def rules(device: Device, uid: GroupId) -> str:
    """What the kernel does with flows of one Virtual Server."""
    listed = device.run("nft", "--stateless", "list", "table", "inet", "halb")
    return "".join(chain for chain in listed.split("\tchain ") if chain.startswith(f"vs_{uid}"))


def ways(device: Device) -> str:
    """Which addresses and ports lead to a Virtual Server."""
    return device.run("nft", "list", "map", "inet", "halb", "services")


def test_the_others_change_and_the_refused_one_stays(device: Device) -> None:
    device.reconcile(ALL)
    before = rules(device, TWO)
    more = Listener(protocol="tcp", port=81, gateway_port=81)
    done = device.reconcile(
        wish(server(ONE, WEB, more), server(TWO, more, *OVERLAPPING), server(THREE, more))
    )
    assert not done.unfit
    assert set(done.outdated) == {TWO}
    assert done.outdated[TWO].startswith("nftables refused: ")
    assert done.in_force == wish(server(ONE, WEB, more), server(TWO), server(THREE, more))
    assert rules(device, TWO) == before
    assert [rules(device, uid).count("dnat") for uid in (ONE, THREE)] == [2, 1]
    for key in (f"{VIPS[ONE][0]} . tcp . 81", f"{VIPS[TWO][0]} . tcp . 80"):
        assert key in ways(device)
    assert VIPS[TWO][0] in device.run("ip", "address")


def test_what_stays_follows_the_health_of_its_gateways(device: Device) -> None:
    device.reconcile(ALL)
    bad = wish(server(ONE, WEB, *OVERLAPPING), server(TWO), down=[(ONE, "gw1")])
    assert set(device.reconcile(bad).outdated) == {ONE}
    assert GATEWAYS[0].address not in rules(device, ONE)
    assert GATEWAYS[1].address in rules(device, ONE)


def test_a_new_one_that_is_refused_leaves_nothing_but_a_closed_gate(device: Device) -> None:
    device.reconcile(wish(server(TWO)))
    done = device.reconcile(wish(server(ONE, *OVERLAPPING), server(TWO)))
    assert set(done.unfit) == {ONE}
    assert not rules(device, ONE)
    assert VIPS[ONE][0] not in device.run("ip", "address")
    assert VIPS[TWO][0] in ways(device)


def test_the_first_load_does_without_the_refused_one(device: Device) -> None:
    done = device.reconcile(wish(server(ONE), server(TWO, *OVERLAPPING), server(THREE)))
    assert set(done.unfit) == {TWO}
    assert [bool(rules(device, uid)) for uid in UIDS] == [True, False, True]


def test_at_rest_nothing_changes_until_the_cause_is_gone(device: Device) -> None:
    device.reconcile(ALL)
    bad = wish(server(ONE), server(TWO, *OVERLAPPING), server(THREE))
    device.reconcile(bad)
    again = device.reconcile(bad)
    assert set(again.outdated) == {TWO}
    assert not again.changed
    assert not again.drift
    mended = device.reconcile(wish(server(ONE), server(TWO, OVERLAPPING[0]), server(THREE)))
    assert not mended.outdated
    assert "7000" in device.run("nft", "list", "map", "inet", "halb", "ranges")


def test_what_others_alter_is_mended_beside_a_refused_one(device: Device) -> None:
    device.reconcile(ALL)
    bad = wish(server(ONE), server(TWO, *OVERLAPPING), server(THREE))
    device.reconcile(bad)
    device.run("nft", "flush", "ruleset")
    done = device.reconcile(bad)
    assert done.drift
    assert set(done.outdated) == {TWO}
    assert all(rules(device, uid) for uid in UIDS), "the refused one has its old rules again"


def test_a_way_past_the_rules_is_refused_with_them(device: Device) -> None:
    """`dsr` has a table of its own, which changes in the same transaction or not at all."""
    direct = replace(server(ONE, WEB), forwarding="dsr")
    device.reconcile(wish(direct, server(TWO)))
    before = device.run("nft", "list", "table", "netdev", "halb_direct")
    done = device.reconcile(
        wish(replace(server(ONE, WEB, *OVERLAPPING), forwarding="dsr"), server(TWO))
    )
    assert set(done.outdated) == {ONE}
    assert device.run("nft", "list", "table", "netdev", "halb_direct") == before
