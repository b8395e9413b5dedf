"""How many connections strangers may open, as nftables text."""

from __future__ import annotations

import re

from agent import door
from agent.distribution import OPENS
from agent.remote import HANDSHAKE_MS
from agent.sockets import BOUNDED, HANDSHAKE_IVL

LISTEN = ("10.77.0.11:7480", "10.88.0.11:9000")
LEAST_FILES = 4096
"""What an old host allows a process."""


def rules(script: str, chain: str) -> list[str]:
    body = script.partition(f"chain {chain} {{\n")[2].partition("\n}\n")[0]
    return [line for line in body.splitlines() if not line.startswith(("type ", "policy "))]


def test_what_opens_a_connection_to_a_port_of_ours_is_looked_at_and_nothing_else() -> None:
    (rule,) = rules(door.replaced(LISTEN, ()), "input")
    found = re.fullmatch(
        rf"{re.escape(OPENS)} ip daddr \. tcp dport {{ (.*) }} goto strangers", rule
    )
    assert found
    assert set(found[1].split(", ")) == {
        *(f"10.77.0.11 . {port}" for port in range(7480, 7484)),
        *(f"10.88.0.11 . {port}" for port in range(9000, 9004)),
    }


def test_an_address_of_each_ip_version_has_a_rule() -> None:
    four, six = rules(door.sample(), "input")
    assert " ip daddr . tcp dport { 192.0.2.1 . 7480, " in four
    assert " ip6 daddr . tcp dport { 2001:db8::1 . 7480, " in six


def test_this_host_and_known_devices_come_before_all_bounds_and_the_one_for_all_is_last() -> None:
    own, four, six, *bounds = rules(door.sample(), "strangers")
    assert (own, four, six) == (
        "iif lo accept", "ip saddr @known accept", "ip6 saddr @known6 accept",
    )  # fmt: skip
    assert [bound.split(" ")[0] for bound in bounds] == ["update", "update", "limit"]
    assert all(bound.endswith("counter drop") for bound in bounds)


def test_devices_are_sorted_into_the_sets_of_their_ip_versions() -> None:
    script = door.replaced(LISTEN, ["fd77::12", "10.77.0.13", "10.77.0.12"])
    assert "set known { type ipv4_addr; elements = { 10.77.0.12, 10.77.0.13 }; }" in script
    assert "set known6 { type ipv6_addr; elements = { fd77::12 }; }" in script


def test_the_same_devices_are_the_same_text_in_whatever_order() -> None:
    some = ["10.77.0.12", "10.77.0.13", "fd77::12"]
    assert door.replaced(LISTEN, some) == door.replaced(LISTEN, reversed(some))


def test_strangers_cannot_hold_more_than_half_of_the_files_that_an_agent_needs_at_least() -> None:
    handshake_s = max(HANDSHAKE_MS, BOUNDED[HANDSHAKE_IVL]) / 1000
    assert door.BURST + door.RATE * handshake_s <= LEAST_FILES / 2


def test_one_stranger_alone_cannot_take_what_all_may_open() -> None:
    assert door.BURST_EACH < door.BURST / 3
    assert door.RATE_EACH < door.RATE / 3
    assert door.BURST_EACH / door.RATE_EACH < door.FORGET_S, "who is forgotten gains nothing"
