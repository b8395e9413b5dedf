"""The agent's loop: what fails in one step does not end the steps."""

from __future__ import annotations

import asyncio
from typing import Any

from agent.clock import boottime
from agent.loop import Loop
from protocol.effects import Effect
from tests.unit.listening import run, until


class Node:
    """Due at once, again and again."""

    def step(self, now: int, inputs: list[object]) -> list[Effect]:
        return []

    def wake_at(self) -> int:
        return boottime()


def test_a_device_alone_goes_on_after_an_effect_that_failed() -> None:
    steps = 0

    def carry_out(effects: list[Effect]) -> None:
        nonlocal steps
        steps += 1
        if steps == 2:
            raise OSError("no descriptors left")

    async def test() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        node: Any = Node()
        loop = Loop(node, lambda due, now: None)
        loop.start(carry_out)
        await until(lambda: steps > 3)
        loop.close()
        assert [str(context["exception"]) for context in told] == ["no descriptors left"]

    run(test())
