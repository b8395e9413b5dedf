"""When a device says that it cannot carry a Virtual Server."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.addresses import Link
from agent.fitness import ENOUGH, Host, Lateness, judged, unfit
from protocol.config import Config
from protocol.ids import DeviceId, GroupId, Revision
from protocol.objects import Device, Forwarding, Record, Value, VirtualServer, key_of
from protocol.timing import MILLISECOND, Profile

A, B = DeviceId("a" * 16), DeviceId("b" * 16)
RDP, WEB = GroupId("0000000000000001"), GroupId("0000000000000002")
LINK = Link(index=2, mac=bytes(6), up=True, carrier=True)
HOST = Host(
    interface="eth0",
    link=LINK,
    networks=(ip_interface("10.77.0.11/24"),),
    loaded=frozenset({RDP, WEB}),
)


def config(forwarding: Forwarding = "snat") -> Config:
    """``rdp`` on both devices, ``web`` on b alone."""
    values: tuple[Value, ...] = (
        *(
            Device(id=i, name=n, public_key="k" * 40, addresses=("10.77.0.1:7480",), joined=1)
            for i, n in ((A, "a"), (B, "b"))
        ),
        VirtualServer(uid=RDP, name="rdp", vips=("10.77.0.100/24",), seed=1, forwarding=forwarding),
        VirtualServer(uid=WEB, name="web", vips=("10.77.0.101/24",), seed=1, devices=(B,)),
    )
    revision = Revision(1, 1)
    return Config(revision, {key_of(v): Record(*key_of(v), revision, v) for v in values})


def test_a_sound_host_carries_everything() -> None:
    assert unfit(config(), B, HOST) == ()


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (replace(HOST, link=None), "interface eth0 does not exist"),
        (replace(HOST, link=replace(LINK, up=False)), "interface eth0 is down"),
        (replace(HOST, link=replace(LINK, carrier=False)), "interface eth0 has no carrier"),
        (
            replace(HOST, link=replace(LINK, filters=True)),
            "interface eth0 is a bridge with br_netfilter: see `halbctl doctor`",
        ),
        (replace(HOST, trouble=("the disk refuses writes",)), "the disk refuses writes"),
        (
            replace(HOST, networks=()),
            "VIP 10.77.0.100 lies outside the networks of interface eth0",
        ),
        (replace(HOST, refused={RDP: "the kernel takes no map"}), "the kernel takes no map"),
        (replace(HOST, loaded=frozenset()), "its rules are not in the kernel yet"),
    ],
)
def test_says_what_is_wrong(host: Host, reason: str) -> None:
    assert unfit(config(), A, host) == ((RDP, reason),)


def test_speaks_of_each_virtual_server_that_it_should_carry_and_no_other() -> None:
    broken = replace(HOST, link=None)
    assert [uid for uid, _ in unfit(config(), A, broken)] == [RDP]
    assert [uid for uid, _ in unfit(config(), B, broken)] == [RDP, WEB]


def test_what_is_wrong_with_one_virtual_server_leaves_the_others_fit() -> None:
    assert unfit(config(), B, replace(HOST, loaded=frozenset({RDP}))) == (
        (WEB, "its rules are not in the kernel yet"),
    )


WAYLESS = "has no IPv4 default route any more: distant clients get no answers"


def test_says_of_which_virtual_servers_the_answers_find_no_way_back() -> None:
    """Near clients are served all the same, so that is no unfitness."""
    found = judged(config(), B, replace(HOST, lost=frozenset({4, 6})), {})
    assert found.unfit == ()
    assert found.outdated == ((RDP, WAYLESS), (WEB, WAYLESS))


def test_a_way_that_no_vip_needs_is_not_missed() -> None:
    found = judged(config(), B, replace(HOST, lost=frozenset({6})), {})
    assert found.outdated == ()


def test_gateways_that_answer_themselves_need_no_way_back_through_the_device() -> None:
    direct = config("dsr")
    assert judged(direct, A, replace(HOST, lost=frozenset({4})), {}).outdated == ()


def test_a_change_that_the_kernel_refused_is_told_first() -> None:
    found = judged(config(), A, replace(HOST, lost=frozenset({4})), {RDP: "nftables refused"})
    assert found.outdated == ((RDP, "nftables refused"),)


class TestLateness:
    def test_is_nothing_before_a_hundred_wake_ups(self) -> None:
        lateness = Lateness()
        for _ in range(ENOUGH - 1):
            lateness.note(due=0, now=1000)
        assert lateness.p99() == 0
        lateness.note(due=0, now=1000)
        assert lateness.p99() == 1000

    def test_one_late_wake_up_of_a_hundred_does_not_count(self) -> None:
        lateness = Lateness()
        for late in [1] * 99 + [1000]:
            lateness.note(due=0, now=late)
        assert lateness.p99() == 1

    def test_forgets_what_is_older_than_its_window(self) -> None:
        lateness = Lateness(window=10)
        for late in [1000] * 10 + [1] * 10:
            lateness.note(due=0, now=late)
        assert lateness.p99() == 1

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.integers(0, 10**9), min_size=ENOUGH, max_size=300))
    def test_99_of_100_wake_ups_are_at_most_that_late(self, samples: list[int]) -> None:
        lateness = Lateness()
        for late in samples:
            lateness.note(due=0, now=late)
        bound = lateness.p99()
        assert bound in samples
        assert sum(late <= bound for late in samples) * 100 >= 99 * len(samples)
        assert sum(late < bound for late in samples) * 100 < 99 * len(samples)

    def test_warns_only_of_profiles_that_it_hurts(self) -> None:
        lateness = Lateness()
        for _ in range(ENOUGH):
            lateness.note(due=0, now=15 * MILLISECOND)
        assert lateness.warning([Profile.NORMAL]) == ""
        assert "15 ms late (p99): too late for profile fast" in lateness.warning(Profile)
