"""What else on the host is in the way of flows: looked for as long as the agent lives."""

from __future__ import annotations

import errno

import pytest

from agent.conntrack_limit import Room
from agent.host import HostWatch
from protocol.effects import Event
from tests.unit.listening import run, until


def test_a_table_that_could_not_be_read_once_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Event] = []
    looks: list[Room | OSError] = [OSError(errno.EMFILE, "no descriptors left"), Room(99, 100)]

    def room() -> Room:
        found = looks[0] if len(looks) == 1 else looks.pop(0)
        if isinstance(found, OSError):
            raise found
        return found

    monkeypatch.setattr("agent.conntrack_limit.room", room)
    monkeypatch.setattr("agent.host.LOOK_S", 0.01)

    async def test() -> None:
        watch = HostWatch()
        watch.start(told.append)
        await until(lambda: told)
        await watch.close()

    run(test())
    assert told[0].text == "the connection table is 99% full: 99 of 100"
