"""Sites that grow, shrink and change their voters while things go wrong."""

from __future__ import annotations

from random import Random
from typing import Any, cast

import pytest

from protocol import admission, devices
from protocol.changes import PutVirtualServer, RemoveDevice
from protocol.document import VirtualServerDocument
from protocol.errors import InvalidInput
from protocol.ids import DeviceId
from protocol.listener_document import ListenerDocument
from protocol.messages import Reason
from protocol.node import Node
from protocol.timing import MILLISECOND, SECOND, Profile
from protocol.voter import Voter
from tests.sim import liveness, operators
from tests.sim.run import make_node, quiet_world
from tests.sim.site import Setup, device_id, device_name
from tests.sim.test_ablations import turns_red
from tests.sim.world import World


def growing(seed: int, devices: int) -> World:
    """A Site of one device that the others have joined one after the other."""
    world = World(seed, Setup(devices=devices, founders=1), make_node)
    world.start_all()
    world.run_for(3 * SECOND)
    for index in range(1, devices):
        assert operators.join(world, index - 1, index), world.checker.violations
        world.run_for(2 * SECOND)
    return world


@pytest.mark.parametrize("devices", [2, 3, 5])
def test_a_site_grows_from_one_device(devices: int) -> None:
    for seed in range(3):
        world = growing(seed, devices)
        liveness.check(world, list(range(devices)))
        assert not world.checker.violations, world.checker.violations[0]
        config = world.checker.configs.newest
        assert config.site is not None
        assert len(config.site.voters) == devices
        for assignment in config.assignments.values():
            assert len(assignment.voters) == devices


def voters(world: World, index: int) -> tuple[DeviceId, ...]:
    """Who votes on the coordinator by what a device has stored."""
    process = world.running(index)
    assert process is not None
    site = cast(Node, process.core).configuration.newest.site
    return site.voters if site else ()


