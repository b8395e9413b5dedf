"""The judgement of the lab: frames of the owner instrument, plans, promises."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace
from typing import Any

import pytest

from halbctl.lab.measure import Measured
from halbctl.lab.owners import (
    SOURCE4,
    SOURCE6,
    Tally,
    arp_request,
    read_advertisement,
    read_arp_reply,
    solicitation,
)
from halbctl.lab.plan import Plan
from halbctl.lab.promises import all_broken, broken, result_table
from halbctl.output import Paint
from protocol.errors import InvalidInput

US, THEM = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
VIP, VIP6 = ipaddress.IPv4Address("10.77.0.100"), ipaddress.IPv6Address("fd77::100")
GOOD = Measured(
    event="crash",
    wanted=200,
    connections=200,
    doomed=0,
    survivors=200,
    lost={},
    stall_ms=420.0,
    outage_ms=290.0,
    failed=50,
    two_owners_ms=0.0,
    samples=300,
    late_ms=5.0,
    before="a",
    after="b",
    owners=(),
)


def test_an_arp_reply_names_the_sample_that_it_answers() -> None:
    request = arp_request(US, SOURCE4 + 7, VIP)
    assert len(request) == 42
    reply = bytearray(request)
    reply[20:22] = b"\0\2"
    reply[22:32], reply[32:42] = THEM + VIP.packed, US + request[28:32]
    assert read_arp_reply(bytes(reply)) == (VIP, 7, THEM)
    assert read_arp_reply(request) is None
    assert read_arp_reply(b"") is None


def test_an_advertisement_names_the_sample_that_it_answers() -> None:
    frame = bytearray(solicitation(US, SOURCE6 + 9, VIP6))
    assert read_advertisement(bytes(frame)) is None
    frame[0:12] = US + THEM
    frame[38:54], frame[54] = (SOURCE6 + 9).to_bytes(16, "big"), 136
    assert read_advertisement(bytes(frame)) == (VIP6, 9, THEM)


def test_two_addresses_must_answer_the_same_sample_to_be_two_owners() -> None:
    tally = Tally(VIP)
    tally.waiting[0] = {US}
    tally.waiting[1] = {THEM}
    tally.waiting[2] = {US, THEM}
    tally.waiting[3] = set()
    for slot in range(5):
        tally.close_slot(slot, 0.0)
    assert (tally.samples, tally.two, tally.silent) == (4, 1, 1)
    assert [len(names) for _, names in tally.changes] == [1, 1, 2]


def test_kept_promises_are_not_reported() -> None:
    assert broken(GOOD) == []
    assert broken(replace(GOOD, event="promote", stall_ms=20.0)) == []
    assert broken(replace(GOOD, event="return", after="a")) == []
    assert broken(replace(GOOD, event="gateway", after="a", doomed=50, survivors=150)) == []


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (replace(GOOD, survivors=199), "live on"),
        (replace(GOOD, connections=199, survivors=199), "live on"),
        (replace(GOOD, two_owners_ms=10.0), "two owners"),
        (replace(GOOD, outage_ms=340.0), "without service"),
        (replace(GOOD, after="a"), "relieved"),
        (replace(GOOD, event="promote", stall_ms=30.0), "stall"),
        (replace(GOOD, event="return"), "stays primary"),
        (replace(GOOD, event="gateway", after="a", doomed=50, survivors=149), "live on"),
    ],
)
def test_a_broken_promise_is_named(bad: Measured, word: str) -> None:
    (only,) = all_broken([GOOD, bad])
    assert word in str(only)
    assert any("BROKEN" in line for line in result_table([GOOD, bad], Paint(on=False)))


def test_a_plan_has_room_for_every_host_and_no_address_twice() -> None:
    hosts = Plan("x", devices=10, gateways=20, witness=True).hosts
    assert len({host.number for host in hosts}) == len(hosts)
    assert len({host.mac for host in hosts}) == len(hosts)


def test_a_plan_writes_the_document_of_its_site() -> None:
    (vs,) = json.loads(Plan("x", 3, 2, ipv6=True).document(weights=(3,)))["virtual_servers"]
    assert vs["vips"] == ["10.77.0.100/24", "fd77::100/64"]
    assert [g["weight"] for g in vs["gateways"]] == [3, 3, 1, 1]


@pytest.mark.parametrize("sizes", [{"devices": 0}, {"devices": 11}, {"gateways": 0}])
def test_a_plan_that_cannot_be_is_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="out of range"):
        Plan("x", **sizes)


def test_a_name_that_no_device_has_is_refused_with_those_that_exist() -> None:
    with pytest.raises(InvalidInput, match="no host 'z'"):
        Plan("x").device("z")
    with pytest.raises(InvalidInput, match="not a device"):
        Plan("x").device("gw1")
