"""Who tells whom of whose flows, as groups come, move and are deleted."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from agent.tellers import DRAIN_S, Tellers
from protocol.config import Config, Edit
from protocol.effects import Event
from protocol.ids import DeviceId, GroupId
from protocol.objects import Assignment, VirtualServer
from protocol.timing import Profile
from tests.unit.cluster import device, first_config

ME, PEER = device(1), device(2)
DAYS = 50


def group(day: int) -> GroupId:
    return GroupId(f"{day:016x}")


def config(*days: int) -> Config:
    """One Virtual Server of each of these days, on both devices."""
    servers = [
        VirtualServer(uid=group(day), name=f"day{day}", vips=(f"10.77.0.{day}/24",), seed=1)
        for day in days
    ]
    assigned = [
        Assignment(
            uid=each.uid,
            number=1,
            voters=(ME.id, PEER.id),
            vips=(each.vips[0].split("/")[0],),
            profile=Profile.NORMAL,
            slowest=Profile.NORMAL,
        )
        for each in servers
    ]
    return first_config([ME, PEER], *servers).edited(Edit(put=tuple(assigned)), 2)


def office(kind: str, day: int, leader: DeviceId | None) -> Event:
    return Event(kind, group(day), "", 1, leader)


def test_nothing_is_remembered_of_virtual_servers_that_were_deleted() -> None:
    tellers: Any = Tellers(ME.id)
    for day in range(1, DAYS):
        now = 100.0 * day
        tellers.on_config(config(day, 100 + day), now)
        tellers.on_event(office("leader", 100 + day, PEER.id), now)
        tellers.on_event(office("primary", day, ME.id), now)
        tellers.on_event(office("leader", day, PEER.id), now + 1)
        tellers.on_event(office("primary", day, ME.id), now + 2)
        tellers.on_config(config(), now + 2)
        tellers.on_event(office("released", day, ME.id), now + 3)
    tellers.on_config(config(), 0.0)
    assert not tellers._leaders
    assert not tellers._former


def test_what_this_device_told_of_last_is_told_until_the_drain_is_over() -> None:
    tellers = Tellers(ME.id)
    tellers.on_config(config(1, 2), 0.0)
    tellers.on_event(office("primary", 1, ME.id), 0.0)
    tellers.on_event(office("leader", 1, PEER.id), 10.0)
    tellers.on_event(office("leader", 2, PEER.id), 11.0)
    assert tellers.told(10.0 + DRAIN_S / 2) == {group(1)}
    assert tellers.draining([group(1)], 10.0 + DRAIN_S / 2)
    assert not tellers.told(10.0 + DRAIN_S)
    assert not tellers.draining([group(1)], 10.0 + DRAIN_S)


def test_a_primary_that_is_named_no_more_tells_of_its_flows_until_it_has_handed_over() -> None:
    tellers, other = Tellers(ME.id), config(1)
    tellers.on_config(other, 0.0)
    tellers.on_event(office("primary", 1, ME.id), 0.0)
    elsewhere = replace(other.virtual_servers[group(1)], devices=(PEER.id,))
    other = other.edited(Edit(put=(elsewhere,)), 3)
    tellers.on_config(other, 1.0)
    assert tellers.mine(9.0)
    assert tellers.told_to(PEER.id, [group(1)], 9.0) == (group(1),)
    assert not tellers.carried

    tellers.on_event(office("leader", 1, PEER.id), 10.0)
    assert tellers.kept(10.0 + DRAIN_S / 2) == {group(1)}
    assert not tellers.wanted()
    assert not tellers.kept(10.0 + DRAIN_S)
    tellers.on_config(other, 10.0 + DRAIN_S)
    assert not tellers.vips_of([group(1)])


def test_who_is_no_voter_any_more_has_handed_over_what_it_led_whether_it_hears_of_that_or_not() -> (
    None
):
    tellers, full = Tellers(ME.id), config(1)
    tellers.on_config(full, 0.0)
    tellers.on_event(office("primary", 1, ME.id), 0.0)
    elsewhere = replace(full.virtual_servers[group(1)], devices=(PEER.id,))
    assigned = replace(full.assignments[group(1)], voters=(PEER.id,))
    tellers.on_config(full.edited(Edit(put=(elsewhere, assigned)), 3), 10.0)
    assert tellers.kept(10.0 + DRAIN_S / 2) == {group(1)}
    assert not tellers.kept(10.0 + DRAIN_S)


def test_a_primary_is_asked_again_once_this_device_carries_its_group_again() -> None:
    tellers = Tellers(ME.id)
    tellers.on_config(config(1), 0.0)
    tellers.on_event(office("leader", 1, PEER.id), 0.0)
    full = config(1)
    elsewhere = replace(full.virtual_servers[group(1)], devices=(PEER.id,))
    tellers.on_config(full.edited(Edit(put=(elsewhere,)), 3), 0.0)
    assert not tellers.wanted()
    tellers.on_config(full, 0.0)
    assert tellers.wanted() == {PEER.id: {group(1)}}


def test_who_leads_a_virtual_server_is_known_also_if_that_is_heard_before_the_configuration() -> (
    None
):
    tellers = Tellers(ME.id)
    tellers.on_event(office("leader", 1, PEER.id), 0.0)
    tellers.on_config(config(2), 0.0)
    tellers.on_config(config(1, 2), 0.0)
    assert tellers.wanted() == {PEER.id: {group(1)}}
