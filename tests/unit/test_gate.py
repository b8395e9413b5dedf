"""The lease as text: which commands open, renew and close it."""

from __future__ import annotations

import pytest

from agent import gate
from protocol.errors import InvalidInput
from protocol.timing import MILLISECOND, Profile, Timing

VIPS = ("10.0.0.100", "fd00::100")


def test_opening_never_fails_and_never_keeps_an_old_timeout() -> None:
    assert gate.acquire(["10.0.0.100"], 250 * MILLISECOND).splitlines() == [
        "add element netdev halb_lease announced { 10.0.0.100 }",
        "delete element netdev halb_lease announced { 10.0.0.100 }",
        "add element netdev halb_lease announced { 10.0.0.100 timeout 250ms }",
        "add element netdev halb_lease accepted { 10.0.0.100 }",
        "add element inet halb_lease accepted { 10.0.0.100 }",
        "delete element netdev halb_lease accepted { 10.0.0.100 }",
        "delete element inet halb_lease accepted { 10.0.0.100 }",
        "add element netdev halb_lease accepted { 10.0.0.100 timeout 250ms }",
        "add element inet halb_lease accepted { 10.0.0.100 timeout 250ms }",
    ]


def test_turning_lame_is_refused_once_the_lease_ran_out() -> None:
    """A deletion without an addition before it fails where nothing is left."""
    assert gate.lame(["10.0.0.100"], 2000 * MILLISECOND).splitlines()[-4:] == [
        "delete element netdev halb_lease accepted { 10.0.0.100 }",
        "delete element inet halb_lease accepted { 10.0.0.100 }",
        "add element netdev halb_lease accepted { 10.0.0.100 timeout 2000ms }",
        "add element inet halb_lease accepted { 10.0.0.100 timeout 2000ms }",
    ]


def test_both_families_go_in_one_transaction() -> None:
    script = gate.acquire(VIPS, MILLISECOND)
    assert "announced { 10.0.0.100 timeout 1ms }" in script
    assert "announced6 { fd00::100 timeout 1ms }" in script


@pytest.mark.parametrize("profile", list(Profile))
def test_each_profile_has_a_port_that_renews_for_its_lease(profile: Profile) -> None:
    lease = Timing.of(profile).lease // MILLISECOND
    port = gate.REFRESH_PORT[profile]
    lines = [line for line in gate.table("eth0", "").splitlines() if f"dport {port} " in line]
    both_versions = 2
    for family, sets in (("netdev", 2), ("inet", 1)):
        of_family = [line for line in lines if f" {family} " in line]
        assert len(of_family) == both_versions
        for line in of_family:
            assert f"meta mark {gate.MARK:#x} " in line
            assert line.count(f"timeout {lease}ms") == line.count("update @") == sets


def test_no_set_can_hold_an_element_for_ever() -> None:
    lines = gate.table("eth0", "").splitlines()
    timed = [line for line in lines if "flags dynamic,timeout" in line]
    assert len(timed) == 6
    assert all("; timeout 100ms; }" in line for line in timed)


def test_no_profile_has_the_default_timeout() -> None:
    """The kernel does not list a timeout that is the default: it could not be read back."""
    assert all(Timing.of(profile).lease > 100 * MILLISECOND for profile in Profile)


@pytest.mark.parametrize("name", ['eth0"; drop', "", "lo", "..", "a b", "x" * 16, "a/b", "a\n"])
def test_names_that_are_no_interface_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="interface"):
        gate.check_interface(name)


@pytest.mark.parametrize("name", ["eth0", "bond0.100", "br-lan", "wan@if3", "enp0s31f6"])
def test_names_of_interfaces_are_taken(name: str) -> None:
    assert gate.check_interface(name) == name
