"""A simulator that cannot fail proves nothing: each rule of the protocol, broken on purpose.

Every test takes one rule away and asks that the check which rests on it turns
red. ``run_seed(prepare=..., ignored=...)`` and monkeypatching are the hooks;
all other rules are ignored, so that the right check must notice by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from protocol import assignment
from protocol.candidacy import Candidacy
from protocol.changes import DeleteVirtualServer, PutVirtualServer
from protocol.config import Config
from protocol.coordinator import Coordinator
from protocol.document import VirtualServerDocument
from protocol.effects import Ballot, BallotsStored, PersistBallots, Send
from protocol.group import Group
from protocol.ids import NO_REVISION, DeviceId, GroupId, Revision
from protocol.listener_document import ListenerDocument
from protocol.messages import Append, Message, ProposeChange, Reason, Vote
from protocol.outbox import Outbox
from protocol.timing import MILLISECOND, SECOND, Profile, Timing
from protocol.voter import Voter
from tests.sim import network, operators
from tests.sim.checkers import RULES
from tests.sim.executor import HANDLERS
from tests.sim.run import quiet_world, run_seed
from tests.sim.shell import Process
from tests.sim.site import Setup, device_name
from tests.sim.world import World

ALL_RULES = frozenset(RULES)
SEEDS = 60

Prepare = Callable[[World], None]


def turns_red(rule: str, prepare: Prepare | None = None, devices: int = 3, first: int = 0) -> bool:
    """Whether the check of ``rule`` alone notices within a number of seeds."""
    for seed in range(first, first + SEEDS):
        result = run_seed(seed, devices, 10 * SECOND, ignored=ALL_RULES - {rule}, prepare=prepare)
        if any(v.rule == rule for v in result.violations):
            return True
    return False


def retimed(monkeypatch: pytest.MonkeyPatch, **multiples: float) -> None:
    """Give the core durations in other multiples of T."""
    original = Timing.from_interval

    def from_interval(t: int) -> Timing:
        changed = {name: int(t * multiple) for name, multiple in multiples.items()}
        return replace(original(t), **changed)

    monkeypatch.setattr(Timing, "validate", lambda _: None)
    monkeypatch.setattr(Timing, "from_interval", staticmethod(from_interval))


def carried_out(kind: type[Any], how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the shell carry out effects of one kind in another way."""
    monkeypatch.setitem(HANDLERS, kind, how)


def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a candidate stand as soon as it alone has missed the primary for long enough: what it
    hears of others keeps it from elections that other rules have to forbid as well."""
    monkeypatch.setattr(Candidacy, "_silent_since", lambda self: self._voter.heard)


def slow_links(world: World) -> None:
    world.network.quality = network.SLOW


@pytest.mark.parametrize("rule", ["S1", "S5"])
def test_lease_that_outlives_the_promise(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    retimed(monkeypatch, lease=3.5, step_down=3.9)
    assert turns_red(rule)


@pytest.mark.parametrize("rule", ["S1", "S4"])
def test_promise_shorter_than_the_lease(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def promise_for(self: Voter, interval: int) -> int:
        return 2 * self.timing.interval

    monkeypatch.setattr(Voter, "promise_for", promise_for)
    retimed(monkeypatch, promise=2.0)
    assert turns_red(rule)


def test_lease_counted_from_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Group.on_acked

    def on_acked(self: Group, voter: DeviceId, sent: int, now: int, out: Outbox) -> None:
        original(self, voter, now, now, out)

    monkeypatch.setattr(Group, "on_acked", on_acked)
    assert turns_red("S6", slow_links)


def test_won_election_counted_from_the_win(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Group._count_votes

    def count_votes(self: Group, now: int, out: Outbox) -> None:
        self.candidacy.asked_at = now
        original(self, now, out)

    monkeypatch.setattr(Group, "_count_votes", count_votes)
    assert turns_red("S6", slow_links)


def test_lease_renewed_on_old_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    retimed(monkeypatch, fresh=0.9, step_down=3.0)
    assert turns_red("S6", slow_links)


def test_restart_forgets_its_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Voter.__init__

    def init(self: Voter, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **{**kwargs, "abstain_until": 0})

    eager(monkeypatch)
    assert not any(_votes_right_after_a_restart(seed) for seed in range(5))
    monkeypatch.setattr(Voter, "__init__", init)
    assert any(_votes_right_after_a_restart(seed) for seed in range(5))


def _votes_right_after_a_restart(seed: int) -> bool:
    """A device that is cut from the primary asks a voter that was killed and is back at once."""
    world = quiet_world(seed, Setup())
    (holder,) = world.announcers(world.first_vip)
    candidate, voter = (holder + 1) % 3, (holder + 2) % 3
    world.network.cut(holder, candidate)
    world.run_for(SECOND)
    world.kill(voter)
    world.start_after(voter, 5 * MILLISECOND)
    world.run_for(SECOND)
    return any(v.rule == "S4" for v in world.checker.violations)


def test_votes_that_are_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def persist(self: Process, effect: PersistBallots) -> int:
        self.inbox.append(BallotsStored(effect.number))
        return 0

    carried_out(PersistBallots, persist, monkeypatch)
    assert turns_red("S3")


def test_votes_written_after_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has a vote only half a millisecond after the process was told that it has."""

    def persist(self: Process, effect: PersistBallots) -> int:
        self.inbox.append(BallotsStored(effect.number))
        self.world.push(self.world.now + 500_000, _write, self, effect.ballots)
        return 0

    carried_out(PersistBallots, persist, monkeypatch)
    assert turns_red("S3")


