"""What an operator sees, line by line."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from halbctl.commands.explain import matrix_lines
from halbctl.commands.history import timeline
from halbctl.output import Paint, clean, sentence, table
from halbctl.screens import (
    age,
    device_table,
    status_screen,
    virtual_server_block,
    virtual_server_table,
)
from halbctl.watching import draw
from protocol import api, insight
from protocol.contacts import GetOperators, Operators
from tests.cli import recorded
from tests.cli.conftest import Halbctl
from tests.cli.peer import Peer

PLAIN = Paint(False)


def data(value: object) -> Any:
    return msgspec.to_builtins(value)


def seen(status: api.Status) -> str:
    return "\n".join(status_screen(data(status), recorded.NOW, PLAIN))


def test_vips_with_a_hardware_address_of_their_own_are_shown_with_it() -> None:
    rdp = msgspec.structs.replace(recorded.RDP, virtual_mac="ba:1b:00:00:00:aa")
    shown = seen(msgspec.structs.replace(recorded.BUSY, virtual_servers=(rdp,)))
    assert "  10.77.0.100/24  fd77::100/64  at ba:1b:00:00:00:aa   tcp/443 hash" in shown


def test_status_shows_each_part_of_the_site() -> None:
    assert (
        seen(recorded.BUSY)
        == """\
Site paris   revision 3.17   coordinator b   2 of 3 devices alive   as seen by a

mail   DOWN   NO PRIMARY   term 7   profile wan
  10.77.0.102/24   tcp/25 hash
  because no majority of its voters answers

rdp   ok   primary a for 3h 0m (since 2025-05-01 10:00:00Z)   term 4
  10.77.0.100/24  fd77::100/64   tcp/443 hash, udp/443->8443 source-hash
  DEVICE  ROLE       STATE  REASON
  a       primary    alive
  b       secondary  alive
  w       witness    DEAD   is a witness
  GATEWAY  ADDRESS     STATE  WEIGHT  CONNECTIONS
  gw1      10.77.0.31  up          2          120
  gw2      10.77.0.32  up          1           61

web   DEGRADED   primary b for 45s (since 2025-05-01 12:59:15Z)   term 2   profile fast
  10.77.0.101/24   tcp/80 hash
  because gateway gw3 is down: connection refused
  DEVICE  ROLE       STATE  ELIGIBLE  REASON
  b       primary    alive
  a       secondary  alive  no        cannot apply revision 3.17: disk full
  GATEWAY  ADDRESS     STATE     WEIGHT  CONNECTIONS  REASON
  gw1      10.77.0.31  up             1            9
  gw3      10.77.0.33  DOWN           1            0  connection refused
  gw4      10.77.0.34  draining       1            ?

DEVICE  STATE  MARK     PRIMARY OF  REVISION  VERSION  ADDRESSES                       ID
a       alive                    1  3.17      0.1.0    10.77.0.1:7480, 10.78.0.1:7480  0123456789abcdef
b       alive  drained           1  3.16      0.1.0    10.77.0.2:7480                  123456789abcdef0
w       DEAD   witness           0  3.12      0.1.0    10.77.0.3:7480                  23456789abcdef01

