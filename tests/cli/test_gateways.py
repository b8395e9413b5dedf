"""Gateways as all devices see them, and waiting for what is drained."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import msgspec
import pytest

from halbctl import draining
from halbctl.gateways import side_by_side
from halbctl.output import Paint
from protocol import api, insight
from protocol.changes import RemoveGateway, SetDevice, SetGateway
from protocol.durations import utc
from protocol.errors import ExitCode
from tests.cli import recorded
from tests.cli.conftest import Halbctl
from tests.cli.peer import Peer


def views(
    connections: int = 12,
    state: str = "enabled",
    drain_until: int | None = None,
    *,
    counted: bool = True,
) -> insight.Gateways:
    primary = insight.GatewayView("a", "primary", "up", "", connections)
    other = insight.GatewayView("b", "secondary", "down", "tcp/443: no answer in 1 s", 0)
    silent = insight.GatewayView("c", "secondary", "unknown", "", -1)
    gateway = insight.GatewayViews(
        "gw1", "10.77.0.31", 2, state, drain_until, (primary, other, silent)
    )
    return insight.Gateways("rdp", "a", "a", (gateway,), counted)


def test_the_views_stand_side_by_side_with_the_reasons_below(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.GetGateways] = views()
    ran = halbctl("gateway", "list", "rdp")
    assert ran.code == 0
    titles, line, reason, note = ran.out.splitlines()
    assert titles.split() == ["GATEWAY", "ADDRESS", "WEIGHT", "STATE", "a*", "b", "c"]
    words = ["gw1", "10.77.0.31", "2", "enabled", "up", "12", "DOWN", "0", "unknown"]
    assert line.split() == words
    assert reason == "gw1 as seen by b: tcp/443: no answer in 1 s"
    assert "primary" in note
    assert peer.only(api.GetGateways) == api.GetGateways("rdp")


def test_a_gateway_is_shown_with_what_it_takes_at_most(peer: Peer, halbctl: Halbctl) -> None:
    found = views()
    limited = msgspec.structs.replace(found.gateways[0], backup=True, max_connections=50)
    peer.answers[api.GetGateways] = msgspec.structs.replace(found, gateways=(limited,))
    ran = halbctl("gateway", "show", "rdp", "gw1")
    assert "weight 2  backup  at most 50 connections  enabled" in ran.out
    data = json.loads(halbctl("gateway", "show", "rdp", "gw1", "-o", "json").out)
    assert (data["backup"], data["max_connections"]) == (True, 50)


def test_one_gateway_is_shown_by_device_and_as_data(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.GetGateways] = views(state="draining", drain_until=1_746_093_600)
    ran = halbctl("gateway", "show", "rdp", "gw1")
    assert "draining until 2025-05-01 10:00:00Z" in ran.out
    assert "no answer in 1 s" in ran.out
    data = json.loads(halbctl("--output", "json", "gateway", "show", "rdp", "gw1").out)
    assert data["devices"][1]["state"] == "down"


@pytest.mark.parametrize(
    ("state", "said"), [("disabled", "disabled since"), ("draining", "draining until")]
)
def test_the_time_of_a_drain_is_said_below_the_table(state: str, said: str) -> None:
    found: Any = msgspec.to_builtins(views(state=state, drain_until=1_746_093_600))
    lines = side_by_side(found, Paint(False, 80))
    assert f"gw1 is {said} 2025-05-01 10:00:00Z" in lines
    assert state in lines[1]
    assert "2025" not in lines[1]


def test_an_unknown_gateway_is_named_with_the_nearest(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.GetGateways] = views()
    ran = halbctl("gateway", "show", "rdp", "gw2")
    assert ran.code == 2
    assert "gw1" in ran.err


def test_a_drain_with_a_deadline_says_until_when(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.PutChange] = api.Done("drained", "1.2")
    before = int(time.time())
    assert halbctl("gateway", "drain", "rdp", "gw1", "--deadline", "10m").code == 0
    change = peer.only(api.PutChange).change
    assert isinstance(change, SetGateway)
    assert change.state == "draining"
    assert change.drain_until is not None
    assert before + 600 <= change.drain_until <= int(time.time()) + 600


def test_waiting_tells_how_many_connections_are_left(
    peer: Peer, halbctl: Halbctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "PAUSE_S", 0.01)
    peer.answers[api.PutChange] = api.Done("drained", "1.2")
    peer.answers[api.GetGateways] = views(0, "draining")
    ran = halbctl("gateway", "drain", "rdp", "gw1", "--wait")
    assert ran.code == 0
    assert "gw1 has no connections" in ran.err


def test_waiting_ends_when_the_operator_said(
    peer: Peer, halbctl: Halbctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "PAUSE_S", 0.01)
    peer.answers[api.PutChange] = api.Done("drained", "1.2")
    peer.answers[api.GetGateways] = views(3, "draining")
    ran = halbctl("--timeout", "0.3", "gateway", "drain", "rdp", "gw1", "--wait")
    assert ran.code == 7
    assert "gw1: 3 connections left" in ran.err
    assert "still has 3 connections" in ran.err
    peer.answers[api.GetGateways] = views(-1, "draining")
    ran = halbctl("--timeout", "0.3", "gateway", "drain", "rdp", "gw1", "--wait")
    assert ran.code == 7
    assert "may still have connections" in ran.err, "no primary says how many"


def test_a_wait_that_nothing_would_end_is_refused_before_anything_is_drained(
    peer: Peer, halbctl: Halbctl
) -> None:
    peer.answers[api.PutChange] = api.Done("drained", "1.2")
    peer.answers[api.GetGateways] = views(-1, counted=False)
    ran = halbctl("gateway", "drain", "rdp", "gw1", "--wait")
    assert ran.code == ExitCode.FAILED
    assert "nobody counts the connections of Virtual Server 'rdp'" in ran.err
    assert "--deadline" in ran.err
    assert not [each for each in peer.requests if isinstance(each, api.PutChange)]


def test_where_nobody_counts_a_wait_says_once_what_ends_it(
    peer: Peer, halbctl: Halbctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "PAUSE_S", 0.01)
    states = iter(["draining", "draining", "draining", "disabled"])
    peer.answers[api.PutChange] = api.Done("drained", "1.2")
    until = int(time.time()) + 5

    def now(_: object) -> insight.Gateways:
        return views(-1, next(states), until, counted=False)

    peer.answers[api.GetGateways] = now
    ran = halbctl("gateway", "drain", "rdp", "gw1", "--deadline", "5s", "--wait")
    assert ran.code == 0
    assert ran.err.count("nobody counts its connections") == 1
    assert f"until it is disabled at its deadline, {utc(until)}" in ran.err


def test_where_nobody_counts_a_wait_ends_when_the_operator_said(
    peer: Peer, halbctl: Halbctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "PAUSE_S", 0.01)
    peer.answers[api.PutChange] = api.Done("drained", "1.2")
    peer.answers[api.GetGateways] = views(-1, "draining", counted=False)
    ran = halbctl("--timeout", "0.3", "gateway", "drain", "rdp", "gw1", "--wait")
    assert ran.code == ExitCode.TIMED_OUT
    assert "waiting until 2" in ran.err
    assert "gateway rdp/gw1 may still have connections: nobody counts them" in ran.err
    assert "?" not in ran.err


@pytest.mark.parametrize(
    "argv",
    [
        ("gateway", "drain", "rdp", "gw1", "--wait"),
        ("gateway", "remove", "rdp", "gw1", "--drain", "1h"),
        ("device", "drain", "a", "--wait"),
    ],
)
def test_a_change_and_the_wait_for_it_share_the_time_that_the_operator_gave(
    peer: Peer, halbctl: Halbctl, argv: tuple[str, ...]
) -> None:
    def slowly(_: object) -> api.Done:
        time.sleep(0.3)
        return api.Done("drained", "1.2")

    peer.answers[api.PutChange] = slowly
    ran = halbctl("--timeout", "1.4", *argv)
    assert ran.code == ExitCode.UNREACHABLE
    seconds = re.search(r"did not answer within ([0-9.]+) s", ran.err)
    assert seconds is not None
    assert float(seconds[1]) < 1.2


@pytest.mark.parametrize(("option", "seconds"), [(("--force",), 0), (("--drain", "10m"), 600)])
def test_a_gateway_is_emptied_and_then_removed(
    peer: Peer, halbctl: Halbctl, option: tuple[str, ...], seconds: int
) -> None:
    peer.answers[api.PutChange] = api.Done("done", "1.2")
    peer.answers[api.GetGateways] = views(0, "draining")
    before = int(time.time())
    ran = halbctl("gateway", "remove", "rdp", "gw1", *option, "--if-revision", "1.1")
    assert ran.code == 0
    assert "gw1 has no connections" in ran.err
    trial, drain, removal = peer.wait_for(api.PutChange, 3)
    assert (trial.change, trial.dry_run) == (removal.change, True)
    assert (drain.change.state, drain.if_revision) == ("draining", "1.1")
    assert before + seconds <= drain.change.drain_until <= int(time.time()) + seconds
    assert removal.change == RemoveGateway("rdp", "gw1")
    assert removal.force


def test_who_interrupts_a_removal_is_told_that_the_gateway_stays_drained(
    peer: Peer, halbctl: Halbctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    peer.answers[api.PutChange] = api.Done("drained", "1.2")
    peer.answers[api.GetGateways] = views(3, "draining")
    monkeypatch.setattr("halbctl.draining.time.sleep", interrupted)
    ran = halbctl("gateway", "remove", "rdp", "gw1", "--drain", "10m")
    assert ran.code == 130
    assert "gw1 was drained, and is not removed: the same command goes on" in ran.err


@pytest.mark.parametrize("option", [("--force",), ("--drain", "10m")])
def test_a_gateway_that_may_not_be_removed_is_not_drained_either(
    peer: Peer, halbctl: Halbctl, option: tuple[str, ...]
) -> None:
    peer.answers[api.PutChange] = lambda op: (
        api.Failure(ExitCode.USAGE, "VIP 10.77.0.100 would have no gateway of IPv4", "")
        if isinstance(op.change, RemoveGateway)
        else api.Done("drained", "1.2")
    )
    peer.answers[api.GetGateways] = views(0, "draining")
    assert halbctl("gateway", "remove", "rdp", "gw1", *option).code == 2
    assert peer.only(api.PutChange).dry_run


@pytest.mark.parametrize(
    "words",
    [
        ("gateway", "remove", "rdp", "gw1", "--force", "--drain", "10m"),
        ("--local", "gateway", "remove", "rdp", "gw1", "--force"),
    ],
)
def test_what_contradicts_itself_is_not_removed(
    peer: Peer, halbctl: Halbctl, words: tuple[str, ...]
) -> None:
    assert halbctl(*words).code == 2
    assert not peer.requests


def test_where_nobody_counts_a_gateway_is_empty_once_it_is_disabled(
    peer: Peer, halbctl: Halbctl
) -> None:
    peer.answers[api.PutChange] = api.Done("done", "1.2")
    peer.answers[api.GetGateways] = views(-1, "disabled", counted=False)
    assert halbctl("gateway", "remove", "rdp", "gw1", "--force").code == 0
    assert len(peer.wait_for(api.PutChange, 3)) == 3


def test_a_gateway_is_not_empty_because_its_connections_are_not_known_now(
    peer: Peer, halbctl: Halbctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "PAUSE_S", 0.01)
    peer.answers[api.PutChange] = api.Done("done", "1.2")
    looks = [views(-1, "disabled"), views(-1, "disabled"), views(3, "disabled")]
    peer.answers[api.GetGateways] = lambda _: looks.pop(0) if looks else views(0, "disabled")
    ran = halbctl("gateway", "remove", "rdp", "gw1", "--force")
    assert ran.code == 0
    assert "gw1: 3 connections left" in ran.err


def test_a_device_is_waited_for_until_it_is_primary_of_nothing(
    peer: Peer, halbctl: Halbctl
) -> None:
    peer.answers[api.PutChange] = api.Done("drained", "1.2")
    peer.answers[api.GetStatus] = recorded.EMPTY
    ran = halbctl("device", "drain", "a", "--wait")
    assert ran.code == 0
    assert "a is primary of nothing" in ran.err
    assert peer.only(api.PutChange).change == SetDevice("a", True)