def _write(process: Process, ballots: Mapping[GroupId, Ballot]) -> None:
    if process.alive:
        process.machine.disk.ballots = {**process.machine.disk.ballots, **ballots}


def test_votes_told_while_they_go_to_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def send(self: Outbox, to: DeviceId, message: Message) -> None:
        self.do(Send(to, message))

    monkeypatch.setattr(Outbox, "send", send)
    assert turns_red("S3")


def test_two_votes_in_one_term(monkeypatch: pytest.MonkeyPatch) -> None:
    def cast(self: Voter, term: int, vote: DeviceId | None, out: Outbox) -> None:
        self.ballot = Ballot(term, vote)
        out.persist(self.group, self.ballot)

    def refuses_vote(self: Voter, sender: DeviceId, vote: Vote, now: int) -> Reason:
        return Reason.NONE if vote.term >= self.term else Reason.STALE_TERM

    monkeypatch.setattr(Voter, "cast", cast)
    monkeypatch.setattr(Voter, "refuses_vote", refuses_vote)
    assert turns_red("S3")


def test_votes_in_spite_of_a_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Voter, "bound_against", lambda *_: False)
    assert turns_red("S4")


def test_clocks_that_run_at_very_different_rates() -> None:
    def prepare(world: World) -> None:
        for machine in world.machines:
            machine.clock.ppm = 250_000 if machine.index else -200_000

    assert turns_red("S1", prepare)


def test_commit_without_a_majority(monkeypatch: pytest.MonkeyPatch) -> None:
    def advance(self: Coordinator, out: Outbox) -> None:
        self.replica.commit(self.replica.durable, out)

    monkeypatch.setattr(Coordinator, "advance", advance)
    assert turns_red("S11")


def test_coordinator_with_an_older_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Voter._unable

    def unable(self: Voter, *args: Any) -> Reason:
        reason = original(self, *args)
        return Reason.NONE if reason is Reason.STALE_CONFIG else reason

    monkeypatch.setattr(Voter, "_unable", unable)
    assert turns_red("S11")


def test_change_in_spite_of_another_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Coordinator.propose

    def propose(self: Coordinator, asked: ProposeChange, now: int, out: Outbox) -> Any:
        return original(self, msgspec.structs.replace(asked, if_revision=None), now, out)

    monkeypatch.setattr(Coordinator, "propose", propose)
    assert turns_red("S11")


def test_difference_for_a_device_from_before_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Coordinator._append_for

    def append_for(self: Coordinator, config: Config, has: Revision) -> Append:
        below = original(self, replace(config, floor=NO_REVISION), has)
        return msgspec.structs.replace(below, floor=config.floor)

    assert not _returns_after_a_long_absence()
    monkeypatch.setattr(Coordinator, "_append_for", append_for)
    assert _returns_after_a_long_absence()


