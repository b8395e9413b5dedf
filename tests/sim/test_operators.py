"""Moves that operators plan, prefer, forbid or hold back; each rule also taken away on purpose."""

from __future__ import annotations

import pytest

from protocol import local, moves
from protocol.candidacy import Candidacy
from protocol.changes import FreezeVirtualServer, PutVirtualServer, SetGateway
from protocol.contact import Contact
from protocol.damping import Damping
from protocol.document import VirtualServerDocument
from protocol.listener_document import ListenerDocument
from protocol.preference import Preference
from protocol.timing import MILLISECOND, SECOND
from tests.sim import operators
from tests.sim.checkers import RULES
from tests.sim.run import make_node, quiet_world
from tests.sim.site import Setup, device_name
from tests.sim.world import World

ALL_RULES = frozenset(RULES)
SEEDS = range(3)


def holder(world: World) -> int:
    (found,) = world.announcers(world.first_vip)
    return found


def returned(seed: int, preempt: int) -> tuple[World, int]:
    """The preferred device was away and is back; who serves meanwhile."""
    world = quiet_world(seed, Setup(preempt=preempt))
    operators.promote(world, 1, 0, 0)
    world.run_for(SECOND)
    world.crash(0)
    world.run_for(SECOND)
    before = holder(world)
    world.start(0)
    return world, before


def seconds_until_it_serves_again(world: World) -> float | None:
    began = world.now
    while world.now - began < 12 * SECOND:
        world.run_for(50 * MILLISECOND)
        if world.announcers(world.first_vip) == [0]:
            return (world.now - began) / SECOND
    return None


@pytest.mark.parametrize("seed", SEEDS)
def test_a_preferred_device_is_handed_the_service_after_its_hold_time(seed: int) -> None:
    world, _ = returned(seed, preempt=5)
    took = seconds_until_it_serves_again(world)
    assert took is not None
    assert 5 <= took <= 8
    assert all(gap <= 20 * MILLISECOND for _, _, gap, _ in world.checker.leases.gaps[-1:])
    assert not world.checker.violations


def test_without_preempt_it_stays_where_it_is() -> None:
    world, before = returned(1, preempt=0)
    assert seconds_until_it_serves_again(world) is None
    assert holder(world) == before


def test_without_the_hold_time_it_comes_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    better = Preference._better

    def at_once(self, *args):  # type: ignore[no-untyped-def]
        for device, kind, _ in better(self, *args):
            yield device, kind, 0

    monkeypatch.setattr(Preference, "_better", at_once)
    took = seconds_until_it_serves_again(returned(1, preempt=5)[0])
    assert took is not None
    assert took < 5


def moves_while_two_reasons_disagree(seed: int) -> int:
    """An operator keeps promoting one device while ``preempt`` prefers another."""
    world = quiet_world(seed, Setup(preempt=1))
    before = world.checker.seen["hand-over"]
    for _ in range(12):
        operators.promote(world, 2, 0, 1)
        world.run_for(3 * SECOND)
    assert not world.checker.violations
    return (world.checker.seen["hand-over"] - before) // 2


def test_damping_ends_a_service_that_goes_to_and_fro(monkeypatch: pytest.MonkeyPatch) -> None:
    assert moves_while_two_reasons_disagree(1) <= 5
    monkeypatch.setattr(Damping, "left", lambda self, now: 0)
    assert moves_while_two_reasons_disagree(1) > 15


def frozen_and_crashed(seed: int) -> World:
    world = quiet_world(seed, Setup())
    world.checker.ignored = ALL_RULES - {"S8"}
    request = operators.propose(world, 1, FreezeVirtualServer("vs0", True))
    world.run_for(SECOND)
    assert request is not None
    assert operators.succeeded(world, request)
    world.crash(holder(world))
    world.run_for(2 * SECOND)
    return world


def test_without_its_rule_a_frozen_service_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not frozen_and_crashed(1).checker.violations
    monkeypatch.setattr(Candidacy, "_barred", lambda _: False)
    assert [v.rule for v in frozen_and_crashed(1).checker.violations] == ["S8"]


def gap_of_preemption_towards_the_deaf(seed: int) -> int:
    """The preferred device is heard and hears nobody; nanoseconds without an announcer."""
    world, before = returned(seed, preempt=3)
    world.run_for(400 * MILLISECOND)
    for index in (1, 2):
        world.network.cut(index, 0)
    world.run_for(10 * SECOND)
    assert world.announcers(world.first_vip) in ([], [before])
    return max((gap for _, at, gap, new in world.checker.leases.gaps if not new), default=0)


def test_nothing_is_handed_to_a_device_that_answers_no_beat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert gap_of_preemption_towards_the_deaf(1) == 0
    why_not = moves.why_not

    def credulous(group, to, contacts, now):  # type: ignore[no-untyped-def]
        contact: Contact | None = contacts.get(to)
        if contact is not None:
            contact.acked_sent = max(contact.acked_sent, now - MILLISECOND)
        return why_not(group, to, contacts, now)

    monkeypatch.setattr("protocol.preference.why_not", credulous)
    assert gap_of_preemption_towards_the_deaf(1) > 100 * MILLISECOND


def edited_alone(world: World) -> None:
    """A device that hears nobody is told to serve another VIP."""
    world.network.partition(world.now, [0])
    world.run_for(3 * SECOND)
    document = VirtualServerDocument(
        name="vs0",
        vips=("10.77.0.250/24",),
        devices=tuple(device_name(i) for i in range(3)),
        listeners=(ListenerDocument(port=443),),
    )
    operators.propose(world, 0, PutVirtualServer(document), local=True)
    world.run_for(SECOND)


def test_what_one_device_changes_alone_is_never_who_owns_an_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = quiet_world(1, Setup())
    edited_alone(world)
    assert not world.checker.violations

    monkeypatch.setattr(local, "FREE", (*local.FREE, "vips", "devices", "seed"))
    world = quiet_world(1, Setup())
    edited_alone(world)
    assert [v.rule for v in world.checker.violations] == ["S1"]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_local_change_ends_when_a_coordinator_is_back(seed: int) -> None:
    world = quiet_world(seed, Setup())
    world.network.partition(world.now, [0])
    world.run_for(3 * SECOND)
    request = operators.propose(world, 0, SetGateway("vs0", "gw0", weight=7), local=True)
    world.run_for(SECOND)
    assert request is not None
    assert operators.succeeded(world, request)
    assert world.view(0).local is not None
    world.kill(0)
    world.start(0)
    assert world.view(0).local is not None, "a restart forgot it"
    world.network.heal_all(world.now, range(3))
    world.run_for(3 * SECOND)
    assert world.view(0).local is None
    assert world.checker.seen["conflict: local"] == 1
    assert not world.checker.violations


def site_protocol(world: World) -> int:
    site = world.checker.configs.newest.site
    assert site is not None
    return site.protocol


def test_two_releases_live_in_one_site_until_all_speak_the_newer() -> None:
    world = World(1, Setup(), make_node)
    world.start_all()
    world.run_for(4 * SECOND)
    for index in (2, 1, 0):
        world.machines[index].speaks = (1, 2)
        world.stop(index)
        world.run_for(2 * SECOND)
        assert site_protocol(world) == 1
        world.start(index)
        world.run_for(3 * SECOND)
    world.run_for(15 * SECOND)
    assert site_protocol(world) == 2
    assert not world.checker.violations
    assert len(world.announcers(world.first_vip)) == 1
