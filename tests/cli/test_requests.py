"""What each command line asks the agent for."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from halbctl.commands.promote import moment
from protocol import api, changes
from protocol.document import VirtualServerDocument
from protocol.gateway_document import GatewayDocument
from protocol.listener_document import ListenerDocument
from protocol.objects import Check
from protocol.timing import Profile
from tests.cli import recorded
from tests.cli.conftest import Halbctl
from tests.cli.peer import Peer


@pytest.fixture(autouse=True)
def _answers(peer: Peer) -> None:
    for kind in (api.Init, api.Join, api.Leave, api.PutChange, api.PromoteTo, api.Recover):
        peer.answers[kind] = recorded.DONE
    peer.answers[api.GetStatus] = recorded.BUSY


@pytest.mark.parametrize(
    ("argv", "op"),
    [
        (("init", "paris"), api.Init("paris")),
        (("join", "halb1-x"), api.Join("halb1-x")),
        (("leave",), api.Leave()),
        (("leave", "--force", "--yes"), api.Leave(True)),
        (
            ("recover", "--i-accept-two-primaries", "--yes", "--device", "a"),
            api.Recover("paris", ("a",)),
        ),
        (("promote", "rdp"), api.PromoteTo("rdp")),
        (("promote", "rdp", "--to", "b", "--wait"), api.PromoteTo("rdp", "b", True)),
        (("promote", "rdp", "--wait", "--timeout", "3"), api.PromoteTo("rdp", None, True, 3.0)),
    ],
)
def test_requests(peer: Peer, halbctl: Halbctl, argv: tuple[str, ...], op: api.Op) -> None:
    assert halbctl(*argv).code == 0
    assert [r.op for r in peer.requests if not isinstance(r.op, api.GetStatus)] == [op]
    assert peer.requests[0].v == api.API_VERSION


@pytest.mark.parametrize(
    ("text", "unix_s"),
    [
        ("+90s", 1_090),
        ("+2h", 8_200),
        ("1970-01-01T01:00", 3_600),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:30Z", 1_800),
    ],
)
def test_times_of_planned_moves(text: str, unix_s: int) -> None:
    assert moment(text, 999.5) == unix_s


def test_a_planned_move_is_a_change(peer: Peer, halbctl: Halbctl) -> None:
    ran = halbctl("promote", "rdp", "--to", "b", "--at", "2040-01-01T01:00+01:00")
    assert ran.code == 0
    assert ran.err.splitlines()[-1] == "rdp moves to b at 2040-01-01 00:00:00Z"
    assert halbctl("promote", "rdp", "--cancel").code == 0
    plan, cancelled = peer.wait_for(api.PutChange, 2)
    expected = changes.PlanMove("rdp", "b", 2_208_988_800, plan.change.id)
    assert [plan.change, cancelled.change] == [expected, changes.CancelMove("rdp")]


@pytest.mark.parametrize(
    "argv",
    [("--at", "soon"), ("--at", "+1x"), ("--at", "+9s", "--wait"), ("--cancel", "--to", "b")],
)
def test_plans_that_make_no_sense(peer: Peer, halbctl: Halbctl, argv: tuple[str, ...]) -> None:
    assert halbctl("promote", "rdp", *argv).code == 2
    assert not peer.requests


@pytest.mark.parametrize(
    ("argv", "change"),
    [
        (("device", "drain", "b"), changes.SetDevice("b", True)),
        (("device", "undrain", "b"), changes.SetDevice("b", False)),
        (("device", "remove", "b"), changes.RemoveDevice("b")),
        (("device", "rename", "b", "berlin"), changes.RenameDevice("b", "berlin")),
        (("device", "replace", "b", "--by", "d"), changes.ReplaceDevice("b", "d")),
        (("token", "revoke", "t1"), changes.RevokeToken("t1")),
        (("vs", "delete", "rdp"), changes.DeleteVirtualServer("rdp")),
        (("vs", "freeze", "rdp"), changes.FreezeVirtualServer("rdp", True)),
        (("vs", "unfreeze", "rdp"), changes.FreezeVirtualServer("rdp", False)),
        (
            ("gateway", "add", "rdp", "gw5=10.77.0.35"),
            changes.AddGateway("rdp", GatewayDocument(name="gw5", address="10.77.0.35")),
        ),
        (
            ("gateway", "add", "rdp", "gw6=[fd77::36]:0"),
            changes.AddGateway("rdp", GatewayDocument(name="gw6", address="fd77::36", weight=0)),
        ),
        (
            ("gateway", "add", "rdp", "gw6=fd77::36"),
            changes.AddGateway("rdp", GatewayDocument(name="gw6", address="fd77::36")),
        ),
        (("gateway", "remove", "rdp", "gw1"), changes.RemoveGateway("rdp", "gw1")),
        (("gateway", "drain", "rdp", "gw1"), changes.SetGateway("rdp", "gw1", "draining")),
        (("gateway", "undrain", "rdp", "gw1"), changes.SetGateway("rdp", "gw1", "enabled")),
        (
            ("gateway", "set", "rdp", "gw1", "--weight", "0", "--state", "disabled"),
            changes.SetGateway("rdp", "gw1", "disabled", 0),
        ),
        (
            ("gateway", "set", "rdp", "gw1", "--no-backup", "--max-connections", "0"),
            changes.SetGateway("rdp", "gw1", backup=False, max_connections=0),
        ),
        (
            ("gateway", "add", "rdp", "gw5=10.77.0.35", "--backup", "--max-connections", "9"),
            changes.AddGateway(
                "rdp",
                GatewayDocument(name="gw5", address="10.77.0.35", backup=True, max_connections=9),
            ),
        ),
    ],
)
def test_changes(
    peer: Peer, halbctl: Halbctl, argv: tuple[str, ...], change: changes.Change
) -> None:
    assert halbctl(*argv).code == 0
    assert [request.op for request in peer.requests] == [api.PutChange(change)]


def test_break_glass_is_for_changes_only(peer: Peer, halbctl: Halbctl) -> None:
    assert halbctl("--local", "gateway", "drain", "rdp", "gw1").code == 0
    assert peer.only(api.PutChange).local
    assert halbctl("promote", "rdp", "--local").code == 2


def test_vs_create_takes_a_whole_virtual_server(peer: Peer, halbctl: Halbctl) -> None:
    ran = halbctl(
        *("vs", "create", "rdp", "--vip", "10.77.0.100/24", "--vip", "fd77::100/64"),
        *("--tcp", "443", "--tcp", "80:8080", "--udp", "443"),
        *("--gateway", "gw1=10.77.0.31:2", "--gateway", "gw2=[fd77::32]:3"),
        *("--device", "b", "--device", "a", "--witness", "w"),
        *("--profile", "fast", "--balance", "source-hash", "--if-revision", "3.17"),
    )
    assert ran.code == 0
    document = VirtualServerDocument(
        name="rdp",
        vips=("10.77.0.100/24", "fd77::100/64"),
        devices=("b", "a"),
        witnesses=("w",),
        profile=Profile.FAST,
        gateways=(
            GatewayDocument(name="gw1", address="10.77.0.31", weight=2),
            GatewayDocument(name="gw2", address="fd77::32", weight=3),
        ),
        listeners=(
            ListenerDocument(port=443, balance="source-hash", check=Check()),
            ListenerDocument(port=80, gateway_port=8080, balance="source-hash", check=Check()),
            ListenerDocument(protocol="udp", port=443, balance="source-hash"),
        ),
    )
    wanted = api.PutChange(changes.PutVirtualServer(document, "create"), "3.17")
    assert peer.only(api.PutChange) == wanted


def test_vs_create_takes_how_flows_are_shared(peer: Peer, halbctl: Halbctl) -> None:
    words = ("--balance", "least-connections", "--sticky", "30m", "--slow-start", "90s")
    assert halbctl("vs", "create", "x", "--vip", "10.0.0.1/24", "--tcp", "80", *words).code == 0
    document = peer.only(api.PutChange).change.document
    assert document.slow_start == 90
    assert [(each.balance, each.sticky) for each in document.listeners] == [
        ("least-connections", 1800)
    ]


def test_vs_create_and_edit_take_a_virtual_mac(peer: Peer, halbctl: Halbctl) -> None:
    halbctl("vs", "create", "x", "--vip", "10.0.0.1/24", "--virtual-mac", "auto")
    assert peer.only(api.PutChange).change.document.virtual_mac == "auto"


def test_checks_can_be_left_out(peer: Peer, halbctl: Halbctl) -> None:
    halbctl("vs", "create", "x", "--vip", "10.77.0.100/24", "--tcp", "80", "--no-check")
    assert peer.only(api.PutChange).change.document.listeners[0].check.type == "none"


def test_a_token_may_come_from_stdin_or_a_file(
    peer: Peer, halbctl: Halbctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("halb1-from-file\n")
    assert halbctl("join", "--token-file", str(tmp_path / "token")).code == 0
    for argv in (("join", "-"), ("join", "--token-file", "-")):
        reader, writer = os.pipe()
        os.write(writer, b"halb1-from-stdin\n")
        os.close(writer)
        saved = os.dup(0)
        os.dup2(reader, 0)
        try:
            assert halbctl(*argv).code == 0
        finally:
            os.dup2(saved, 0)
            os.close(saved)
            os.close(reader)
    joins = [request.op for request in peer.requests]
    assert joins == [api.Join("halb1-from-file"), *[api.Join("halb1-from-stdin")] * 2]


def test_each_request_has_an_id_of_its_own(peer: Peer, halbctl: Halbctl) -> None:
    for _ in range(3):
        halbctl("status")
    assert len({request.id for request in peer.requests}) == 3


def test_a_script_is_not_asked(
    peer: Peer, halbctl: Halbctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert halbctl("vs", "delete", "rdp").code == 0
    assert peer.only(api.PutChange).change == changes.DeleteVirtualServer("rdp")


def test_promote_tells_of_its_progress_on_stderr(peer: Peer, halbctl: Halbctl) -> None:
    ran = halbctl("promote", "rdp", "--to", "b", "--wait")
    assert ran == (0, "", "moving rdp to b ...\nstored by 2 of 3 devices\n")


def test_each_command_has_help(halbctl: Halbctl) -> None:
    from halbctl.app import AREAS

    whole = halbctl("--help")
    assert whole.code == 0
    for area, names in AREAS.items():
        for name in names or (area,):
            assert f"\n  {name} " in whole.out
            ran = halbctl(name, "--help")
            assert (ran.code, ran.err) == (0, "")
            assert ran.out.startswith(f"Usage: halbctl {name} ")


def test_no_summary_of_a_command_is_cut(halbctl: Halbctl) -> None:
    from halbctl.app import AREAS

    groups = [(area,) for area, names in AREAS.items() if not names]
    for words in ((), *groups):
        lines = halbctl(*words, "--help").out.splitlines()
        commands = lines[lines.index("Commands:") + 1 :]
        assert commands
        assert not [line for line in commands if line.endswith("...")]
