"""Changes of many Virtual Servers, in several transactions, on a real kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest

from agent import contents, stages
from agent.dataplane import Desired
from agent.listing import blocks
from agent.netlink import ruleset_generation
from agent.nft import KernelRefused, Nft
from halbctl.lab.namespaces import Network
from protocol.ids import GroupId
from protocol.objects import Forwarding, Gateway, Listener, VirtualServer
from tests.kernel.namespaces import Device, hosts

pytestmark = pytest.mark.kernel

MANY = 12
UIDS = [GroupId(f"{number:016x}") for number in range(MANY)]
FARM = tuple(Gateway(name=f"gw{n}", address=f"10.77.0.{30 + n}") for n in range(1, 5))
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
def device(network: Network, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    monkeypatch.setattr(stages, "AT_ONCE", 3)
    monkeypatch.setattr(contents, "ELEMENTS_AT_ONCE", 5)
    made = Device(network, "a")
    yield made
    made.call(made.plane.remove)
    made.close()


def wish(count: int = MANY, bad: int = -1, down: str = "") -> Desired:
    """So many Virtual Servers, of which ``bad`` is refused, with a gateway of all of them down."""
    servers = tuple(
        VirtualServer(
            uid=uid, name=uid, vips=(f"10.77.0.{100 + number}/24",), gateways=FARM, seed=number,
            listeners=OVERLAPPING if number == bad else (WEB,),
        )
        for number, uid in enumerate(UIDS[:count])
    )  # fmt: skip
    vips = {uid: (f"10.77.0.{100 + number}",) for number, uid in enumerate(UIDS)}
    return Desired(servers, vips, frozenset((uid, down) for uid in UIDS if down))


def table(device: Device) -> dict[str, str]:
    return blocks(device.run("nft", "--stateless", "list", "table", "inet", "halb"))


def loaded_at_once(device: Device, desired: Desired) -> dict[str, str]:
    """The table as one transaction makes it."""
    device.run("nft", "flush", "table", "inet", "halb")
    device.reconcile(desired)
    return table(device)


@pytest.mark.parametrize("change", [wish(down="gw2"), wish(2), wish(0), wish(7, down="gw1")])
def test_many_stages_come_to_the_same_as_one_transaction(device: Device, change: Desired) -> None:
    before = device.call(ruleset_generation)
    device.reconcile(wish())
    assert device.call(ruleset_generation) - before > MANY / 3
    device.reconcile(change)
    found = table(device)
    assert not device.reconcile(change).changed
    assert found == loaded_at_once(device, change)


@pytest.mark.parametrize("forwarding", ["snat", "routed"])
def test_ranges_of_ports_of_many_become_others_that_overlap_with_them(
    device: Device, forwarding: Forwarding
) -> None:
    def ranged(desired: Desired, first: int) -> Desired:
        listener = Listener(protocol="tcp", port=first, last_port=first + 10, gateway_port=first)
        servers = (
            msgspec.structs.replace(
                vs, forwarding=forwarding, listeners=(listener,), gateways=(own(number),)
            )
            for number, vs in enumerate(desired.virtual_servers)
        )
        return replace(desired, virtual_servers=tuple(servers))

    def own(number: int) -> Gateway:
        return Gateway(name="gw1", address=f"10.77.0.{30 + number}", weight=1)

    device.reconcile(ranged(wish(), 7000))
    before = device.call(ruleset_generation)
    change = ranged(wish(), 7005)
    device.reconcile(change)
    assert device.call(ruleset_generation) - before > MANY / 3
    assert table(device) == loaded_at_once(device, change)


def test_of_many_only_the_refused_one_stays_away(device: Device) -> None:
    done = device.reconcile(wish(bad=7))
    assert set(done.unfit) == {UIDS[7]}
    carried = {uid for uid in UIDS if any(uid in name for name in table(device))}
    assert carried == set(UIDS) - {UIDS[7]}


def test_of_many_only_the_refused_one_stays_as_it_was(device: Device) -> None:
    device.reconcile(wish())
    before = {name: rules for name, rules in table(device).items() if UIDS[7] in name}
    done = device.reconcile(wish(bad=7, down="gw2"))
    assert set(done.outdated) == {UIDS[7]}
    device.reconcile(wish(bad=7))
    assert {name: rules for name, rules in table(device).items() if UIDS[7] in name} == before


def killed_amid(
    monkeypatch: pytest.MonkeyPatch, device: Device, desired: Desired, table: str, after: int
) -> None:
    """Begin what is desired, and end after so many transactions that change a table."""
    run, left = Nft.run, [after]

    def killed(self: Nft, script: str, *, patience: float = -1) -> str:
        if table in script:
            left[0] -= 1
            if left[0] < 0:
                raise SystemExit
        return run(self, script, patience=patience)

    with monkeypatch.context() as patched:
        patched.setattr(Nft, "run", killed)
        with pytest.raises(SystemExit):
            device.reconcile(desired)


@pytest.mark.parametrize("after", range(1, 5))
def test_what_was_killed_between_two_stages_leaves_nothing_behind(
    network: Network, device: Device, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    device.reconcile(wish(2))
    killed_amid(monkeypatch, device, wish(), "inet halb ", after)
    successor = Device(network, "a")
    successor.reconcile(wish(3))
    assert {uid for uid in UIDS if any(uid in name for name in table(successor))} == set(UIDS[:3])
    assert table(successor) == loaded_at_once(successor, wish(3))
    successor.close()


def test_nobody_alters_slots_that_are_in_use(device: Device) -> None:
    """So nobody has to look whether somebody did."""
    device.reconcile(wish(1))
    (name,) = (each.split()[1] for each in table(device) if each.startswith("map slots_"))
    for verb, element in (("add", "1:1 : 7e00:0"), ("delete", "0:5")):
        with pytest.raises(KernelRefused, match="busy"):
            device.call(alter, f"{verb} element inet halb {name} {{ {element} }}")


def alter(command: str) -> None:
    Nft().run(command)


def direct(desired: Desired, *gateways: Gateway) -> Desired:
    """The same with `dsr`, and with these gateways in place of its own."""
    servers = (
        msgspec.structs.replace(vs, forwarding="dsr", gateways=gateways or vs.gateways)
        for vs in desired.virtual_servers
    )
    return replace(desired, virtual_servers=tuple(servers))


OTHERS = tuple(Gateway(name=f"gw{n}", address=f"10.77.0.{40 + n}") for n in range(1, 4))


def ways_there(device: Device) -> dict[str, str]:
    return blocks(device.run("nft", "--stateless", "list", "table", "netdev", "halb_direct"))


def ways_loaded_at_once(device: Device, desired: Desired) -> dict[str, str]:
    """The table as one transaction makes it, which finds that somebody altered it."""
    device.run("nft", "add", "chain", "netdev", "halb_direct", "theirs")
    (drift,) = device.reconcile(desired).drift
    assert drift == "table netdev halb_direct: chain theirs was added"
    return ways_there(device)


@pytest.mark.parametrize(
    "change", [wish(down="gw2"), wish(2), wish(7, down="gw1"), direct(wish(), *OTHERS)]
)
def test_stages_of_dsr_come_to_the_same_as_one_transaction(device: Device, change: Desired) -> None:
    change = direct(change)
    before = device.call(ruleset_generation)
    device.reconcile(direct(wish()))
    assert device.call(ruleset_generation) - before > 2 * MANY / 3
    device.reconcile(change)
    found = ways_there(device)
    assert found
    again = device.reconcile(change)
    assert not again.changed
    assert not again.drift
    assert found == ways_loaded_at_once(device, change)


def test_a_change_of_one_is_one_transaction_and_leaves_the_rules_of_others(device: Device) -> None:
    device.reconcile(direct(wish()))
    before, was = ways_there(device), device.call(ruleset_generation)
    one = replace(direct(wish()), down=frozenset({(UIDS[4], "gw3")}))
    device.reconcile(one)
    assert device.call(ruleset_generation) == was + 1
    after = ways_there(device)
    differ = {name for name in before.keys() | after if before.get(name) != after.get(name)}
    (chain,) = {name for name in differ if "map slots_" not in name}
    assert chain == f"chain vs_{UIDS[4]}_tcp_80_ip"


@pytest.mark.parametrize("after", range(1, 9))
def test_what_was_killed_between_two_stages_of_dsr_leaves_nothing_behind(
    network: Network, device: Device, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    killed_amid(monkeypatch, device, direct(wish()), "netdev halb_direct", after)
    successor = Device(network, "a")
    successor.reconcile(direct(wish(3)))
    found = ways_there(successor)
    assert {uid for uid in UIDS if any(uid in name for name in found)} == set(UIDS[:3])
    assert found == ways_loaded_at_once(successor, direct(wish(3)))
    assert not successor.reconcile(direct(wish(3))).changed
    successor.close()


def test_the_table_goes_with_the_last_virtual_server_that_needs_it(device: Device) -> None:
    device.reconcile(direct(wish()))
    device.reconcile(wish())
    assert "halb_direct" not in device.run("nft", "list", "tables")
    device.reconcile(direct(wish()))
    assert ways_there(device)