warning: the lease of web is not enforced by the kernel of device b (5.10)"""  # noqa: E501
    )


def test_a_site_without_a_coordinator_says_so() -> None:
    status = msgspec.structs.replace(recorded.EMPTY, coordinator=None)
    assert "NO COORDINATOR" in seen(status)


def test_a_new_site_says_what_comes_next() -> None:
    assert "halbctl vs create" in seen(recorded.EMPTY)


def test_colour_adds_nothing_but_colour() -> None:
    status = data(recorded.BUSY)
    coloured = status_screen(status, recorded.NOW, Paint(True))
    bare = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in coloured]
    assert bare == status_screen(status, recorded.NOW, PLAIN)
    assert any("\x1b[31" in line for line in coloured)


def test_no_control_character_of_a_reason_reaches_the_terminal() -> None:
    hostile = msgspec.structs.replace(recorded.EMPTY, warnings=("\x1b]0;x\x07 \x9b2J\r\n",))
    assert seen(hostile).endswith(r"warning: \x1b]0;x\x07 \x9b2J\r\n")
    assert clean("Straße 7") == "Straße 7"


def test_virtual_servers_as_a_table() -> None:
    lines = virtual_server_table(data(recorded.BUSY.virtual_servers), recorded.NOW, PLAIN)
    assert lines[0].split() == [
        "NAME", "STATE", "PRIMARY", "FOR", "TERM", "GATEWAYS", "VIPS", "LISTENERS",
    ]  # fmt: skip
    assert lines[1].startswith("mail  DOWN      none               7  0/0 up    10.77.0.102/24   ")
    assert lines[2].startswith("rdp   ok        a        3h 0m     4  2/2 up    10.77.0.100/24, fd")
    assert lines[2].endswith("  tcp/443 hash, udp/443->8443 source-hash")
    assert lines[3].startswith("web   DEGRADED  b        45s       2  1/3 up    10.77.0.101/24   ")


def test_devices_without_marks_have_no_column_for_them() -> None:
    lines = device_table(data(recorded.EMPTY.devices), "1.1", PLAIN)
    assert lines == [
        "DEVICE  STATE  PRIMARY OF  REVISION  VERSION  ADDRESSES       ID",
        "a       alive           0  1.1       0.1.0    10.77.0.1:7480  0123456789abcdef",
    ]


def test_in_80_columns_no_table_wraps() -> None:
    narrow = Paint(False, 80)
    servers = data(recorded.BUSY.virtual_servers)
    devices = device_table(data(recorded.BUSY.devices), "3.17", narrow)
    assert devices[0].endswith("  REVISION  ADDRESSES")
    for lines in (devices, virtual_server_table(servers, recorded.NOW, narrow)):
        assert max(map(len, lines)) <= 80


GATEWAYS = ["GATEWAY", "ADDRESS", "STATE", "WEIGHT", "CONNECTIONS", "REASON"]


def test_in_50_columns_what_matters_least_is_left_out() -> None:
    for room, titles in ((50, ["GATEWAY", "STATE", "CONNECTIONS", "REASON"]), (None, GATEWAYS)):
        servers = data(recorded.BUSY.virtual_servers)
        lines = virtual_server_block(servers[2], {}, recorded.NOW, Paint(False, room))
        (line,) = (line for line in lines if "GATEWAY" in line)
        assert line.split() == titles
    narrow = Paint(False, 50)
    link = {
        "hears": "a", "of": "b", "heard_ms": 12, "loss": [0, 0], "round_trip_ms": [0.3, 12.5]
    }  # fmt: skip
    matrix: Any = {"device": "a", "devices": ["a", "b"], "silent": [], "links": [link]}
    (line, _) = matrix_lines(matrix, narrow)
    assert line.split() == ["HEARS", "OF", "LAST", "HEARD", "LOSS", "ROUND", "TRIP", "p50"]
    assert len(line) <= 50


@pytest.mark.parametrize("room", [None, 40, 80])
def test_sentences_break_between_words(room: int | None) -> None:
    text = "its kernel does not know `update` " * 4 + "x" * 50
    lines = sentence(text, Paint(True, room), "note", "cyan", indent="  ")
    bare = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert " ".join(line.strip() for line in bare) == f"note {text}"
    assert bare[0].startswith("  note its")
    assert all(line.startswith("    ") for line in bare[1:])
    if room is None:
        assert len(lines) == 1
    else:
        assert all(len(line) <= room for line in bare if "x" * 50 not in line)


def test_a_short_screen_keeps_the_warnings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES", "11")
    monkeypatch.setenv("COLUMNS", "80")
    draw([*(f"line {n}" for n in range(20)), "warning: one", "warning: two"], last=2)
    drawn = [line.removeprefix("\x1b[K") for line in capsys.readouterr().out.split("\n")]
    assert drawn[1:10] == [
        *(f"line {n}" for n in range(1, 7)), "(13 more lines)", "warning: one", "warning: two",
    ]  # fmt: skip


def test_a_screen_shows_full_lines_to_their_end_and_cuts_longer_ones(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES", "11")
    monkeypatch.setenv("COLUMNS", "8")
    draw(["", "12345678", "\x1b[2m1234\x1b[0m567890", "\x1b[1m1234567890\x1b[0m"])
    _, *lines, _ = capsys.readouterr().out.split("\n")
    assert lines == [
        "\x1b[K12345678",
        "\x1b[K\x1b[2m1234\x1b[0m5678",
        "\x1b[K\x1b[1m12345678\x1b[0m",
    ]


def test_in_80_columns_no_line_of_a_virtual_server_wraps() -> None:
    many = tuple(api.ListenerStatus("tcp", port, port, "hash") for port in range(7001, 7009))
    rdp = msgspec.structs.replace(recorded.RDP, listeners=many, notes=("a note of words " * 9,))
    lines = virtual_server_block(data(rdp), {}, recorded.NOW, Paint(False, 80))
    assert max(map(len, lines)) <= 80
    assert lines[1] == "  10.77.0.100/24  fd77::100/64"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (59.9, "59s"), (60, "1m 0s"), (3599, "59m 59s"), (3600, "1h 0m"),
     (86_399, "23h 59m"), (90_000, "1d 1h")],
)  # fmt: skip
def test_ages_have_two_units(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_a_table_without_rows_has_no_titles() -> None:
    assert table(("A", "B"), [], PLAIN) == []


NOTHING: dict[type[api.Op], api.Result] = {
    api.GetStatus: recorded.EMPTY,
    api.GetHistory: api.History(()),
    api.GetConflicts: api.Conflicts(()),
    api.GetMatrix: insight.Matrix("a", ("a",), (), ()),
    api.GetGateways: insight.Gateways("rdp", "a", "a", ()),
    api.ListTokens: api.Tokens(()),
    GetOperators: Operators(()),
}


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("vs", "list"), "no Virtual Servers: `halbctl vs create` or `halbctl apply` makes some"),
        (("gateway", "list", "rdp"), "no gateways of rdp: `halbctl gateway add` adds one"),
        (("token", "list"), "no tokens: `halbctl token create` makes one"),
        (("operator", "list"), "no operators: `halbctl operator create` lets one in"),
        (("history",), "no events"),
        (("history", "rdp"), "no events of rdp"),
        (("events",), "no events"),
        (("conflicts",), "no conflicts: this device gave up no edit"),
        (("matrix",), "no links: a is the only device"),
    ],
)
def test_where_there_is_nothing_a_sentence_says_so_beside_the_data(
    peer: Peer, halbctl: Halbctl, argv: tuple[str, ...], says: str
) -> None:
    peer.answers.update(NOTHING)
    assert halbctl(*argv) == (0, "", f"{says}\n")
    for output in ("json", "yaml"):
        ran = halbctl(*argv, "-o", output)
        assert (ran.code, ran.err) == (0, "")


def test_milliseconds_are_digits_however_long_it_took() -> None:
    timed = {"detection": 14_491.2, "election": 1_000.4, "lease": 0.4149, "total": 15_492.0}
    shown = "15492 ms = detection 14491 + election 1000 + lease 0.4149"
    assert timeline({**timed, "verification": 999.96}) == f"{shown}, verified 1000 ms later"


def test_history_shows_the_milliseconds_of_each_phase(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.GetHistory] = recorded.HISTORY
    ran = halbctl("history", "rdp", "-n", "5")
    assert ran.code == 0
    titles, takeover, drained = ran.out.splitlines()
    assert titles.split() == ["TIME", "VS", "EVENT", "DEVICE", "TERM", "TOOK", "WHAT"]
    head = "2025-05-01 10:00:00.123Z  rdp  takeover  a          4  286.7 ms  b fell silent: "
    assert takeover.startswith(head)
    assert "detection 251.2 + election 31.9 + lease 0.41 + announcement 3.2" in takeover
    assert drained.split() == [
        "2025-05-01", "10:01:40.000Z", "drained", "b", "by", "an", "operator",
    ]  # fmt: skip
    assert peer.only(api.GetHistory) == api.GetHistory("rdp", 5)
