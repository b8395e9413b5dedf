"""``top`` and ``metrics`` as people and monitoring read them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from halbctl.output import Paint
from halbctl.traffic import short, traffic_lines
from protocol import api
from protocol.errors import ExitCode
from protocol.traffic import (
    Counters,
    GatewayTraffic,
    ListenerTraffic,
    Metrics,
    Traffic,
    VirtualServerTraffic,
)
from tests.cli import recorded
from tests.cli.conftest import Halbctl
from tests.cli.peer import Peer


def counters(at: int, number: int) -> Counters:
    one = Traffic(number, 0, 0, 4, 2.0, 10 * number, 1000 * number, 5 * number, 50_000 * number)
    all_of = Traffic(number, 3, 0, 4, 2.0, 10 * number, 1000 * number, 5 * number, 50_000 * number)
    listener = ListenerTraffic("tcp/443", all_of, (GatewayTraffic("gw1", one),))
    return Counters("a", at, (VirtualServerTraffic("web", True, all_of, (listener,)),))


TOTALS = """\
                    ACTIVE  NEW/s  CONNECTIONS  REFUSED  DROPPED  IN packets  OUT packets  IN bytes  OUT bytes
web (primary here)       4      2           40        3        0         400          200       40k       2.0M
  tcp/443                4      2           40        3        0         400          200       40k       2.0M
    gw1                  4      2           40        0        0         400          200       40k       2.0M

"""  # noqa: E501


def test_a_device_that_carries_nothing_says_so(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.GetCounters] = Counters("w", 1, ())
    assert halbctl("top", "--total", "-n", "1").out.strip() == "w carries no Virtual Server"


def test_top_prints_totals_once(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.GetCounters] = counters(1000, 40)
    ran = halbctl("top", "--total", "--count", "1")
    assert ran.code == 0
    assert ran.out == TOTALS


def test_a_virtual_server_is_shown_with_its_traffic_here(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.GetStatus] = recorded.BUSY
    counted = counters(1000, 40)
    (web,) = counted.virtual_servers
    servers = (web, msgspec.structs.replace(web, name="rdp", primary=False))
    peer.answers[api.GetCounters] = msgspec.structs.replace(counted, virtual_servers=servers)
    ran = halbctl("vs", "show", "rdp")
    assert "traffic through a, in total" in ran.out
    figures = ["4", "2", "40", "3", "0", "400", "200", "40k", "2.0M"]
    lines = [line.split() for line in ran.out.splitlines()]
    assert ["rdp", "(secondary", "here)", *figures] in lines
    assert ["tcp/443", *figures] in lines
    assert "web" not in ran.out
    assert not any("2.0M" in line for line in lines if line[:1] == ["gw1"])
    traffic = json.loads(halbctl("vs", "show", "rdp", "-o", "json").out)["traffic"]
    assert (traffic["device"], traffic["at"], traffic["primary"]) == ("a", 1000, False)
    assert traffic["traffic"]["connections"] == 40


def test_rates_are_between_two_looks() -> None:
    plain = [_plain(c) for c in (counters(1000, 40), counters(3000, 60))]
    lines = traffic_lines(plain[1], plain[0], Paint(False))
    assert lines[0].split()[:3] == ["ACTIVE", "NEW/s", "REFUSED/s"]
    figures = ["4", "10", "0", "0", "100", "50", "10k", "500k"]
    assert lines[1].split() == ["web", "(primary", "here)", *figures]


@pytest.mark.parametrize("total", [True, False])
@pytest.mark.parametrize("room", range(40, 130))
def test_no_line_is_longer_than_the_terminal_is_wide(total: bool, room: int) -> None:
    now, before = (_plain(counters(at, 40_000_000)) for at in (3000, 1000))
    lines = traffic_lines(now, None if total else before, Paint(False, room))
    assert max(map(len, lines)) <= room
    assert lines[0].split()[:1] == ["ACTIVE"]
    assert lines[1].startswith("web (primary here)")


def test_in_80_columns_what_is_refused_and_dropped_and_the_bytes_are_seen() -> None:
    now, before = (_plain(counters(at, 40_000_000)) for at in (3000, 1000))
    rates = traffic_lines(now, before, Paint(False, 80))
    assert rates[0].split("  ")[-1].strip() == "OUT B/s"
    assert "DROPPED/s" in rates[0]
    assert "pkt/s" not in rates[0]
    totals = traffic_lines(now, None, Paint(False, 80))
    assert "DROPPED" in totals[0]
    assert totals[0].endswith("OUT bytes")


def test_a_name_that_leaves_no_room_is_cut() -> None:
    now = _plain(counters(1000, 40))
    now["virtual_servers"][0]["name"] = "x" * 63
    lines = traffic_lines(now, None, Paint(False, 80))
    assert lines[1].startswith("x" * 24 + "… (primary here)")
    assert max(map(len, lines)) <= 80


def _plain(found: Counters) -> Any:
    return json.loads(msgspec.json.encode(found))


def test_top_as_json_is_one_line_per_look(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.GetCounters] = counters(1000, 40)
    ran = halbctl("top", "web", "--total", "-n", "1", "--output", "json")
    [line] = ran.out.splitlines()
    assert json.loads(line)["virtual_servers"][0]["traffic"]["connections"] == 40


def test_top_waits_for_an_agent_that_goes_away_and_takes_its_rates_anew(
    peer: Peer, halbctl: Halbctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = api.Failure(ExitCode.UNREACHABLE, "the agent is away", "")
    looks: list[Counters | api.Failure]
    looks = [
        counters(0, 70),
        counters(1000, 80),
        away,
        away,
        counters(4000, 20),
        counters(5000, 25),
    ]
    answers = iter(looks)
    peer.answers[api.GetCounters] = lambda _: next(answers)
    monkeypatch.setattr("halbctl.commands.traffic.time.sleep", lambda _: None)
    ran = halbctl("top", "-n", "2")
    rows = [line.split() for line in ran.out.splitlines() if line.startswith("web")]
    assert [row[4] for row in rows] == ["10", "5"]
    assert ran.err == "halb: warning: the agent is away; waiting for it\n"
    assert ran.code == 0


def test_top_of_an_agent_that_is_not_there_is_an_error(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.GetCounters] = api.Failure(ExitCode.UNREACHABLE, "the agent is away", "")
    assert halbctl("top").code == ExitCode.UNREACHABLE


def test_an_unknown_virtual_server_is_named_with_those_that_are(
    peer: Peer, halbctl: Halbctl
) -> None:
    peer.answers[api.GetCounters] = counters(1000, 40)
    ran = halbctl("top", "wed", "--total", "-n", "1")
    assert ran.code == 2
    assert "'wed'" in ran.err
    assert "web" in ran.err


def test_metrics_are_printed_as_they_come(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.GetMetrics] = Metrics("halb_warnings 0\n# EOF\n")
    assert halbctl("metrics").out == "halb_warnings 0\n# EOF\n"


@pytest.mark.parametrize(
    ("figure", "text"),
    [(0, "0"), (999, "999"), (999.6, "1.0k"), (1234, "1.2k"), (34_000_000, "34M"), (9.4e9, "9.4G")],
)
def test_figures_are_short(figure: float, text: str) -> None:
    assert short(figure) == text
