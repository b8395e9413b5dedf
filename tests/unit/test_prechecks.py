"""What a host refuses of a change before the Site hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_interface

import msgspec
import pytest

from agent.prechecks import Host, check_change
from protocol.changes import (
    AddGateway,
    ApplyDocument,
    Change,
    DeleteVirtualServer,
    PutVirtualServer,
)
from protocol.config import Config
from protocol.document import SiteDocument, VirtualServerDocument
from protocol.errors import HalbError, InvalidInput, Refused
from protocol.gateway_document import GatewayDocument
from protocol.ids import DeviceId, GroupId, Revision
from protocol.objects import Assignment, Device, Gateway, Record, Value, VirtualServer, key_of
from protocol.timing import Profile

A, B, W = (DeviceId(letter * 16) for letter in "abc")
WEB = GroupId("0000000000000001")
OLD = GroupId("0000000000000002")

HOST = Host(
    device=A,
    interface="eth0",
    networks=(ip_interface("10.77.0.11/24"), ip_interface("fd77::11/64")),
    addresses=frozenset({"127.0.0.1", "10.77.0.11", "fd77::11", "10.77.0.50", "10.77.0.80"}),
    vips=frozenset({"10.77.0.80"}),
    mac="02:00:00:00:00:0b",
)


def config() -> Config:
    """Devices a and b, a witness w, a Virtual Server ``web``, and one just deleted."""
    devices = (
        Device(
            id=i, name=n, public_key="k" * 40, addresses=("10.77.0.11:7480",), joined=1,
            witness=i == W,
        )
        for i, n in ((A, "a"), (B, "b"), (W, "w"))
    )  # fmt: skip
    values: tuple[Value, ...] = (
        *devices,
        VirtualServer(
            uid=WEB, name="web", vips=("10.77.0.80/24",), seed=1,
            gateways=(Gateway(name="gw1", address="10.77.0.31"),),
        ),
        Assignment(
            uid=OLD, number=2, voters=(A, B), vips=(), releasing=("10.77.0.90",),
            profile=Profile.NORMAL, slowest=Profile.NORMAL,
        ),
    )  # fmt: skip
    revision = Revision(1, 1)
    return Config(revision, {key_of(v): Record(*key_of(v), revision, v) for v in values})


def rdp(
    *vips: str, name: str = "rdp", devices: tuple[str, ...] = (), gateway: str = "10.77.0.31"
) -> VirtualServerDocument:
    gateways = (GatewayDocument(name="gw1", address=gateway),)
    return VirtualServerDocument(name=name, vips=vips, devices=devices, gateways=gateways)


class Network:
    """Somebody else's answers, and the questions that were asked."""

    def __init__(self) -> None:
        self.owners = {"10.77.0.66": "02:00:00:00:00:66", "fd77::66": "02:00:00:00:00:66"}
        self.asked: list[str] = []
        self.rounds = 0

    async def probe(self, vips: Sequence[str], seconds: float) -> dict[str, str]:
        self.asked += vips
        self.rounds += 1
        return {vip: self.owners[vip] for vip in vips if vip in self.owners}


def check(change: Change, host: Host = HOST, network: Network | None = None) -> Network:
    network = network or Network()
    asyncio.run(check_change(change, config(), host, network.probe))
    return network


def refusal(change: Change, host: Host = HOST) -> HalbError:
    with pytest.raises(HalbError) as caught:
        check(change, host)
    assert caught.value.remedy, "every refusal says what to do"
    return caught.value


