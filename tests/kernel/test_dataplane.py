"""The data plane as a good guest: repairs what is ours, touches nothing else, leaves no trace."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from agent import sysctl
from agent.addresses import InterfaceMissing
from agent.dataplane import DataPlane, Desired
from agent.nft import KernelRefused
from agent.ruleset import compile_ruleset
from halbctl.lab.namespaces import Network
from protocol.objects import Gateway, Listener
from tests.kernel.namespaces import (
    UID,
    VIP,
    VIP6,
    VIPS,
    Device,
    Inside,
    connect,
    desired,
    hosts,
    virtual_server,
    wait_until,
)

pytestmark = pytest.mark.kernel

GATEWAYS = [
    Gateway(name="gw1", address="10.77.0.31"),
    Gateway(name="gw2", address="10.77.0.32"),
    Gateway(name="gw3", address="fd77::31"),
]
LISTENERS = [
    Listener(protocol="tcp", port=443, gateway_port=8443),
    Listener(protocol="udp", port=443, gateway_port=443, balance="source-hash"),
]
WANTED = desired(virtual_server(GATEWAYS, LISTENERS))
FOREIGN = "table inet foreign { chain c { type filter hook input priority 0; counter; }; }"
SETTINGS = (
    "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.eth0.accept_ra",
    "net.netfilter.nf_conntrack_tcp_be_liberal", "net.ipv4.conf.all.send_redirects",
    "net.ipv4.conf.eth0.send_redirects", "net.ipv4.conf.all.arp_announce",
    "net.ipv6.conf.eth0.keep_addr_on_down", "net.ipv4.ip_early_demux",
)  # fmt: skip


@pytest.fixture
def network() -> Iterator[Network]:
    with hosts("a", "client") as built:
        yield built


@pytest.fixture
def device(network: Network) -> Iterator[Device]:
    made = Device(network, "a")
    yield made
    made.close()


def state(network: Network) -> list[str]:
    """All that may be left behind on the device."""
    return [
        network.run("a", "nft", "--stateless", "list", "ruleset"),
        network.run("a", "ip", "address").replace(" tentative", ""),
        network.run("a", "sysctl", *SETTINGS),
    ]


def test_removal_leaves_the_host_as_it_was(network: Network) -> None:
    network.run("a", "nft", "-f", "-", text=FOREIGN)
    network.run("a", "sysctl", "-qw", "net.ipv4.conf.all.arp_announce=1")
    network.run("a", "nft", "-f", "-", text="table inet probe { chain c { ct state new; }; }")
    before = state(network)
    device = Device(network, "a")
    device.reconcile(WANTED)
    device.take()
    assert state(network) != before
    device.call(device.plane.remove)
    assert state(network) == before
    device.close()


def test_a_later_process_removes_what_a_killed_agent_left(network: Network) -> None:
    network.run("a", "nft", "-f", "-", text="table inet probe { chain c { ct state new; }; }")
    before = state(network)
    killed = Device(network, "a")
    killed.reconcile(WANTED)
    killed.close()
    later = Inside(network, "a")
    later.call(lambda: DataPlane("eth0").remove())
    assert state(network) == before
    later.close()


def test_settings_found_by_a_second_agent_are_not_taken_for_the_operators(
    network: Network,
) -> None:
    before = network.run("a", "sysctl", *SETTINGS)
    Device(network, "a").close()
    second = Device(network, "a")
    second.call(second.plane.remove)
    assert network.run("a", "sysctl", *SETTINGS) == before
    second.close()


def test_settings_of_the_host_are_left_alone_where_only_the_host_can_change_them(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container: they are set from outside after the first refusal, and stay."""
    monkeypatch.setattr(sysctl, "read_only", lambda: True)
    inside = Inside(network, "a")
    with pytest.raises(sysctl.SysctlRefused) as refused:
        inside.call(lambda: DataPlane("eth0").prepare())
    assert "halb" not in network.run("a", "nft", "list", "ruleset")
    network.run("a", *refused.value.remedy.partition(": ")[2].split())
    as_set = network.run("a", "sysctl", *SETTINGS)

    def once() -> None:
        plane = DataPlane("eth0")
        plane.prepare()
        plane.remove()

    inside.call(once)
    assert network.run("a", "sysctl", *SETTINGS) == as_set
    inside.close()


def test_a_second_pass_does_nothing(device: Device) -> None:
    assert device.reconcile(WANTED).changed
    again = device.reconcile(WANTED)
    assert not again.changed
    assert not again.drift


