"""Rules about what is old, late or meant for somebody else, each taken away on purpose."""

from __future__ import annotations

from itertools import count
from typing import Any

import msgspec
import pytest

from protocol.beats import Beats
from protocol.configuration import Configuration
from protocol.contact import Contact
from protocol.effects import Acquire, Received, Refresh
from protocol.ids import DeviceId
from protocol.messages import Beat
from protocol.timing import MILLISECOND, NEVER, SECOND, Profile
from tests.sim.executor import HANDLERS
from tests.sim.run import make_node
from tests.sim.shell import Process
from tests.sim.site import Setup, group_id
from tests.sim.test_ablations import ALL_RULES, turns_red
from tests.sim.world import World


def violations_of_a_beat_from_before_a_restart(seed: int) -> list[str]:
    """It vouches for a list of claims whose number the new run of the agent uses again."""
    world = World(seed, Setup(profiles=(Profile.WAN,)), make_node)
    world.checker.ignored = ALL_RULES - {"S5"}
    world.start_all()
    epoch = _until_claims_are_known(world)
    late = Beat(world.machines[0].clock.local(world.now), 100 * MILLISECOND, epoch, None)
    world.network.cut(0, 1)
    for other in (1, 2):
        world.set_unfit(other, (group_id(0),))
    world.kill(0)
    world.start(0)
    while not world.announcers(world.first_vip):
        world.run_for(MILLISECOND)
        assert world.now < 9 * SECOND
    target = world.running(1)
    assert target is not None
    target.hand_in(Received(world.machines[0].id, late))
    world.run_for(2 * MILLISECOND)
    world.network.heal_all(world.now, range(3))
    world.run_for(300 * MILLISECOND)
    world.network.partition(world.now, [2])
    world.run_for(SECOND)
    return [v.rule for v in world.checker.violations]


def _until_claims_are_known(world: World) -> int:
    """Run until the second device has acked the first one's list; the list's number."""
    while world.now < 2 * SECOND:
        world.run_for(MILLISECOND)
        process = world.running(0)
        assert process is not None
        core: Any = process.core
        contact = core.contacts.get(world.machines[1].id)
        if contact and core.beats._claimed and contact.acked_epoch == core.beats.epoch:
            return int(core.beats.epoch)
    raise AssertionError("the first device has claimed nothing")


def test_lists_of_claims_numbered_anew_by_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert violations_of_a_beat_from_before_a_restart(1) == []
    begin, meet = Beats.__init__, Contact.__init__

    def from_nothing(self: Beats, groups: Any, contacts: Any, incarnation: int) -> None:
        begin(self, groups, contacts, 0)

    def believes_all(self: Contact, device: DeviceId, now: int) -> None:
        meet(self, device, now)
        self.acked_sent = 0

    monkeypatch.setattr(Beats, "__init__", from_nothing)
    monkeypatch.setattr(Contact, "__init__", believes_all)
    assert violations_of_a_beat_from_before_a_restart(1) == ["S5"]


def test_writes_of_a_coordinator_that_was_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    on_append, report = Configuration.on_append, Configuration._report

    def obey(self: Configuration, sender: DeviceId, message: Any, site_term: int, out: Any) -> None:
        self._leader_term = 0
        on_append(self, sender, message, 0, out)

    def tell(self: Configuration, site_term: int, out: Any) -> None:
        report(self, 0, out)

    monkeypatch.setattr(Configuration, "on_append", obey)
    monkeypatch.setattr(Configuration, "_report", tell)
    assert turns_red("S10", first=10)


def violations_of_late_deeds(kind: type[Any], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The process is stopped between a decision and the deed."""
    carry_out = HANDLERS[kind]
    numbers = count()
    delayed: list[Any] = []

    def later(process: Process, effect: Any) -> int:
        if effect in delayed or (kind is Refresh and next(numbers) % 5):
            return carry_out(process, effect)
        delayed.append(effect)
        process.rest.insert(process.position + 1, effect)
        return 100 * MILLISECOND

    with monkeypatch.context() as patch:
        patch.setitem(HANDLERS, kind, later)
        world = World(1, Setup(), make_node)
        world.checker.ignored = ALL_RULES - {"S6"}
        world.start_all()
        world.run_for(20 * SECOND)
    return {v.rule for v in world.checker.violations}


@pytest.mark.parametrize("kind", [Refresh, Acquire])
def test_leases_opened_after_their_deadline(
    kind: type[Refresh | Acquire], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert violations_of_late_deeds(kind, monkeypatch) == set()
    carry_out = HANDLERS[kind]

    def whenever(process: Process, effect: Any) -> int:
        return carry_out(process, msgspec.structs.replace(effect, deadline=NEVER))

    monkeypatch.setitem(HANDLERS, kind, whenever)
    assert violations_of_late_deeds(kind, monkeypatch) == {"S6"}
