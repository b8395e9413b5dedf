"""Each thing that goes wrong: one sentence, one remedy, the documented exit code."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from halbctl import client
from halbctl.__main__ import run
from halbctl.client import _look
from halbctl.errors import Waiting
from protocol import api
from protocol.errors import ExitCode
from tests.cli import recorded
from tests.cli.conftest import Halbctl
from tests.cli.peer import Peer


@pytest.mark.parametrize("code", [code for code in ExitCode if code])
def test_the_agents_refusal_becomes_the_exit_code(
    peer: Peer, halbctl: Halbctl, code: ExitCode
) -> None:
    peer.answers[api.PutChange] = api.Failure(int(code), "device 'z' is not known", "Look again.")
    ran = halbctl("device", "drain", "z")
    assert ran == (code, "", "halb: error: device 'z' is not known\nhint: Look again.\n")


def test_an_unknown_exit_code_is_a_failure(peer: Peer, halbctl: Halbctl) -> None:
    peer.answers[api.GetStatus] = api.Failure(99, "something new", "")
    assert halbctl("status") == (1, "", "halb: error: something new\n")


def test_without_an_agent(halbctl: Halbctl, run_dir: Path) -> None:
    ran = halbctl("status", "--timeout", "0.2")
    assert ran.code == ExitCode.UNREACHABLE
    assert ran.out == ""
    assert f"does not run here: {run_dir}/control.sock does not exist" in ran.err
    assert "hint: Start it with `systemctl start halb-agent`" in ran.err


def test_a_socket_that_a_dead_agent_left(halbctl: Halbctl, run_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(run_dir / "control.sock"))
    ran = halbctl("status", "--timeout", "0.5")
    assert ran.code == ExitCode.UNREACHABLE
    assert "nobody listens" in ran.err


def test_an_agent_that_hangs(peer: Peer, halbctl: Halbctl) -> None:
    ran = halbctl("status", "--timeout", "0.4")
    assert ran.code == ExitCode.UNREACHABLE
    assert "did not answer within 0.4 s" in ran.err


@pytest.mark.parametrize(
    "argv",
    [
        ("device", "drain", "b"),
        ("promote", "rdp", "--wait"),
        ("token", "create"),
        ("failover", "rdp", "--force"),
        ("leave",),
    ],
)
def test_a_change_does_not_wait_longer_either(
    peer: Peer, halbctl: Halbctl, argv: tuple[str, ...]
) -> None:
    ran = halbctl(*argv, "--timeout", "0.4")
    assert ran.code == ExitCode.UNREACHABLE
    assert "did not answer within 0.4 s" in ran.err
    assert "do later what was asked" in ran.err


def test_an_agent_that_ends_may_have_made_the_change(
    peer: Peer, halbctl: Halbctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "GRACE_S", 0.2)
    peer.ends = True
    ran = halbctl("device", "drain", "b")
    assert ran.code == ExitCode.UNREACHABLE
    assert "the agent ended before it answered" in ran.err
    assert "may have been done" in ran.err
    assert peer.only(api.PutChange)


def test_an_agent_that_does_not_run_has_done_nothing(
    halbctl: Halbctl, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "GRACE_S", 0.2)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(run_dir / "control.sock"))
    ran = halbctl("device", "drain", "b")
    assert ran.code == ExitCode.UNREACHABLE
    assert "nobody listens" in ran.err
    assert "may have been done" not in ran.err


def test_an_agent_that_just_starts_is_waited_for(
    halbctl: Halbctl, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Peer(run_dir / "control.sock")
    late.answers[api.GetStatus] = recorded.BUSY
    looks = iter(range(2))

    def look(control: str) -> None:
        if next(looks, None) is None and not late.path.exists():
            late.__enter__()
        _look(control)

    monkeypatch.setattr(client, "_look", look)
    ran = halbctl("status", "--timeout", "30")
    late.__exit__()
    assert (ran.code, ran.err) == (0, "")
    assert next(looks, None) is None, "it looked again and again"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user, which only root may become")
def test_a_user_outside_the_group(run_dir: Path) -> None:
    import halbctl.client
    import halbctl.commands.status  # noqa: F401 (imported while files are readable)

    run_dir.chmod(0o755)
    path = run_dir / "control.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        path.chmod(0o660)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.dup2(writer, 2)
            import sys

            sys.stderr = os.fdopen(2, "w", buffering=1)
            os._exit(run(["status", "--control", str(path)]))
        os.close(writer)
        with os.fdopen(reader) as err:
            said = err.read()
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == ExitCode.UNREACHABLE
    assert f"you may not use {path}" in said
    assert "usermod -aG halb" in said


def test_an_agent_of_another_version(run_dir: Path, halbctl: Halbctl) -> None:
    with Peer(run_dir / "control.sock", version=2) as newer:
        newer.answers[api.GetStatus] = recorded.EMPTY
        ran = halbctl("status")
    assert ran.code == ExitCode.FAILED
    assert "speaks version 2 of the control API, this halbctl version 1" in ran.err


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x80", b"HTTP/1.1 400"])
def test_something_else_behind_the_socket(peer: Peer, halbctl: Halbctl, garbage: bytes) -> None:
    peer.garbage = garbage
    ran = halbctl("status")
    assert ran.code == ExitCode.FAILED
    assert "does not speak like halb-agent" in ran.err


def test_a_path_that_no_socket_can_have(halbctl: Halbctl) -> None:
    for path in ("/" + "x" * 200, "/tmp/\0x"):
        ran = halbctl("status", "--control", path, "--timeout", "0.1")
        assert ran.code in (ExitCode.USAGE, ExitCode.UNREACHABLE)
        assert ran.err.startswith("halb: error: ")


def test_version_needs_no_agent(halbctl: Halbctl) -> None:
    ran = halbctl("version", "--timeout", "0.1")
    assert ran.code == 0
    assert ran.out.startswith("halbctl ")
    assert "does not run here" in ran.err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("statu",), "No such command 'statu'. Did you mean 'status'?"),
        (("vs", "creat"), "Did you mean 'create'?"),
        (("status", "--bogus"), "No such option: --bogus"),
        (("init",), "Missing argument 'SITE'"),
        (("status", "-o", "xml"), "--output 'xml' is not known"),
        (("status", "--timeout", "0"), "--timeout 0 is out of range"),
        (("status", "--timeout", "nan"), "--timeout nan is out of range"),
        (("status", "--watch", "--interval", "nan"), "nan is no number of seconds"),
        (("top", "--interval", "nan"), "nan is no number of seconds"),
        (("top", "--interval", "inf"), "is not in the range"),
        (("--timeout", "soon", "status"), "'soon' is not a valid float"),
        (("join",), "a token is needed, once"),
        (("join", "x", "--token-file", "y"), "a token is needed, once"),
        (("join", "--token-file", "/nonexistent"), "the token cannot be read"),
        (("gateway", "set", "rdp", "gw1"), "nothing to set"),
        (("gateway", "add", "rdp", "gw1"), "gateway 'gw1' is not NAME=ADDRESS[:WEIGHT]"),
        (("gateway", "add", "rdp", "g=[fd::1:2"), "brackets that do not enclose"),
        (("gateway", "add", "rdp", "g=1.2.3.4:x"), "has 'x' for a weight"),
        (("vs", "create", "x", "--tcp", "http"), "--tcp 'http' is not a port"),
        (("vs", "create", "x", "--profile", "snail"), "'snail' is not one of"),
        (("token", "create", "--ttl", "5 weeks"), "`--ttl` is '5 weeks', no duration"),
        (("vs", "delete", "x", "--if-revision", "7"), "revision '7' is not TERM.N"),
        (("apply", "-f", "/nonexistent"), "/nonexistent: No such file"),
    ],
)
def test_a_wrong_command_line(halbctl: Halbctl, argv: tuple[str, ...], says: str) -> None:
    ran = halbctl(*argv)
    assert ran.code == ExitCode.USAGE
    assert ran.out == ""
    assert ran.err.startswith("halb: error: ")
    assert says in ran.err


def test_a_wrong_command_line_is_told_what_it_could_be(halbctl: Halbctl) -> None:
    ran = halbctl("gateway", "drain", "rdp/gw1")
    assert ran.err.splitlines() == [
        "halb: error: Missing argument 'GATEWAY'",
        "hint: Use `halbctl gateway drain [OPTIONS] {VS} {GATEWAY}`; `--help` says more.",
    ]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("token", "create", "--uses", "1" * 30), "out of range"),
        (("gateway", "set", "rdp", "gw1", "--weight", "1" * 30), "out of range"),
        (("explain", "\udcff"), "can't encode"),
        (("vs", "freeze", "\udcff"), "can't encode"),
    ],
)
def test_what_no_request_can_say(
    peer: Peer, halbctl: Halbctl, argv: tuple[str, ...], says: str
) -> None:
    ran = halbctl(*argv)
    assert ran.code == ExitCode.USAGE
    assert ran.err.startswith("halb: error: the request cannot be sent: ")
    assert says in ran.err
    assert "\nhint: " in ran.err
    assert peer.requests == []


def test_a_wrong_environment(halbctl: Halbctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALB_OUTPUT", "xml")
    assert "HALB_OUTPUT 'xml' is not known" in halbctl("status").err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("vs", "show", "rdb"), "no Virtual Server is named 'rdb'\nhint: Did you mean 'rdp'?"),
        (("device", "show", "z"), "no device is named 'z'\nhint: Known: a, b, w."),
    ],
)
def test_an_unknown_name(peer: Peer, halbctl: Halbctl, argv: tuple[str, ...], says: str) -> None:
    peer.answers[api.GetStatus] = recorded.BUSY
    ran = halbctl(*argv)
    assert (ran.code, ran.out) == (ExitCode.USAGE, "")
    assert says in ran.err


def test_a_group_without_a_command_prints_its_help(halbctl: Halbctl) -> None:
    ran = halbctl("gateway")
    assert ran.code == ExitCode.USAGE
    assert "undrain" in ran.err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("recover",), "--i-accept-two-primaries"),
        (("recover", "--i-accept-two-primaries"), "Add --yes"),
    ],
)
def test_recovery_needs_a_person_who_means_it(
    peer: Peer, halbctl: Halbctl, argv: tuple[str, ...], says: str
) -> None:
    peer.answers[api.GetStatus] = recorded.BUSY
    ran = halbctl(*argv)
    assert ran.code == 2
    assert says in ran.err
    assert not [r for r in peer.requests if isinstance(r.op, api.Recover)]


def test_an_agent_that_is_waited_for_is_warned_of_once_for_each_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    waiting = Waiting()
    for why in ("it is away", "it is away", "it hangs"):
        waiting.lost(why)
    waiting.back()
    waiting.lost("it hangs")
    told = ["it is away", "it hangs", "it hangs"]
    assert capsys.readouterr().err == "".join(
        f"halb: warning: {why}; waiting for it\n" for why in told
    )
