"""Hardware addresses that VIPs keep: which, for whom, and as rules of the kernel."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import gate, neighbour, virtual_mac
from agent.arbiter import _Round
from agent.checksums import due
from agent.neighbour import ADVERT, SOLICIT, Heard
from agent.ruleset import Desired
from agent.virtual_mac import content_of
from halbctl import yaml
from protocol.changes import PutVirtualServer
from protocol.config import Config
from protocol.document import VirtualServerDocument, parse_site
from protocol.effects import ProbeArbiter
from protocol.errors import InvalidInput, Refused
from protocol.ids import GroupId
from protocol.objects import VirtualServer
from protocol.rendering import render_site
from protocol.virtual_mac import AUTO, check_mac, derived
from tests.unit.paris import after, server, site

UID = GroupId("0123456789abcdef")
OWN, MAC = bytes.fromhex("02000000000a"), bytes.fromhex("ba1b89abcdef")
VIP, VIP6 = "10.77.0.100", "fd77::100"
OTHER = "02:00:00:00:00:02"
NONE = content_of({}, (), OWN)
addresses = st.binary(min_size=6, max_size=6)


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("02:00:5E:10:00:01", "02:00:5e:10:00:01"),
        ("00-00-5e-00-01-33", "00:00:5e:00:01:33"),
        (AUTO, AUTO),
    ],
)
def test_addresses_are_stored_in_one_form(written: str, stored: str) -> None:
    assert check_mac("virtual_mac", written) == stored


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("", "no hardware address"),
        ("yes", "no hardware address"),
        ("02:00:5e:10:00", "no hardware address"),
        ("02:00:5e:10:00:01:02", "no hardware address"),
        ("02:00:5e-10:00:01", "no hardware address"),
        ("02:00:5e:10:00:0g", "no hardware address"),
        ("01:00:5e:10:00:01", "group of hosts"),
        ("ff:ff:ff:ff:ff:ff", "group of hosts"),
        ("00:00:00:00:00:00", "nobody"),
    ],
)
def test_what_no_host_can_have_is_refused(written: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why) as refused:
        check_mac("virtual_servers[0].virtual_mac", written)
    assert "`virtual_servers[0].virtual_mac`" in refused.value.message
    assert "`auto`" in refused.value.remedy


@given(st.from_regex(r"[0-9a-f]{16}", fullmatch=True))
def test_a_derived_address_is_of_one_host_and_of_no_vendor(uid: str) -> None:
    mac = derived(GroupId(uid))
    assert check_mac("virtual_mac", mac) == mac
    assert int(mac[:2], 16) & 2
    assert yaml.parse(mac, "x") == mac


def test_an_address_of_digits_is_no_number_of_yaml() -> None:
    mac = "52:54:00:12:34:56"
    assert yaml.parse(f"virtual_mac: {mac}", "x") == {"virtual_mac": mac}
    assert yaml.parse(yaml.dump({"virtual_mac": mac}), "x") == {"virtual_mac": mac}


def put(config: Config, name: str, vip: str, mac: str | None) -> Config:
    document = VirtualServerDocument(name=name, vips=(vip,), on_peer_loss="serve", virtual_mac=mac)
    return after(config, PutVirtualServer(document, "either"))


def mac_of(config: Config, name: str) -> str:
    return server(config, name).virtual_mac


def test_what_is_chosen_for_a_virtual_server_stays_with_it() -> None:
    config = put(site(), "one", VIP, AUTO)
    chosen = derived(server(config, "one").uid)
    assert mac_of(config, "one") == chosen
    (exported,) = parse_site(render_site(config)).virtual_servers
    assert exported.virtual_mac == chosen
    mine = "02:00:5e:10:00:01"
    config = put(config, "one", VIP, mine.upper())
    assert mac_of(put(config, "one", VIP, AUTO), "one") == mine
    config = put(config, "one", VIP, None)
    assert mac_of(config, "one") == ""
    assert mac_of(put(config, "one", VIP, AUTO), "one") == chosen


def test_no_two_virtual_servers_share_one() -> None:
    config = put(site(), "one", VIP, AUTO)
    with pytest.raises(Refused, match="'one' and 'two' both have the virtual MAC"):
        put(config, "two", "10.77.0.101", mac_of(config, "one"))
    assert mac_of(put(config, "two", "10.77.0.101", AUTO), "two") != mac_of(config, "one")


def test_what_gateways_route_back_through_keeps_none() -> None:
    routed = VirtualServer(
        uid=UID,
        name="one",
        vips=(f"{VIP}/24", f"{VIP6}/64"),
        forwarding="routed",
        inner_vips=("10.77.0.101/24", "fd77::101/64"),
        virtual_mac=MAC.hex(":"),
        seed=1,
    )
    assigned = {UID: (VIP, "FD77:0::100", "10.77.0.101", "fd77::101")}
    assert Desired((routed,), assigned).macs == {VIP: MAC.hex(":"), VIP6: MAC.hex(":")}


def test_without_a_virtual_mac_nothing_is_loaded() -> None:
    script = virtual_mac.load(NONE, "eth0")
    assert "add rule" not in script
    assert script.count("delete chain") == 2
    assert virtual_mac.change(NONE, content_of({}, (), OWN), "eth0") == ""


def test_all_that_is_loaded_is_known_by_name() -> None:
    script = virtual_mac.sample("eth0")
    made = {" ".join(line.split()[1:5:1]) for line in script.splitlines() if "add " in line}
    for part in virtual_mac.PARTS:
        kind, name = part.split()
        assert f"{kind} netdev {gate.TABLE} {name}" in made
    assert "mac_" not in gate.table("eth0", "")


def test_the_gate_is_asked_first() -> None:
    priorities = [
        int(text.split("priority ")[1].split(";")[0])
        for text in (gate.table("eth0", "") + virtual_mac.sample("eth0")).splitlines()
        if "priority" in text and '"eth0"' in text
    ]
    assert priorities == [-500, -500, -450, -450]


def test_frames_to_a_former_address_are_taken_and_none_is_sent() -> None:
    old = content_of({VIP: MAC.hex(":")}, (), OWN)
    new = content_of({VIP: OTHER}, [(MAC.hex(":"), VIP)], OWN)
    assert virtual_mac.change(old, new, "eth0").splitlines() == [
        f"delete element netdev halb_lease mac_of {{ {VIP} : {MAC.hex(':')} }}",
        f"add element netdev halb_lease mac_ways {{ {OTHER} . {VIP} }}",
        f"add element netdev halb_lease mac_of {{ {VIP} : {OTHER} }}",
    ]


def test_only_elements_change_where_the_interface_keeps_its_own_address() -> None:
    one = content_of({VIP: MAC.hex(":")}, (), OWN)
    two = content_of({VIP: MAC.hex(":"), VIP6: MAC.hex(":")}, (), OWN)
    assert all(
        line.split()[1] == "element" for line in virtual_mac.change(one, two, "eth0").splitlines()
    )
    assert virtual_mac.change(two, two, "eth0") == ""
    again = content_of({VIP: MAC.hex(":")}, (), bytes(6))
    assert virtual_mac.change(one, again, "eth0") == virtual_mac.load(again, "eth0")
    assert virtual_mac.change(one, NONE, "eth0") == virtual_mac.load(NONE, "eth0")


MESSAGES: dict[int, Callable[[bytes], bytes]] = {
    ADVERT: lambda mac: neighbour.unsolicited_advert(IPv6Address(VIP6), mac),
    SOLICIT: lambda mac: neighbour.solicit_from(IPv6Address(VIP6), mac, IPv6Address("fd77::1")),
}


@given(st.sampled_from(sorted(MESSAGES)), addresses, addresses)
def test_the_checksum_is_right_after_the_rules(kind: int, own: bytes, mac: bytes) -> None:
    frame = MESSAGES[kind](own)
    message = bytearray(frame[54:])
    assert message[26:32] == own
    message[26:32] = mac
    message[0:2] = struct.pack("!H", due(kind << 8, own, mac))
    for named in (kind << 8 | message[1], kind << 8):
        write_by_name(message, named)
    packet = frame[22:54] + struct.pack("!II", len(message), neighbour.ICMPV6) + message
    assert neighbour.checksum(packet) in (0, 0xFFFF)
    right = MESSAGES[kind](mac)[54:]
    assert bytes(message[:2] + message[4:]) == right[:2] + right[4:]


def write_by_name(message: bytearray, value: int) -> None:
    """Type and code as nftables writes them: the checksum follows (RFC 1624)."""
    old, total = struct.unpack_from("!HH", message)
    total = (~total & 0xFFFF) + (~old & 0xFFFF) + value
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!HH", message, 0, value, ~total & 0xFFFF)


LOW, HIGH = bytes.fromhex("020000000001"), bytes.fromhex("0200000000ff")


def told(holding: bool, *heard: Heard) -> bool:
    """Whether a device at OWN is told that its VIP, at MAC, is answered by one that goes first."""
    effect = ProbeArbiter(UID, None, (VIP,), holding, 1)
    asked = _Round(effect, 0, OWN, None, frozenset([ip_address(VIP)]), frozenset([MAC]))
    for each in heard:
        asked.hear(each)
    return asked.vip_answered


def claim(mac: bytes) -> Heard:
    return Heard(ip_address(VIP), mac, has=True)


def question(mac: bytes) -> Heard:
    return Heard(ip_address(VIP), mac, has=False)


def test_a_device_that_looks_for_the_vip_hears_any_owner_and_who_goes_first() -> None:
    assert told(False, claim(MAC))
    assert told(False, claim(HIGH))
    assert told(False, question(LOW))
    assert not told(False, question(HIGH))


def test_of_two_owners_with_one_address_their_questions_tell_who_goes_first() -> None:
    assert told(True, claim(MAC), question(LOW))
    assert told(True, question(LOW), claim(MAC))
    assert not told(True, claim(MAC), question(HIGH))
    assert not told(True, claim(MAC))
    assert not told(True, question(LOW)), "somebody who only looks for it"


def test_of_two_owners_with_addresses_of_their_own_these_tell() -> None:
    assert told(True, claim(LOW))
    assert not told(True, claim(HIGH), question(LOW))
