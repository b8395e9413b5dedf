"""What the history hears of gateways: from the primary, with the reason, and not without end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from agent import gateway_news
from agent.distribution import GatewayKey
from agent.gateway_news import BURST, GatewayNews
from agent.rate import Rate
from protocol.effects import Event
from protocol.ids import GroupId
from protocol.objects import Gateway, VirtualServer
from tests.unit.listening import run

RDP = GroupId("0000000000000001")
SERVER = VirtualServer(
    uid=RDP, name="rdp", vips=("10.0.0.9/24",), seed=1,
    gateways=(Gateway(name="gw1", address="10.0.0.1"), Gateway(name="gw2", address="10.0.0.2")),
)  # fmt: skip
ONE: GatewayKey = (RDP, "gw1")
REASON = "https/443: the certificate expired"


def why() -> dict[GatewayKey, str]:
    return {ONE: REASON}


def told(scenario: Callable[[GatewayNews], None], *before: str) -> list[str]:
    """What ``scenario`` tells a history that has ``before``."""
    events: list[Event] = []

    def said(kind: str) -> list[tuple[GroupId | None, str]]:
        assert kind == "gateway"
        return [*((RDP, text) for text in before), *((e.group, e.text) for e in events)]

    async def main() -> None:
        scenario(GatewayNews(events.append, said))

    run(main())
    assert all((event.kind, event.group) == ("gateway", RDP) for event in events)
    return [event.text for event in events]


def test_the_primary_tells_that_a_gateway_went_down_why_and_that_it_is_up_again() -> None:
    def scenario(news: GatewayNews) -> None:
        news.observe([SERVER], frozenset({ONE}), why, {RDP})
        news.observe([SERVER], frozenset({ONE}), why, {RDP})
        news.observe([SERVER], frozenset(), dict, {RDP})

    assert told(scenario) == [
        "gateway gw1 is down: https/443: the certificate expired",
        "gateway gw1 is up again",
    ]


def test_a_secondary_tells_nothing() -> None:
    assert told(lambda news: news.observe([SERVER], frozenset({ONE}), why, set())) == []


@pytest.mark.parametrize("gateways", [(), (replace(SERVER.gateways[0], state="disabled"),)])
def test_a_gateway_that_is_taken_away_or_disabled_is_not_up_again(
    gateways: tuple[Gateway, ...],
) -> None:
    def scenario(news: GatewayNews) -> None:
        news.observe([SERVER], frozenset({ONE}), why, {RDP})
        news.observe([replace(SERVER, gateways=gateways)], frozenset(), dict, {RDP})

    assert len(told(scenario)) == 1


def test_what_comes_and_goes_without_end_is_counted_and_mostly_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway_news, "PER_SECOND", 0.0)
    now = [0.0]

    def scenario(news: GatewayNews) -> None:
        monkeypatch.setattr(news, "_clock", lambda: now[0])
        for _ in range(30):
            news.observe([SERVER], frozenset({ONE}), why, {RDP})
            news.observe([SERVER], frozenset(), dict, {RDP})
        monkeypatch.setattr(news, "_rate", Rate(1.0, BURST))
        now[0] = 1.0
        news.observe([SERVER], frozenset({ONE}), why, {RDP})

    lines = told(scenario)
    assert len(lines) == BURST + 1
    assert lines[-1].endswith(f"({60 - BURST:.0f} more such changes were left out)")


def test_how_a_gateway_is_at_last_is_told_later_where_that_was_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]

    def scenario(news: GatewayNews) -> None:
        monkeypatch.setattr(news, "_clock", lambda: now[0])
        monkeypatch.setattr(news, "_rate", Rate(0.1, 1.0))
        for down in (frozenset({ONE}), frozenset[GatewayKey](), frozenset({ONE}), frozenset()):
            news.observe([SERVER], down, why, {RDP})
        for now[0] in (1.0, 11.0, 30.0):
            news.observe([SERVER], frozenset(), dict, {RDP})

    assert told(scenario) == [
        f"gateway gw1 is down: {REASON}",
        "gateway gw1 is up again (2 more such changes were left out)",
    ]


DOWN = f"gateway gw1 is down: {REASON}"


@pytest.mark.parametrize("before", [(), (DOWN, "gateway gw1 is up again")])
def test_a_new_primary_tells_what_it_sees_down_and_the_history_does_not_say(
    before: tuple[str, ...],
) -> None:
    def scenario(news: GatewayNews) -> None:
        news.observe([SERVER], frozenset({ONE}), why, set())
        news.observe([SERVER], frozenset({ONE}), why, {RDP})
        news.observe([SERVER], frozenset({ONE}), why, {RDP})

    assert told(scenario, *before) == [DOWN]


def test_a_new_primary_does_not_repeat_what_the_one_before_told() -> None:
    def scenario(news: GatewayNews) -> None:
        news.observe([SERVER], frozenset({ONE}), why, set())
        news.observe([SERVER], frozenset({ONE}), why, {RDP})

    assert told(scenario, DOWN) == []


def test_a_new_primary_that_sees_up_what_the_history_has_as_down_tells_that() -> None:
    def scenario(news: GatewayNews) -> None:
        news.observe([SERVER], frozenset(), dict, set())
        news.observe([SERVER], frozenset(), dict, {RDP})

    assert told(scenario, f"{DOWN} (3 more such changes were left out)") == [
        "gateway gw1 is up again"
    ]