class TestAccepted:
    def test_free_vips_in_the_networks_of_the_interface(self) -> None:
        asked = check(PutVirtualServer(rdp("10.77.0.100/24", "fd77::100/64"))).asked
        assert asked == ["10.77.0.100", "fd77::100"]

    def test_a_vip_that_names_no_network(self) -> None:
        check(PutVirtualServer(rdp("10.77.0.100")))

    def test_changes_that_add_no_vip(self) -> None:
        assert check(DeleteVirtualServer("web")).asked == []

    def test_a_vip_that_the_site_has_already(self) -> None:
        """Also where it moves to another Virtual Server, or was just deleted."""
        for vip in ("10.77.0.80/24", "10.77.0.90/24"):
            assert check(PutVirtualServer(rdp(vip))).asked == []

    def test_a_vip_of_ours_that_a_killed_agent_left_on_the_interface(self) -> None:
        host = replace(
            HOST, addresses=HOST.addresses | {"10.77.0.99"}, vips=frozenset({"10.77.0.99"})
        )
        check(PutVirtualServer(rdp("10.77.0.99/24")), host)

    def test_anything_of_a_virtual_server_that_others_carry(self) -> None:
        change = PutVirtualServer(rdp("192.0.2.1/24", devices=("b",)))
        assert check(change).asked == []

    def test_anything_at_a_witness(self) -> None:
        change = PutVirtualServer(rdp("192.0.2.1/24"))
        assert check(change, replace(HOST, device=W)).asked == []

    def test_a_document_asks_for_all_its_new_vips_at_once(self) -> None:
        servers = tuple(rdp(f"10.77.0.{100 + n}/24", name=f"vs{n}") for n in range(100))
        network = check(ApplyDocument(SiteDocument(virtual_servers=servers)))
        assert len(network.asked) == 100
        assert network.rounds == 1


class TestRefused:
    def test_a_virtual_mac_that_is_the_address_of_the_interface(self) -> None:
        document = msgspec.structs.replace(rdp("10.77.0.100/24"), virtual_mac="02-00-00-00-00-0B")
        error = refusal(PutVirtualServer(document))
        assert "virtual_mac 02:00:00:00:00:0b is the address of eth0" in error.message
        other = msgspec.structs.replace(document, virtual_mac="auto")
        assert check(PutVirtualServer(other)).asked == ["10.77.0.100"]

    def test_a_vip_outside_the_networks_of_the_interface(self) -> None:
        error = refusal(PutVirtualServer(rdp("10.78.0.1/24")))
        assert isinstance(error, InvalidInput)
        assert error.message == (
            "VIP 10.78.0.1/24 lies outside the networks of eth0 on this device (10.77.0.0/24)"
        )

    def test_a_vip_of_a_family_that_the_interface_does_not_have(self) -> None:
        host = replace(HOST, networks=HOST.networks[:1])
        error = refusal(PutVirtualServer(rdp("fd77::100/64")), host)
        assert error.message == (
            "VIP fd77::100/64: interface eth0 of this device has no IPv6 address"
        )

    def test_a_prefix_that_disagrees_with_the_interface(self) -> None:
        error = refusal(PutVirtualServer(rdp("10.77.0.100/16")))
        assert isinstance(error, InvalidInput)
        assert error.message == (
            "VIP 10.77.0.100/16 names the network 10.77.0.0/16, but eth0 is in 10.77.0.0/24"
        )
        assert "10.77.0.100/24" in error.remedy

    @pytest.mark.parametrize(("vip", "how"), [("10.77.0.66/24", "ARP"), ("fd77::66/64", "ND")])
    def test_a_vip_that_somebody_else_answers_for(self, vip: str, how: str) -> None:
        error = refusal(PutVirtualServer(rdp(vip)))
        assert isinstance(error, Refused)
        assert f"02:00:00:00:00:66 answers {how} for it" in error.message

    def test_a_vip_that_the_operator_configured_here(self) -> None:
        error = refusal(PutVirtualServer(rdp("10.77.0.50/24")))
        assert isinstance(error, Refused)
        assert "is configured on this device already, and not by HALB" in error.message

    def test_a_gateway_that_is_the_vip(self) -> None:
        error = refusal(PutVirtualServer(rdp("10.77.0.100/24", gateway="10.77.0.100")))
        assert error.message == ("gateway gw1 has the address 10.77.0.100, which is the VIP itself")

    def test_a_gateway_that_is_this_device(self) -> None:
        error = refusal(PutVirtualServer(rdp("10.77.0.100/24", gateway="10.77.0.11")))
        assert "is one of this device" in error.message

    @pytest.mark.parametrize("address", ["10.77.0.80", "10.77.0.11"])
    def test_a_gateway_added_later_that_is_the_vip_or_this_device(self, address: str) -> None:
        refusal(AddGateway("web", GatewayDocument(name="gw2", address=address)))

    def test_anything_of_a_document_that_has_one_bad_vip(self) -> None:
        servers = (rdp("10.77.0.100/24"), rdp("10.78.0.1/24", name="bad"))
        refusal(ApplyDocument(SiteDocument(virtual_servers=servers)))
