"""What a successor sends on to the device that handed over, as text."""

from __future__ import annotations

from agent import relay
from protocol.timing import DRAIN_NS

VIPS = ("10.77.0.100", "fd77::100")


def test_each_family_is_sent_on_to_the_first_address_of_its_own() -> None:
    script = relay.begin(VIPS, ("10.77.0.11", "10.78.0.11", "fd77::11"), DRAIN_NS)
    assert "add element ip halb_relay former { 10.77.0.100 timeout 2000ms : 10.77.0.11 }" in script
    assert "add element ip6 halb_relay former { fd77::100 timeout 2000ms : fd77::11 }" in script
    assert "10.78.0.11" not in script


def test_a_family_without_an_address_is_left_alone() -> None:
    script = relay.begin(VIPS, ("10.77.0.11",), DRAIN_NS)
    assert "ip6" not in script
    assert relay.begin(VIPS, (), DRAIN_NS) == ""


def test_nothing_that_opens_a_connection_is_sent_on() -> None:
    lines = relay.begin(VIPS[:1], VIPS, 1).splitlines()
    going_on, invalid, datagram = (line for line in lines if " rule " in line)
    assert going_on.endswith("tcp flags & syn == 0 dup to ip daddr map @former drop")
    assert "ct state invalid meta l4proto tcp" in invalid
    assert "ct direction original ct status & dnat == 0 meta l4proto udp" in datagram


def test_ending_is_a_script_per_vip_as_one_that_is_absent_refuses_all() -> None:
    assert relay.end(VIPS) == (
        "delete element ip halb_relay former { 10.77.0.100 }\n",
        "delete element ip6 halb_relay former { fd77::100 }\n",
    )
