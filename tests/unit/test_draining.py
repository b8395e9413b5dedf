"""Gateways whose time to drain is over: who is told of it, and when."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from agent.clock import Deadlines
from agent.draining import Draining
from protocol.effects import Event
from protocol.ids import GroupId
from protocol.objects import Gateway, Listener, VirtualServer
from tests.unit.listening import run, until

UID = GroupId("00000000000000aa")
DEADLINE = 1_700_000_000
ONE, TWO = (Gateway(name=f"gw{n}", address=f"10.0.0.{n}", drain_until=DEADLINE) for n in (1, 2))


def at(unix_s: float) -> Deadlines:
    """What is looked up for the first time."""
    return Deadlines(lambda: unix_s, lambda: 0)


def serving(*gateways: Gateway) -> tuple[VirtualServer, ...]:
    return (VirtualServer(uid=UID, name="web", vips=(), gateways=gateways, seed=1),)


def disabled(gateway: Gateway) -> Gateway:
    return replace(gateway, state="disabled")


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gateways whose flows were ended."""
    found: list[str] = []

    def end_flows(_: Any, gateways: tuple[str, ...]) -> int:
        found.extend(gateways)
        return 3

    monkeypatch.setattr("agent.draining.end_flows", end_flows)
    monkeypatch.setattr("agent.draining.SWEEPS_S", (0.0,))
    return found


def test_a_primary_disables_what_drains_at_the_deadline_and_no_sooner(ended: list[str]) -> None:
    async def test() -> None:
        draining = Draining(print)
        some = serving(replace(ONE, state="draining"))
        assert not list(draining.due(some, {UID}, at(DEADLINE - 1)))
        assert not list(draining.due(some, (), at(DEADLINE))), "another device is primary"
        (change,) = draining.due(some, {UID}, at(DEADLINE))
        assert (change.gateway, change.state) == ("gw1", "disabled")
        assert not list(draining.due(some, {UID}, at(DEADLINE))), "that is under way"

    run(test())
    assert not ended


def test_a_clock_that_is_set_brings_no_deadline_sooner(ended: list[str]) -> None:
    async def test() -> None:
        draining, some = Draining(print), serving(replace(ONE, state="draining"))
        unix_s, own_s = DEADLINE - 600.0, 0.0
        clock = Deadlines(lambda: unix_s, lambda: own_s)
        assert not list(draining.due(some, {UID}, clock))
        own_s = 599
        for hours in (-1, 1):
            unix_s = DEADLINE + 3600.0 * hours
            assert not list(draining.due(some, {UID}, clock))
        own_s = 600
        assert list(draining.due(some, {UID}, clock))

    run(test())
    assert not ended


def test_what_was_disabled_before_an_agent_started_is_emptied_but_is_no_news(
    ended: list[str],
) -> None:
    told: list[Event] = []

    async def test() -> None:
        draining = Draining(told.append)
        assert not list(draining.due(serving(disabled(ONE), TWO), {UID}, at(DEADLINE - 1)))
        await until(lambda: ended == [ONE.address])
        assert not list(draining.due(serving(disabled(ONE), disabled(TWO)), {UID}, at(DEADLINE)))
        await until(lambda: told)
        await asyncio.sleep(0)

    run(test())
    assert ended == [ONE.address, TWO.address]
    (event,) = told
    assert event.text == "gateway gw2 is disabled at its deadline: 3 connections were ended"


@pytest.mark.parametrize("flows", [0, 3])
def test_where_nobody_counts_nobody_says_that_a_gateway_was_empty(
    monkeypatch: pytest.MonkeyPatch, flows: int
) -> None:
    """With `dsr` the device itself may have opened some, which have entries."""
    monkeypatch.setattr("agent.draining.end_flows", lambda *_: flows)
    monkeypatch.setattr("agent.draining.SWEEPS_S", (0.0,))
    told: list[Event] = []
    web = Listener(protocol="tcp", port=80, gateway_port=80)

    def sending_on(gateway: Gateway) -> tuple[VirtualServer, ...]:
        (server,) = serving(gateway)
        return (replace(server, forwarding="dsr", vips=("10.0.0.9/24",), listeners=(web,)),)

    async def test() -> None:
        draining = Draining(told.append)
        assert not list(draining.due(sending_on(ONE), {UID}, at(DEADLINE - 1)))
        assert not list(draining.due(sending_on(disabled(ONE)), {UID}, at(DEADLINE)))
        await until(lambda: told)

    run(test())
    (event,) = told
    ended = "3 connections were ended; " if flows else ""
    assert event.text == (
        f"gateway gw1 is disabled at its deadline: {ended}what it still had, which nobody counts,"
        " was ended"
    )


def test_what_a_device_that_was_away_still_had_is_ended_too(
    ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also once the gateway is removed, and not once it may have connections again."""
    monkeypatch.setattr("agent.draining.LAST_S", 0.05)
    told: list[Event] = []

    async def test() -> None:
        draining = Draining(told.append)
        assert not list(draining.due(serving(ONE, TWO), {UID}, at(DEADLINE - 1)))
        assert not list(draining.due(serving(disabled(ONE), disabled(TWO)), {UID}, at(DEADLINE)))
        await until(lambda: len(told) == 2)
        assert ended == [ONE.address, TWO.address]
        enabled = replace(TWO, drain_until=None)
        assert not list(draining.due(serving(enabled), {UID}, at(DEADLINE)))
        await until(lambda: len(ended) > 2)
        await asyncio.sleep(0.05)

    run(test())
    assert ended == [ONE.address, TWO.address, ONE.address]
    assert len(told) == 2, "that is no news"
