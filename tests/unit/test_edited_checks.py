"""Health checks that an operator edits: what was known of the gateways stays known."""

from __future__ import annotations

import asyncio
from contextlib import closing
from random import Random

import pytest

from agent.checks import Down, HealthChecks
from agent.probes import GOOD, Answer, Verdict
from protocol.objects import Check
from tests.unit.listening import run, until
from tests.unit.test_checks import BAD, UID, Scripted, gateway, server_of

UNCLEAR = Answer(Verdict.UNCLEAR, "too many open files")


@pytest.mark.parametrize("rise", [1, 5])
@pytest.mark.parametrize("answer", [GOOD, BAD, UNCLEAR])
def test_a_gateway_that_is_down_stays_so_until_all_new_checks_were_made(
    answer: Answer, rise: int
) -> None:
    async def test() -> None:
        script = Scripted()
        told: list[Down] = []
        checks = HealthChecks(told.append, Random(1), probes={"tcp": script.start})
        with closing(checks):
            checks.set_targets([server_of([80, 81], gateway())])
            await script.answer(80, GOOD)
            await script.answer(81, BAD)
            await until(lambda: told)
            edited = Check(interval=60, rise=rise)
            checks.set_targets([server_of([80, 81], gateway(), check=edited)])
            await script.answer(80, answer)
            assert checks.down == {(UID, "gw1")}
            if answer is not BAD:
                assert checks.reasons() == {(UID, "gw1"): "tcp/81: connection refused"}
            await script.answer(81, answer)
            await asyncio.sleep(0)
            assert told == [{(UID, "gw1")}] + [frozenset()] * (answer is not BAD)

    run(test())


def test_a_gateway_that_is_up_stays_so_until_a_new_check_was_made() -> None:
    async def test() -> None:
        script = Scripted()
        told: list[Down] = []
        checks = HealthChecks(told.append, Random(1), probes={"tcp": script.start})
        with closing(checks):
            checks.set_targets([server_of([80], gateway())])
            await script.answer(80, GOOD)
            checks.set_targets([server_of([80], gateway(), check=Check(interval=60))])
            await until(lambda: script.open)
            assert told == []

    run(test())
