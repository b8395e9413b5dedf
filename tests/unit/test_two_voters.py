"""Two voters must come with a word on what one does alone; and what of it reaches people."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from agent import neighbour
from agent.history import FRESH_MS, two_owners_lately
from protocol.api import HistoryEntry
from protocol.changes import AddGateway, ApplyDocument, PutVirtualServer
from protocol.config import Edit
from protocol.document import parse_site, parse_virtual_server
from protocol.errors import InvalidInput
from protocol.gateway_document import GatewayDocument
from tests.unit import paris
from tests.unit.paris import after, edit, site

VIP, VIP6, MAC = IPv4Address("10.77.0.100"), IPv6Address("fd77::100"), b"\x02\0\0\0\0\x01"
ALONE = {"name": "web", "vips": ["10.77.0.101/24"]}


def put(**changes: object) -> PutVirtualServer:
    return PutVirtualServer(parse_virtual_server({**ALONE, **changes}))


@pytest.mark.parametrize(
    "voters",
    [{"devices": ["a", "b"]}, {"devices": ["a"], "witnesses": ["w"]}],
    ids=["two devices", "one and a witness"],
)
def test_two_voters_without_a_word_are_refused_and_told_what_to_choose(
    voters: dict[str, object],
) -> None:
    with pytest.raises(InvalidInput) as refused:
        edit(site(), put(**voters))
    for choice in ("witness", "arbiter", "on_peer_loss"):
        assert choice in str(refused.value) + refused.value.remedy


@pytest.mark.parametrize(
    "word",
    [
        {"devices": ["a", "b"], "arbiter": "10.77.0.1"},
        {"devices": ["a", "b"], "on_peer_loss": "hold"},
        {"devices": ["a", "b"], "witnesses": ["w"]},
        {"devices": ["a"]},
        {"devices": []},
    ],
    ids=["arbiter", "hold", "witness", "one device", "three devices"],
)
def test_other_voters_and_two_with_a_word_are_taken(word: dict[str, object]) -> None:
    assert edit(site(), put(**word)).put


def test_a_site_may_grow_through_two_devices_and_edit_what_it_has() -> None:
    from protocol.admission import found_site

    config = found_site("paris", "5" * 16, paris.device("a", 1))
    config = after(config, put())
    config = config.edited(Edit(put=(paris.device("b", 2),)), 1)
    gateway = GatewayDocument(name="gw1", address="10.77.0.31")
    assert edit(config, AddGateway("web", gateway)).put
    with pytest.raises(InvalidInput):
        edit(config, PutVirtualServer(parse_virtual_server({**ALONE, "name": "other"})))
    document = parse_site({"virtual_servers": [{**ALONE, "on_peer_loss": "serve"}]})
    assert edit(config, ApplyDocument(document)).put


def test_who_says_what_of_an_address_is_read_from_frames() -> None:
    has = neighbour.heard(neighbour.gratuitous_arp(VIP, MAC))
    asks = neighbour.heard(neighbour.arp_probe(VIP, MAC))
    assert has == neighbour.Heard(VIP, MAC, has=True)
    assert asks == neighbour.Heard(VIP, MAC, has=False)
    has6 = neighbour.heard(neighbour.unsolicited_advert(VIP6, MAC))
    asks6 = neighbour.heard(neighbour.solicit(VIP6, MAC))
    assert has6 == neighbour.Heard(VIP6, MAC, has=True)
    assert asks6 == neighbour.Heard(VIP6, MAC, has=False)
    assert neighbour.heard(b"\0" * 60) is None
    assert neighbour.heard(b"") is None


def test_two_owners_are_a_warning_for_an_hour() -> None:
    entry = HistoryEntry(
        at=0, kind="two-owners", virtual_server="rdp", uid=None, device="a", reporter="a",
        term=3, text="two devices held the VIPs, for up to 12 ms: this one lets go",
    )  # fmt: skip
    assert list(two_owners_lately([entry], 5_000)) == [
        "rdp: 5 s ago two devices held the VIPs, for up to 12 ms: this one lets go (a)"
    ]
    assert not list(two_owners_lately([entry], FRESH_MS))
