"""``explain`` and ``matrix`` as people read them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec
import pytest
from msgspec.structs import replace

from halbctl.commands.explain import explain_lines
from halbctl.output import Paint
from protocol import api, insight
from protocol.errors import ExitCode
from tests.cli import recorded
from tests.cli.conftest import Halbctl
from tests.cli.peer import Peer

EXPLANATION = insight.Explanation(
    virtual_server="rdp",
    device="a",
    primary="b",
    term=7,
    why="b was elected in term 7 because a majority missed the primary, with the votes of b, c",
    election=insight.ElectionTold(
        cause="a majority missed the primary",
        term=7,
        ago_s=42,
        predecessor="a",
        answers={"c": "would vote"},
        votes={"c": "voted for it"},
    ),
    confirmed_ms=31,
    step_down_ms=259,
    voters=3,
    majority=2,
    devices=(
        insight.ExplainedDevice("a", "secondary", 1, "", "", 7, "b", "b", 270, 30, 2, "1.9"),
        insight.ExplainedDevice("b", "primary", 2, "", "", 7, "b", "b", 260, 31, 2, "1.9"),
        insight.ExplainedDevice("c", "unknown", 3, "did not answer", "", 0, "", "", 0, -1, -1, ""),
    ),
    moves=("a ranks better, but `preempt` is off: it stays",),
)
MATRIX = insight.Matrix(
    device="a",
    devices=("a", "b", "c"),
    silent=("c",),
    links=(
        insight.MatrixLink("a", "b", 40, (0.0, 7.5), (0.31, 1.26)),
        insight.MatrixLink("a", "c", 61_000, (-1.0, -1.0), (-1.0, -1.0)),
    ),
)


def test_explain_tells_why_who_and_what_next(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.Explain] = EXPLANATION
    ran = halbctl("explain", "rdp")
    assert ran.code == 0
    assert peer.only(api.Explain) == api.Explain("rdp")
    assert (
        ran.out
        == """\
b was elected in term 7 because a majority missed the primary, with the votes of b, c
  confirmed by 2 of 3 voters 31 ms ago; without an ack it gives up in 259 ms
  elected 42 s ago in term 7, after a
  asked before: c would vote
  votes: c voted for it

DEVICE  ROLE       RANK  LACKS           GATEWAYS UP  PROMISE       VOTED FOR  TERM  HEARD PRIMARY
a       secondary     1  nothing                   2  to b, 270 ms  b             7  30 ms ago
b       primary       2  nothing                   2  to b, 260 ms  b             7  31 ms ago
c       unknown       3  did not answer            ?

-> a ranks better, but `preempt` is off: it stays
warning: c did not answer in time; --timeout waits longer for it
"""
    )


def test_in_80_columns_the_table_of_an_explanation_does_not_wrap() -> None:
    found = json.loads(msgspec.json.encode(EXPLANATION))
    lines = explain_lines(found, Paint(False, 80))
    table = lines[lines.index("") + 1 :][:4]
    assert table[0].startswith("DEVICE  ROLE       RANK  LACKS ")
    assert max(map(len, table)) <= 80


def test_the_matrix_has_a_line_per_direction(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.GetMatrix] = MATRIX
    ran = halbctl("matrix")
    assert ran.code == 0
    assert (
        ran.out
        == """\