def _returns_after_a_long_absence() -> bool:
    """Whether a device that missed a deletion and its collection has the object again."""
    world = quiet_world(1, Setup())
    world.checker.ignored = ALL_RULES - {"S12"}
    world.network.partition(world.now, [2])
    operators.propose(world, 0, DeleteVirtualServer("vs0"))
    world.run_for(8 * SECOND)
    world.network.heal_all(world.now, range(3))
    world.run_for(3 * SECOND)
    return any(v.rule == "S12" for v in world.checker.violations)


def test_voters_changed_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_step(
        present: tuple[DeviceId, ...], wanted: tuple[DeviceId, ...], *_: Any
    ) -> tuple[DeviceId, ...] | None:
        return wanted if set(present) != set(wanted) else None

    assert _violations_as_voters_change() == []
    monkeypatch.setattr(assignment, "one_step", one_step)
    assert _violations_as_voters_change() == ["S13"]


def _violations_as_voters_change() -> list[str]:
    """Three of five devices carry a Virtual Server; then three others do."""
    world = quiet_world(1, Setup(devices=5))
    for names in (("a", "b", "c"), ("d", "e", "a")):
        listeners = (ListenerDocument(port=443),)
        vips = (f"{world.first_vip}/24",)
        server = VirtualServerDocument(name="vs0", vips=vips, devices=names, listeners=listeners)
        operators.propose(world, 0, PutVirtualServer(server))
        world.run_for(3 * SECOND)
    return [v.rule for v in world.checker.violations]


def test_vip_given_on_before_its_lease_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(_two_owners_as_a_vip_changes_hands(seed) for seed in range(5))
    monkeypatch.setattr(assignment, "_held_vips", lambda _: {})
    assert any(_two_owners_as_a_vip_changes_hands(seed) for seed in range(5))


def _two_owners_as_a_vip_changes_hands(seed: int) -> bool:
    """A VIP goes to a new Virtual Server while its primary hears no news of the configuration."""
    world = quiet_world(seed, Setup(profiles=(Profile.CALM,)))
    (first,) = world.announcers(world.first_vip)
    view = world.view(first)
    assert view.coordinator is not None
    coordinator = world.index_of[view.coordinator]
    holder = (coordinator + 1) % 3
    operators.promote(world, coordinator, 0, holder)
    world.run_for(SECOND)
    assert world.announcers(world.first_vip) == [holder]
    others = [i for i in range(3) if i != holder]
    for index in others:
        world.network.cut_bulk(index, holder)
    names = tuple(device_name(i) for i in others)
    listeners = (ListenerDocument(port=443),)
    document = VirtualServerDocument(
        name="new",
        vips=(f"{world.first_vip}/24",),
        devices=names,
        on_peer_loss="hold",
        listeners=listeners,
    )
    operators.propose(world, others[0], DeleteVirtualServer("vs0"))
    operators.propose(world, others[0], PutVirtualServer(document))
    world.run_for(3 * SECOND)
    return any(v.rule == "S1" for v in world.checker.violations)


def test_election_without_asking_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PreVote a device that comes back takes the lease from a healthy primary."""

    def ripe(self: Candidacy, now: int) -> bool:
        return now >= self._stand_at() and not self._voter.bound_against(self._voter.me, now)

    worlds = [quiet_world(seed, Setup()) for seed in range(5)]
    monkeypatch.setattr(Candidacy, "ripe", ripe)
    assert any(_moves_when_a_device_returns(world) for world in worlds)


def _moves_when_a_device_returns(world: World) -> bool:
    (holder,) = world.announcers(world.first_vip)
    before = world.checker.seen["acquire"]
    world.network.partition(world.now, [(holder + 1) % 3])
    world.run_for(2 * SECOND)
    world.network.heal_all(world.now, range(3))
    world.run_for(2 * SECOND)
    return world.checker.seen["acquire"] > before


def test_no_lease_at_all_in_the_kernel() -> None:
    """A lease that never ends is what other products have: two owners for minutes."""

    def prepare(world: World) -> None:
        for profile in world.leases:
            world.leases[profile] = 3600 * SECOND

    assert turns_red("S1", prepare)