def test_only_what_changed_is_touched(device: Device) -> None:
    device.reconcile(WANTED)
    handles = device.run("nft", "-a", "list", "table", "inet", "halb")
    # A number where /etc/protocols, of the package netbase, does not name it.
    untouched = [line for line in handles.splitlines() if re.search("l4proto (udp|17) dnat", line)]
    fewer = virtual_server(GATEWAYS, [Listener(protocol="tcp", port=443, gateway_port=443)])
    more = virtual_server(GATEWAYS, [fewer.listeners[0], LISTENERS[1]])
    done = device.reconcile(desired(more))
    assert done.changed == ("rules changed for 2 listeners, removed for 0",)
    after = device.run("nft", "-a", "list", "table", "inet", "halb").splitlines()
    assert untouched
    assert set(untouched) <= set(after)
    assert device.reconcile(desired(fewer)).changed == (
        "rules changed for 0 listeners, removed for 2",
    )
    assert "udp_443" not in device.run("nft", "list", "table", "inet", "halb")


@pytest.mark.parametrize(
    ("damage", "reported"),
    [
        ("nft flush ruleset", "table inet halb was deleted"),
        ("nft delete table netdev halb_lease", "table netdev halb_lease was deleted"),
        ("nft delete table inet halb_lease", "table inet halb_lease was deleted"),
        ("nft flush chain netdev halb_lease egress", "chain egress was altered"),
        ("nft flush chain inet halb_lease opens", "chain opens was altered"),
        ("nft flush chain inet halb guard", "chain guard was altered"),
        ("nft flush map inet halb services", "map services was altered"),
        ("nft add rule inet halb distribute accept", "chain distribute was altered"),
        ("nft add chain inet halb mine", "chain mine was added"),
        ("nft flush set netdev halb_lease vips", "netdev halb_lease: its VIPs were altered"),
        ("nft flush set inet halb_lease vips", "inet halb_lease: its VIPs were altered"),
        (f"ip address del {VIP}/32 dev eth0", f"{VIP} had been removed"),
        ("sysctl -w net.ipv4.ip_forward=0", "net/ipv4/ip_forward"),
    ],
)
def test_damage_is_repaired_and_reported(device: Device, damage: str, reported: str) -> None:
    device.reconcile(WANTED)
    whole = device.run("nft", "-s", "list", "ruleset"), device.run("ip", "address")
    device.run(*damage.split())
    found = device.reconcile(WANTED)
    assert any(reported in text for text in found.drift), found
    assert found.lease_lost == damage.startswith(("nft flush ruleset", "nft delete table"))
    repaired = device.run("nft", "-s", "list", "ruleset"), device.run("ip", "address")
    assert words(repaired) == words(whole)
    again = device.reconcile(WANTED)
    assert not again.changed
    assert not again.drift


def words(listings: tuple[str, ...]) -> list[str]:
    """What is listed, in no order; new addresses of the host are tentative for a moment."""
    return sorted(word for word in "".join(listings).split() if word != "tentative")


@pytest.mark.parametrize(
    "part",
    [
        "chain netdev halb_lease egress",
        "chain inet halb_lease opens",
        "chain inet halb_lease refresh",
        "set netdev halb_lease vips",
        "set inet halb_lease vips",
    ],
)
def test_mending_the_gate_keeps_a_lease_in_force(device: Device, part: str) -> None:
    device.reconcile(WANTED)
    device.take()
    device.run("nft", "flush", *part.split())
    assert device.reconcile(WANTED).drift
    assert set(device.call(device.lease.held).announced) == set(VIPS)


