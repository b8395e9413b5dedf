"""Frames of ARP and neighbour discovery, byte for byte and against garbage."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from agent import neighbour
from agent.announce import schedule
from agent.neighbour import Heard
from protocol.timing import MILLISECOND, SECOND

MAC = bytes.fromhex("02000000000a")
VIP = IPv4Address("10.0.0.100")
VIP6 = IPv6Address("fd00::abc:def1")
IPV6_HEADER = 14 + 40


def test_a_gratuitous_arp_is_a_request_for_the_own_address() -> None:
    assert neighbour.gratuitous_arp(VIP, MAC).hex(" ", 2) == (
        "ffff ffff ffff 0200 0000 000a 0806 0001 0800 0604 0001 "
        "0200 0000 000a 0a00 0064 0000 0000 0000 0a00 0064"
    )


def test_a_probe_asks_in_nobodys_name() -> None:
    frame = neighbour.arp_probe(VIP, MAC)
    assert frame[28:32] == bytes(4)
    assert frame[38:42] == VIP.packed
    assert neighbour.heard(frame) == Heard(VIP, MAC, has=False)


def test_a_gratuitous_arp_names_an_owner() -> None:
    assert neighbour.heard(neighbour.gratuitous_arp(VIP, MAC)) == Heard(VIP, MAC, has=True)


def test_an_advertisement_goes_to_all_nodes_and_overrides() -> None:
    frame = neighbour.unsolicited_advert(VIP6, MAC)
    assert frame[:6].hex() == "333300000001"
    assert frame[21] == 255, "hop limit: anything less is ignored"
    assert frame[22:38] == VIP6.packed
    assert frame[IPV6_HEADER + 4] & 0x20, "override"
    assert neighbour.heard(frame) == Heard(VIP6, MAC, has=True)
    assert neighbour.advertised(frame[IPV6_HEADER:]) == Heard(VIP6, MAC, has=True)


def test_a_solicitation_goes_to_the_group_of_the_address() -> None:
    frame = neighbour.solicit(VIP6, MAC)
    assert frame[:6].hex() == "3333ffbcdef1"
    assert frame[38:54] == IPv6Address("ff02::1:ffbc:def1").packed


def test_checksums_are_right() -> None:
    for frame in (neighbour.solicit(VIP6, MAC), neighbour.unsolicited_advert(VIP6, MAC)):
        message = frame[IPV6_HEADER:]
        pseudo = frame[22:54] + len(message).to_bytes(4, "big") + (58).to_bytes(4, "big")
        words = pseudo + message
        total = sum(int.from_bytes(words[at : at + 2], "big") for at in range(0, len(words), 2))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        assert total == 0xFFFF


@given(st.binary(max_size=128))
def test_garbage_names_no_owner_and_harms_nothing(data: bytes) -> None:
    neighbour.heard(data)
    neighbour.advertised(data)
    neighbour.advertised(bytes([136]) + bytes(7) + VIP6.packed + data)


def test_announcements_come_at_once_and_until_five_seconds() -> None:
    at = schedule(7 * SECOND)
    assert [each - 7 * SECOND for each in at[:4]] == [
        0,
        50 * MILLISECOND,
        150 * MILLISECOND,
        SECOND,
    ]
    assert at[-1] == 12 * SECOND