HEARS  OF  LAST HEARD    LOSS         ROUND TRIP p50  p99
a      b   40 ms ago     0 % / 7.5 %  0.3 ms          1.3 ms
a      c   61000 MS AGO  ? / ?        ?               ?
warning: c did not answer in time; --timeout waits longer for it
"""
    )


@pytest.mark.parametrize(("seconds", "patience"), [("1", 0.75), ("8", 7.5)])
def test_how_long_the_devices_may_take_is_for_the_operator_to_say(
    peer: Peer, halbctl: Halbctl, seconds: str, patience: float
) -> None:
    peer.answers[api.Explain] = EXPLANATION
    peer.answers[api.GetMatrix] = MATRIX
    peer.answers[api.GetGateways] = insight.Gateways("rdp", "a", "b", ())
    for words in (("explain", "rdp"), ("matrix",), ("gateway", "list", "rdp")):
        assert halbctl(*words, "--timeout", seconds).code == 0
    asked = [request.op for request in peer.requests]
    assert asked == [
        api.Explain("rdp", patience),
        api.GetMatrix(patience),
        api.GetGateways("rdp", patience),
    ]


def test_events_are_lines_and_followed_events_come_once(
    peer: Peer, halbctl: Halbctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.answers[api.GetHistory] = recorded.HISTORY
    lines = halbctl("events", "rdp").out.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("b fell silent")
    assert json.loads(halbctl("events", "-o", "json").out.splitlines()[1])["kind"] == "drained"

    def rest(_: float) -> None:
        if len(peer.wait_for(api.GetHistory)) >= 5:
            raise KeyboardInterrupt

    monkeypatch.setattr("halbctl.commands.history.time.sleep", rest)
    assert len(halbctl("events", "-f").out.splitlines()) == 2


@pytest.mark.parametrize(("came", "told"), [(150, 150), (201, 201), (999, 999), (1300, 1000)])
def test_followed_events_are_all_told_or_are_said_to_be_missing(
    peer: Peer, halbctl: Halbctl, monkeypatch: pytest.MonkeyPatch, came: int, told: int
) -> None:
    """A device with many Virtual Servers dies, and each of them moves."""
    first = recorded.HISTORY.entries[0]
    entries = [replace(first, term=number) for number in range(500)]
    looks: list[int] = []

    def history(asked: api.GetHistory) -> api.History:
        looks.append(asked.limit)
        if len(looks) == 3:
            entries.extend(replace(first, term=500 + number) for number in range(came))
        return api.History(tuple(entries[-1000:][-asked.limit :]))

    def rest(_: float) -> None:
        if len(looks) >= 5:
            raise KeyboardInterrupt

    peer.answers[api.GetHistory] = history
    monkeypatch.setattr("halbctl.commands.history.time.sleep", rest)
    ran = halbctl("events", "-f", "-n", "20", "-o", "json")
    terms = [json.loads(line)["term"] for line in ran.out.splitlines()]
    assert terms == [*range(480, 500), *range(500 + came - told, 500 + came)]
    assert ("events before these are not shown" in ran.err) is (told < came)


def test_followed_events_wait_for_an_agent_that_goes_away(
    peer: Peer, halbctl: Halbctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = api.Failure(ExitCode.UNREACHABLE, "the agent is away", "")
    first, second = recorded.HISTORY.entries
    answers: Iterator[api.History | api.Failure]
    answers = iter([api.History((first,)), away, away, api.History((first, second))])
    peer.answers[api.GetHistory] = lambda _: next(answers)

    def rest(_: float) -> None:
        if len(peer.wait_for(api.GetHistory)) >= 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("halbctl.commands.history.time.sleep", rest)
    ran = halbctl("events", "-f", "-o", "json")
    assert [json.loads(line)["kind"] for line in ran.out.splitlines()] == [first.kind, second.kind]
    assert ran.err == "halb: warning: the agent is away; waiting for it\n"
    assert ran.code == 130


def test_events_of_an_agent_that_is_not_there_are_an_error(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.GetHistory] = api.Failure(ExitCode.UNREACHABLE, "the agent is away", "")
    assert halbctl("events", "-f").code == ExitCode.UNREACHABLE


def test_both_are_data_too(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.Explain] = EXPLANATION
    peer.answers[api.GetMatrix] = MATRIX
    explained = json.loads(halbctl("explain", "rdp", "--output", "json").out)
    assert explained["devices"][2]["lacks"] == "did not answer"
    assert json.loads(halbctl("matrix", "-o", "json").out)["links"][0]["loss"] == [0.0, 7.5]


TRACED = insight.Traced(
    virtual_server="web",
    device="a",
    primary="b",
    client="192.0.2.7:51000",
    vip="192.0.2.100",
    listener="tcp/443",
    gateway="gw1",
    address="192.0.2.31",
    how="slot",
    slot=7,
    why=("no connection entry: the rules for a new flow decide", "hash: slot 7 of 256, gw1's"),
)


def test_trace_tells_where_a_flow_goes_and_why(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.Trace] = TRACED
    ran = halbctl("trace", "192.0.2.7:51000", "web:443")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "192.0.2.7:51000 -> 192.0.2.100 tcp/443 goes to gw1 (192.0.2.31)",
        "  no connection entry: the rules for a new flow decide",
        "  hash: slot 7 of 256, gw1's",
        "  as a would do it; the primary is b",
    ]


def test_trace_names_the_vip_that_the_connection_is_to(peer: Peer, halbctl: Halbctl) -> None:
    told = {"how": "connection", "slot": None, "connection_vip": "192.0.2.101"}
    peer.answers[api.Trace] = msgspec.structs.replace(TRACED, **told)
    people = halbctl("trace", "192.0.2.7:51000", "web:443").out
    assert people.startswith("192.0.2.7:51000 -> 192.0.2.101 tcp/443 goes to gw1")
    data = json.loads(halbctl("trace", "192.0.2.7:51000", "web:443", "-o", "json").out)
    assert (data["vip"], data["connection_vip"]) == ("192.0.2.100", "192.0.2.101")


@pytest.mark.parametrize(
    ("client", "target"),
    [("192.0.2.7", "web"), ("fd00::1:80", "web"), (":80", "web"), ("192.0.2.7:80", "web:x")],
)
def test_a_flow_that_is_not_one_is_refused(
    peer: Peer, halbctl: Halbctl, client: str, target: str
) -> None:
    ran = halbctl("trace", client, target)
    assert ran.code == 2