def test_a_pass_that_was_refused_leaves_no_drift_behind(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.reconcile(Desired())
    device.take()

    def refuse(*_: object) -> None:
        raise KernelRefused("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(device.plane, "_set_rules", refuse)
        with pytest.raises(KernelRefused):
            device.reconcile(WANTED)
    done = device.reconcile(WANTED)
    assert done.changed
    assert not done.drift
    assert not done.lease_lost
    assert device.call(device.lease.held).announced


def test_foreign_rules_are_no_drift_and_stay(device: Device) -> None:
    device.reconcile(WANTED)
    device.network.run("a", "nft", "-f", "-", text=FOREIGN)
    assert not device.reconcile(WANTED).drift
    assert "table inet foreign" in device.run("nft", "list", "ruleset")


def test_left_overs_of_a_killed_agent_are_taken_over(network: Network) -> None:
    killed = Device(network, "a")
    killed.reconcile(WANTED)
    killed.take()
    killed.close()
    client = Inside(network, "client")
    heir = Device(network, "a")
    assert client.owner_of(VIP), "a lease in force goes on"
    other = desired(WANTED.virtual_servers[0], ["10.77.0.101"])
    heir.reconcile(other)
    listed = heir.run("ip", "-o", "address", "show", "dev", "eth0")
    assert "10.77.0.101/32" in listed
    assert VIP not in listed.replace("10.77.0.101", "")
    assert VIP6 not in listed
    heir.close()
    client.close()


def test_an_agent_that_moved_to_another_interface_leaves_the_first_one(device: Device) -> None:
    device.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "other")
    device.reconcile(WANTED)
    moved = device.call(DataPlane, "eth1")
    device.call(moved.prepare)
    device.call(moved.reconcile, WANTED)
    gate = device.run("nft", "list", "table", "netdev", "halb_lease")
    assert 'device "eth1"' in gate
    assert "eth0" not in gate
    assert VIP not in device.run("ip", "address", "show", "dev", "eth0")
    assert VIP in device.run("ip", "address", "show", "dev", "eth1")


def test_a_vip_is_never_on_the_interface_without_the_gate(device: Device) -> None:
    """While a gate that somebody deleted is made anew, it holds every VIP from the first moment."""
    client = Inside(device.network, "client")
    device.reconcile(WANTED)
    device.run("nft", "flush", "ruleset")
    device.call(lambda: DataPlane("eth0").prepare())
    for vip in VIPS:
        assert client.owner_of(vip, 0.1) is None
    client.close()


def test_an_address_of_the_operator_is_left_alone_and_in_use(device: Device) -> None:
    client = Inside(device.network, "client")
    device.run("ip", "address", "add", f"{VIP}/24", "dev", "eth0")
    found = device.reconcile(WANTED)
    assert found.unfit == {UID: f"VIP {VIP} is an address of this host already"}
    assert client.owner_of(VIP) is not None
    with pytest.raises(ConnectionRefusedError):
        client.call(connect, VIP, LISTENERS[0].port)
    device.reconcile(Desired())
    assert VIP in device.run("ip", "address")
    device.run("ip", "address", "del", f"{VIP}/24", "dev", "eth0")
    assert not device.reconcile(WANTED).unfit
    assert client.owner_of(VIP, 0.1) is None
    client.close()


def plug_in_again(device: Device) -> None:
    namespace = device.network.namespace("a")
    for line in (
        f"link add name p-a type veth peer name eth0 address 02:48:41:4c:42:0b netns {namespace}",
        "link set p-a master br0",
        "link set p-a up",
    ):
        device.network.run("switch", "ip", *line.split())
    device.run("ip", "link", "set", "eth0", "up")
    device.run("ip", "address", "add", "10.77.0.11/24", "dev", "eth0")


def test_an_interface_that_goes_away_is_named_and_taken_up_again(device: Device) -> None:
    client = Inside(device.network, "client")
    device.reconcile(WANTED)
    device.take()
    device.run("ip", "link", "delete", "eth0")
    with pytest.raises(InterfaceMissing, match="eth0 does not exist"):
        device.reconcile(WANTED)
    plug_in_again(device)
    found = device.reconcile(WANTED)
    assert found.lease_lost
    assert not found.unfit
    assert client.owner_of(VIP, 0.1) is None
    device.take()
    wait_until(lambda: client.owner_of(VIP) is not None, "the new interface answers")
    assert client.owner_of(VIP6) is not None
    client.close()


def test_what_others_alter_after_a_change_of_rules_is_found(device: Device) -> None:
    """Also before the change was read back."""
    device.reconcile(WANTED)
    device.reconcile(WANTED)
    server = WANTED.virtual_servers[0]
    other = desired(server, down=["gw1"])
    device.reconcile(other)
    device.run("nft", "flush", "chain", "inet", "halb", "guard")
    assert "table inet halb: chain guard was altered" in device.reconcile(other).drift
    device.reconcile(WANTED)
    for _ in range(2):
        assert not device.reconcile(WANTED).drift
    chain = next(name for name in compile_ruleset(WANTED).chains if name.endswith("tcp_443_ip"))
    device.run("nft", "flush", "chain", "inet", "halb", chain)
    assert f"table inet halb: chain {chain} was altered" in device.reconcile(WANTED).drift
    assert not device.reconcile(WANTED).drift


def test_one_change_reads_nothing_back_until_there_is_time(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.reconcile(WANTED)
    device.reconcile(WANTED)
    looks: list[None] = []
    look = device.plane._look

    def counted() -> object:
        looks.append(None)
        return look()

    monkeypatch.setattr(device.plane, "_look", counted)
    server = WANTED.virtual_servers[0]
    for down in ([], ["gw1"], [], ["gw1", "gw2"]):
        device.reconcile(desired(server, down=down))
    assert not looks
    device.reconcile(desired(server, down=down))
    assert len(looks) == 1
    device.reconcile(desired(server, down=down))
    assert len(looks) == 1