def joined_and_gone(seed: int) -> World:
    """The second device of a Site loses power before it knows that it votes, and comes back."""
    world = quiet_world(seed, Setup(devices=2, founders=1))
    assert operators.join(world, 0, 1)
    while len(voters(world, 0)) == 1:
        world.run_for(MILLISECOND // 10)
    site = world.machines[1].disk.config.site
    assert site is not None
    assert site.voters == (device_id(0),)
    world.crash(1)
    world.run_for(3 * SECOND)
    world.start(1)
    world.run_for(6 * SECOND)
    return world


def test_a_second_device_that_loses_power_as_it_becomes_a_voter_votes_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seed in range(3):
        world = joined_and_gone(seed)
        assert not world.checker.violations
        assert world.view(0).coordinator is not None
        assert world.machines[1].disk.config == world.machines[0].disk.config
    unable = Voter._unable

    def by_its_own_list(self: Voter, *known: Any) -> Reason:
        return unable(self, *known) if self.votes else Reason.NOT_VOTER

    monkeypatch.setattr(Voter, "_unable", by_its_own_list)
    assert joined_and_gone(0).view(0).coordinator is None


def test_a_grown_site_survives_the_loss_of_its_founder() -> None:
    for seed in range(5):
        world = growing(seed, 3)
        world.crash(0)
        world.frozen = frozenset({0})
        liveness.check(world, [1, 2])
        assert not world.checker.violations, world.checker.violations[0]


def test_joining_goes_on_while_devices_are_killed() -> None:
    for seed in range(10):
        random = Random(seed)
        world = World(seed, Setup(devices=4, founders=1), make_node)
        world.start_all()
        world.run_for(3 * SECOND)
        joined = [0]
        for index in (1, 2, 3):
            for _ in range(3):
                victim = random.choice(joined)
                delay = random.randrange(1, 400) * MILLISECOND
                world.push(world.now + delay, _kill_and_restart, world, victim)
            if operators.join(world, random.choice(joined), index):
                joined.append(index)
            world.run_for(2 * SECOND)
        world.run_for(5 * SECOND)
        assert not world.checker.violations, f"seed {seed}: {world.checker.violations[0]}"
        liveness.check(world, joined)
        assert not world.checker.violations, f"seed {seed}: {world.checker.violations[0]}"


def _kill_and_restart(world: World, victim: int) -> None:
    world.kill(victim)
    world.start_after(victim, 20 * MILLISECOND)


@pytest.mark.parametrize("removed", [0, 1, 2])
def test_a_removed_device_lets_go_and_the_others_go_on(removed: int) -> None:
    for seed in range(3):
        world = growing(seed, 4)
        request = operators.propose(world, 3, RemoveDevice(device_name(removed)))
        assert request is not None
        operators.wait_for(world, request)
        outcome = world.checker.configs.requests[request].outcome
        assert outcome is not None
        assert not isinstance(outcome.error, InvalidInput), "its own deed is held against it"
        world.run_for(5 * SECOND)
        assert not world.checker.violations, world.checker.violations[0]
        assert removed not in world.announcers(world.first_vip)
        rest = [i for i in range(4) if i != removed]
        liveness.check(world, rest)
        assert not world.checker.violations, world.checker.violations[0]
        config = world.checker.configs.newest
        assert config.site is not None
        assert device_id(removed) not in config.site.voters
        assert len(config.site.voters) == 3


def remove(world: World, index: int) -> bool:
    """``halbctl device remove``, typed at the first device; whether it was carried out."""
    request = operators.propose(world, 0, RemoveDevice(device_name(index)))
    assert request is not None
    return operators.wait_for(world, request)


def test_devices_that_leave_together_are_waited_for_by_the_voters() -> None:
    """Removed as soon as that is not refused, each is taken out of the lists before the next."""
    for seed in range(4):
        world = quiet_world(seed, Setup(devices=5))
        operators.promote(world, 4, 0, 0)
        world.run_for(SECOND)
        refused = 0
        for index in (1, 2, 3):
            while not remove(world, index):
                refused += 1
                world.run_for(100 * MILLISECOND)
            world.kill(index)
        assert refused
        world.run_for(2 * SECOND)
        liveness.check(world, [0, 4])
        assert not world.checker.violations, f"seed {seed}: {world.checker.violations[0]}"
        assert world.announcers(world.first_vip) == [0]
        assert set(world.checker.configs.newest.devices) == {device_id(0), device_id(4)}


def test_without_its_rule_devices_that_leave_together_take_a_service_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "refuse_lost_majority", lambda config, device: None)
    world = quiet_world(1, Setup(devices=5, carriers=3))
    world.checker.ignored = frozenset({"S18"})
    assert remove(world, 1)
    assert remove(world, 2)
    world.kill(1)
    world.kill(2)
    world.run_for(60 * SECOND)
    assert not world.announcers(world.first_vip)


def test_voters_that_left_are_taken_out_before_any_other() -> None:
    """Of a, b, c, d, e the Site loses c and d; e is taken out of the list by an edit."""
    for seed in range(3):
        world = quiet_world(seed, Setup(devices=5))
        server = VirtualServerDocument(
            name="vs0",
            vips=(f"{world.first_vip}/24",),
            devices=("a", "c", "d"),
            listeners=(ListenerDocument(port=443),),
        )
        for change in (PutVirtualServer(server), RemoveDevice("c"), RemoveDevice("d")):
            assert operators.propose(world, 0, change) is not None
        world.run_for(5 * SECOND)
        liveness.check(world, [0, 1, 4])
        assert not world.checker.violations, f"seed {seed}: {world.checker.violations[0]}"
        assert world.announcers(world.first_vip) == [0]


def test_a_device_that_would_be_missed_is_found_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (admission, devices):
        monkeypatch.setattr(module, "refuse_lost_majority", lambda config, device: None)
    assert turns_red("S18", devices=5)


def test_a_change_of_profile_leaves_one_owner() -> None:
    for seed in range(5):
        world = growing(seed, 3)
        for profile in (Profile.FAST, Profile.CALM, Profile.NORMAL):
            document = VirtualServerDocument(
                name="vs0",
                vips=(f"{world.first_vip}/24",),
                profile=profile,
                listeners=(ListenerDocument(port=443),),
            )
            request = operators.propose(world, seed % 3, PutVirtualServer(document))
            assert request is not None
            assert operators.wait_for(world, request)
            world.run_for(seed * 200 * MILLISECOND)
        world.run_for(5 * SECOND)
        liveness.check(world, [0, 1, 2])
        assert not world.checker.violations, world.checker.violations[0]
