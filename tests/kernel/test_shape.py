"""Whether others changed one of our tables, told by numbers of what is in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.nft import Nft
from agent.shape import shape
from tests.kernel.namespaces import Inside, one_host

pytestmark = pytest.mark.kernel

TABLE = """
add table inet t
add set inet t some { type ipv4_addr; }
add map inet t ways { type ipv4_addr . inet_service : verdict; }
add map inet t ranges { type ipv4_addr . inet_service : verdict; flags interval; }
add map inet t fixed { type classid : classid; flags constant; elements = { 0:1 : 7e00:0 }; }
add set inet t seen { type ipv4_addr; size 99; flags dynamic; }
add set inet t timed { type ipv4_addr; flags timeout; }
add chain inet t input { type filter hook input priority 0; policy accept; }
add chain inet t one
add chain inet t other
add rule inet t one ip saddr { 10.0.0.1, 10.0.0.2 } counter accept
add rule inet t one meta priority set meta priority map @fixed
add rule inet t input udp dport 9 update @seen { ip saddr counter }
add element inet t some { 10.0.0.1, 10.0.0.2, 10.0.0.3 }
add element inet t ways { 10.0.0.1 . 80 : goto one, 10.0.0.2 . 80 : goto other }
add element inet t ranges { 10.0.0.1 . 80-90 : goto one }
"""
LED_ELSEWHERE = """
delete element inet t ways { 10.0.0.1 . 80 }
add element inet t ways { 10.0.0.1 . 80 : goto other }
"""
LONGER = """
delete element inet t ranges { 10.0.0.1 . 80-90 }
add element inet t ranges { 10.0.0.1 . 80-91 : goto one }
"""
NAMES = {
    "set some", "map ways", "map ranges", "map fixed", "set seen", "set timed",
    "chain input", "chain one", "chain other",
}  # fmt: skip


@pytest.fixture(scope="module")
def network() -> Iterator[Inside]:
    with one_host() as inside:
        yield inside


@pytest.fixture
def host(network: Inside) -> Inside:
    run(network, f"add table inet t\ndelete table inet t\n{TABLE}")
    return network


def run(host: Inside, script: str) -> None:
    host.call(lambda: Nft().run(script))


def look(host: Inside) -> dict[str, str]:
    return host.call(shape, "inet", "t")


def test_each_part_is_told_by_its_kind_and_name(host: Inside) -> None:
    assert look(host).keys() == NAMES
    assert look(host) == look(host)
    assert host.call(shape, "netdev", "t") == host.call(shape, "inet", "other") == {}


@pytest.mark.parametrize(
    ("alteration", "part"),
    [
        ("add rule inet t one drop", "chain one"),
        ("insert rule inet t other drop", "chain other"),
        ("flush chain inet t one", "chain one"),
        ("add chain inet t input { policy drop; }", "chain input"),
        ("add chain inet t another", "chain another"),
        ("add set inet t another { type mark; }", "set another"),
        ("delete set inet t timed", "set timed"),
        ("add element inet t some { 10.0.0.4 }", "set some"),
        ("delete element inet t some { 10.0.0.1 }", "set some"),
        (LED_ELSEWHERE, "map ways"),
        (LONGER, "map ranges"),
    ],
)
def test_what_is_altered_is_found(host: Inside, alteration: str, part: str) -> None:
    before = look(host)
    run(host, alteration)
    after = look(host)
    assert {n for n in before.keys() | after if before.get(n) != after.get(n)} == {part}


def test_a_rule_that_another_takes_the_place_of_is_found(host: Inside) -> None:
    before = look(host)
    listed = host.run("nft", "--handle", "list", "chain", "inet", "t", "one")
    (handle,) = (line.split()[-1] for line in listed.splitlines() if "accept" in line)
    run(host, f"replace rule inet t one handle {handle} ip saddr {{ 10.0.0.1 }} counter accept")
    after = look(host)
    assert {name for name in NAMES if before[name] != after[name]} == {"chain one"}


def test_what_packets_and_time_do_is_no_alteration(host: Inside) -> None:
    before = look(host)
    run(
        host,
        "add element inet t seen { 10.0.0.9 counter packets 4 bytes 9 }\n"
        "add element inet t timed { 10.0.0.9 timeout 9s }\n"
        # Somewhere else in the kernel's list now.
        "delete element inet t some { 10.0.0.1 }\nadd element inet t some { 10.0.0.1 }\n",
    )
    assert look(host) == before


def test_a_table_that_was_made_anew_is_another_one(host: Inside) -> None:
    before = look(host)
    run(host, f"delete table inet t\n{TABLE}")
    after = look(host)
    assert after.keys() == before.keys()
    assert not after.items() & before.items()
