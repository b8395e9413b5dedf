"""Gateways that are down, kept for the next life of the agent."""

from __future__ import annotations

from collections.abc import Container

import pytest

from agent.checks import Down
from agent.distribution import GatewayKey
from agent.lastseen import AGAIN_S, BELIEVED_S, NOTHING_SEEN, PACE_S, Fallen, LastSeen, Memory
from agent.probes import GOOD, Answer, Verdict
from protocol.messages import MAX_FAULT
from protocol.objects import Check
from tests.unit.listening import never, run, until
from tests.unit.scripted import scripted
from tests.unit.test_checks import BAD, UID, gateway, server_of

NOW = 1_790_000_000.0
GW1, GW2 = (UID, "gw1"), (UID, "gw2")
WHY = "tcp/80: no answer in 1 s"
SEEN = LastSeen(NOW - 100, (Fallen(UID, "gw1", NOW - 130, WHY),))
SILENT = Answer(Verdict.BAD, "no answer in 1 s", silent=True)
UNCLEAR = Answer(Verdict.UNCLEAR, "too many open files")
SELDOM = Check(interval=3600)


class Life:
    """One of an agent, on a disk that takes everything at once."""

    def __init__(self, former: LastSeen = NOTHING_SEEN, unix_s: float = NOW) -> None:
        self.unix_s, self.now = unix_s, 50.0
        self.saved: list[LastSeen] = []
        self.memory = Memory(former, self.saved.append, lambda: self.unix_s, lambda: self.now)

    def later(self, seconds: float) -> None:
        self.unix_s += seconds
        self.now += seconds
        self.memory.keep()

    def says_more(self, seconds: float) -> bool:
        """Whether anything is written in so much more time."""
        count = len(self.saved)
        self.later(seconds)
        return len(self.saved) > count

    def sees(self, *down: GatewayKey, proved: Container[GatewayKey] = (GW1, GW2)) -> None:
        self.memory.note(frozenset(down), dict.fromkeys(down, WHY), proved)


def test_what_fell_is_known_to_the_next_life_with_the_time() -> None:
    life = Life()
    life.sees(GW1)
    (seen,) = life.saved
    next_one = Life(seen, NOW + 30)
    assert next_one.memory.down == {GW1: WHY}
    assert next_one.memory.ages == {GW1: 30}
    next_one.sees(GW1, proved=())
    assert Life(next_one.saved[-1], NOW + 45).memory.ages == {GW1: 45}


def test_what_was_found_down_is_down_for_long() -> None:
    life = Life()
    life.sees(GW1, proved=())
    assert Life(life.saved[-1], NOW).memory.ages[GW1] >= NOW


def test_what_came_back_and_falls_again_fell_just_now() -> None:
    life = Life(SEEN)
    life.sees()
    life.later(20)
    life.sees(GW1)
    life.later(PACE_S)
    assert life.saved[-1].fallen == (Fallen(UID, "gw1", NOW + 20, WHY),)


@pytest.mark.parametrize("unix_s", [NOW + BELIEVED_S, NOW - 100 - BELIEVED_S, 0.0])
def test_what_was_said_long_ago_or_is_yet_to_come_is_not_believed(unix_s: float) -> None:
    life = Life(SEEN, unix_s)
    assert (life.memory.down, life.memory.ages) == ({}, {})
    life.memory.keep()
    assert [seen.fallen for seen in life.saved] == [()], "nor found by the next life"


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_times_that_are_none_are_not_believed(wrong: float) -> None:
    assert not Life(LastSeen(wrong, SEEN.fallen)).memory.down
    (age,) = Life(LastSeen(NOW, (Fallen(UID, "gw1", wrong, WHY),))).memory.ages.values()
    assert age == 0.0


def test_gateways_that_come_and_go_are_written_at_a_bounded_pace() -> None:
    life = Life()
    for _ in range(50):
        life.sees(GW1)
        life.sees(GW1, GW2)
        life.later(0.1)
    assert len(life.saved) <= 5 / PACE_S + 1
    life.later(PACE_S)
    assert [each.gateway for each in life.saved[-1].fallen] == ["gw1", "gw2"]
    assert not life.says_more(PACE_S), "nothing has changed"


def test_what_lasts_is_said_again_so_that_it_is_believed() -> None:
    life = Life()
    life.sees(GW1)
    for _ in range(100):
        life.later(BELIEVED_S / 100)
    assert life.saved[-1].unix_s >= life.unix_s - AGAIN_S - BELIEVED_S / 100
    life.sees()
    life.later(PACE_S)
    assert not life.says_more(BELIEVED_S), "of gateways that are all up there is nothing to say"


def test_an_agent_that_ends_has_everything_written() -> None:
    life = Life()
    life.sees(GW1)
    life.sees(GW1, GW2)
    life.memory.keep(last=True)
    assert len(life.saved[-1].fallen) == 2


def test_one_that_never_made_a_check_makes_nothing_younger() -> None:
    life = Life(SEEN)
    life.later(AGAIN_S)
    life.memory.keep(last=True)
    assert life.saved == []


def test_a_long_reason_is_cut() -> None:
    life = Life()
    life.memory.note(frozenset([GW1]), {GW1: "x" * 10_000}, ())
    assert len(life.saved[0].fallen[0].why) == MAX_FAULT


@pytest.mark.parametrize(
    ("answers", "down"),
    [((GOOD,), False), ((BAD,), True), ((SILENT, SILENT), True), ((SILENT, GOOD), False)],
)
def test_what_a_former_life_saw_down_stays_so_until_its_first_answer(
    answers: tuple[Answer, ...], down: bool
) -> None:
    async def test() -> None:
        told: list[Down] = []
        with scripted(told.append, {GW1: WHY}) as (script, checks):
            checks.set_targets([server_of([80, 81], gateway(), gateway("gw2", "127.0.0.2"))])
            assert told == [{GW1}], "before any check was made"
            assert checks.reasons() == {GW1: WHY}
            await script.answer(80, GOOD)
            for answer in answers:
                assert checks.down == {GW1}
                await script.answer(81, answer)
            await until(lambda: checks.down == ({GW1} if down else set()))
            assert told == [{GW1}] + [frozenset()] * (not down)

    run(test())


def test_what_nobody_asks_for_any_more_is_forgotten() -> None:
    async def test() -> None:
        with scripted(never, {GW2: WHY}) as (_, checks):
            checks.set_targets([server_of([80], gateway())])
            checks.set_targets([])
            checks.set_targets([server_of([80], gateway(), gateway("gw2", "127.0.0.2"))])
            assert checks.down == set()

    run(test())


def test_one_that_cannot_be_checked_is_held_down_by_nothing() -> None:
    async def test() -> None:
        told: list[Down] = []
        with scripted(told.append, {GW1: WHY}) as (script, checks):
            checks.set_targets([server_of([80], gateway())])
            await script.answer(80, UNCLEAR)
            await until(lambda: told == [{GW1}, frozenset()])

    run(test())


def test_a_cable_that_is_out_as_the_agent_starts_says_nothing_for_any_gateway() -> None:
    async def test() -> None:
        told: list[Down] = []
        with scripted(told.append, {GW1: WHY}) as (script, checks):
            checks.excuse = "interface eth0 has no carrier"
            checks.set_targets([server_of([80], gateway(), check=SELDOM)])
            await script.answer(80, BAD)
            assert checks.troubles() == (checks.excuse,)
            assert told == [{GW1}]
            checks.excuse = ""
            await script.answer(80, GOOD)  # at once, not after an interval
            await until(lambda: told == [{GW1}, frozenset()])

    run(test())
