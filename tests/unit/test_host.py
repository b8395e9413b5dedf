"""What else on the host is in the way of flows: looked for as long as the agent lives."""

from __future__ import annotations

import errno

import pytest

from agent.conntrack_limit import Room
from agent.counters import Reading, Tally
from agent.host import KEEP_S, MAX_OBSTACLES, HostWatch
from agent.meter import Sample
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


def test_of_a_range_of_ports_the_worst_are_told_and_no_others() -> None:
    told: list[Event] = []
    watch = HostWatch(told.append, lambda: ())

    def dropped(number: int) -> Reading:
        services = {("10.0.0.1", "tcp", port): number * port for port in range(1, 1001)}
        return Reading({}, services, {}, {}, {}, {})

    for at in range(3):
        watch.on_sample(Sample(10.0 * at, dropped(at)))
    assert len(told) == MAX_OBSTACLES
    assert "tcp/1000 of 10.0.0.1: 1000 new flows" in told[0].text
    assert len([*watch.warnings(20.0)]) == MAX_OBSTACLES
    assert [*watch.warnings(20.0 + KEEP_S)] == []


def test_packets_without_a_flow_that_do_not_leave_are_told_by_gateway() -> None:
    told: list[Event] = []
    watch = HostWatch(told.append, lambda: ())
    service = ("10.0.0.7", "udp", 53)

    def counted(forth: int, back: int, left: int) -> Reading:
        passed, answered, gone = ({service: Tally(number, 0)} for number in (forth, back, left))
        return Reading({}, {}, {}, {}, {}, {}, passed, answered, gone)

    for at, (forth, back, left) in enumerate([(9, 3, 2), (20, 12, 22), (30, 20, 32)]):
        watch.on_sample(Sample(10.0 * at, counted(forth, back, left)))
    (said,) = (each.text for each in told)
    assert said.startswith(
        "udp/53 of gateway 10.0.0.7: 8 packets of `routed` were dropped by other"
    )
    assert not counted(9, 3, 14).stopped[service], "read later than what came"
    none_left = Reading({}, {}, {}, {}, {}, {}, {service: Tally(9, 0)})
    assert none_left.stopped == {service: 9}, "an account comes to be with the first that leaves"
