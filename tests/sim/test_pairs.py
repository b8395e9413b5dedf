"""Two devices with an arbiter in the simulator, and what each rule of theirs is for."""

from __future__ import annotations

import pytest

from protocol import alone, arbiter
from protocol.arbiter import Pair, Sight, Wait
from protocol.effects import Probed
from protocol.outbox import Outbox
from protocol.timing import MILLISECOND, SECOND, Profile, Timing
from tests.sim import network, pairs
from tests.sim.segment import Round, Segment
from tests.sim.world import World

T = Timing.of(Profile.NORMAL)


SOMETIMES = {
    "event alone",
    "announced again",
    "primary gone while the links are cut",
    "force: done",
    "force: Refused",
}
"""What six seeds must visit among them."""


def test_takeovers_with_one_path_alive_never_have_two_owners() -> None:
    stories = [pairs.run_story(seed) for seed in range(6)]
    assert sum(len(story.takeovers) for story in stories) > 20
    assert [s for s in stories if s.violations or s.overlap or not s.healed] == []
    seen = {state for story in stories for state in story.seen}
    assert seen >= SOMETIMES, f"too tame: nobody saw {SOMETIMES - seen}"


@pytest.mark.parametrize("links", [True, False])
def test_a_crash_is_followed_by_a_takeover_within_three_and_a_half_intervals(links: bool) -> None:
    found = [pairs.takeover(seed, links=links) for seed in range(4)]
    assert all(took is not None and took <= 3.5 * T.interval for took in found), found


def test_links_cut_for_long_move_nothing() -> None:
    for seed in range(2):
        world = pairs.pair_world(seed)
        before = pairs.primary(world)
        pairs.cut_links(world)
        world.run_for(20 * SECOND)
        assert pairs.primary(world) == before
        assert not [moved for *_, moved in world.checker.leases.gaps if moved]


def test_both_paths_cut_make_two_owners_that_become_one_within_an_interval_of_contact() -> None:
    for seed in range(4):
        owners, took = pairs.contact(seed)
        assert owners == 2
        assert took <= T.interval


def test_an_arbiter_that_dies_moves_nothing_while_the_devices_hear_each_other() -> None:
    world = pairs.pair_world(1)
    world.segment.arbiter = False
    world.run_for(20 * SECOND)
    assert pairs.primary(world) is not None
    assert not [moved for *_, moved in world.checker.leases.gaps if moved]


def test_a_cold_boot_with_cut_links_serves_nowhere() -> None:
    world = pairs.pair_world(1)
    for index in range(2):
        world.crash(index)
    pairs.cut_links(world)
    world.segment.whole = False
    for index in range(2):
        world.start(index)
    world.run_for(10 * SECOND)
    assert world.announcers(world.first_vip) == []
    pairs.heal(world)
    world.run_for(3 * SECOND)
    assert pairs.primary(world) is not None


# Ablations: each rule, broken on purpose, must let two owners appear.


def two_owners(seeds: range = range(30)) -> bool:
    """Whether any seed has two owners although one path always lives."""
    return any("S1" in text for seed in seeds for text in pairs.run_story(seed).violations)


def test_without_the_question_for_the_vip_two_owners_appear(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def blind(self: Segment, asked: Round) -> None:
        process, effect = asked.process, asked.effect
        if process.alive:
            whole = bool(effect.vips) and not effect.holding
            process.hand_in(Probed(effect.group, asked.at, asked.arbiter, whole, False))

    monkeypatch.setattr(Segment, "_report", blind)
    assert two_owners()


def test_without_the_silence_of_the_peer_a_dead_question_is_enough_for_two_owners(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def careless(pair: Pair, sight: Sight, timing: Timing, now: int) -> Wait:
        return Wait.NONE

    monkeypatch.setattr(alone, "why_not_ask", careless)
    monkeypatch.setattr(alone, "why_not_take", careless)
    assert two_owners()


def cut_off(seed: int) -> World:
    """The primary loses the other device and the segment."""
    world = pairs.pair_world(seed)
    world.checker.ignored = pairs.QUORUM_ONLY | {"S1", "S9"}
    before = pairs.primary(world)
    assert before is not None
    pairs.cut_links(world)
    world.segment.reached[before] = False
    world.run_for(2 * SECOND)
    assert world.machines[1 - before].kernel.announces(world.first_vip, world.now)
    return world


def test_a_primary_that_goes_on_without_the_arbiter_is_one_of_two_owners(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not any(cut_off(seed).checker.leases.overlap for seed in range(3))
    keep = alone.Alone.keep

    def stubborn(self: alone.Alone, now: int, out: Outbox) -> None:
        keep(self, now, out)
        if self.since is not None:
            self._go_on(now, now, out)

    monkeypatch.setattr(alone.Alone, "keep", stubborn)
    assert any(cut_off(seed).checker.leases.overlap for seed in range(3))


def test_two_that_look_for_a_free_vip_at_once_need_a_rule_who_goes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def both_at_once(seeds: int) -> bool:
        worlds = map(world_after_the_arbiter_returned, range(seeds))
        return any(world.checker.leases.overlap for world in worlds)

    assert not both_at_once(5)
    unfair = Segment._arrive

    def arrive(self: Segment, asked: Round, there: int) -> None:
        rounds, self._rounds = self._rounds, {}
        unfair(self, asked, there)
        self._rounds = rounds

    monkeypatch.setattr(Segment, "_arrive", arrive)
    assert both_at_once(40)


def world_after_the_arbiter_returned(seed: int) -> World:
    """Links cut, the arbiter dead for a while: when it returns both look for the VIP."""
    world = pairs.pair_world(seed)
    world.checker.ignored = pairs.QUORUM_ONLY | {"S1", "S9"}
    pairs.cut_links(world)
    world.segment.arbiter = False
    world.run_for(2 * SECOND + seed * 7 * MILLISECOND)
    world.segment.arbiter = True
    world.run_for(2 * SECOND)
    return world


def test_quiet_rounds_are_what_the_page_says() -> None:
    assert arbiter.QUIET_ROUNDS * T.interval // 2 + T.ask == T.promise


@pytest.mark.parametrize("seed", range(3))
def test_a_primary_whose_peer_is_back_leans_on_the_arbiter_no_more(seed: int) -> None:
    """Also where the arbiter always answers before the peer does."""
    world = pairs.pair_world(seed)
    world.network.quality = network.Quality(base=2 * MILLISECOND)
    before = pairs.primary(world)
    assert before is not None
    pairs.cut_links(world)
    world.run_for(2 * SECOND)
    assert any(group.alone for group in world.view(before).groups)
    pairs.heal(world)
    world.run_for(SECOND)
    assert not any(group.alone for group in world.view(before).groups)
    assert not world.checker.violations
