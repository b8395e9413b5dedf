"""``halbctl`` as a process: how it starts, streams, draws and ends."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest

from protocol import api
from protocol.control import WATCH_LEASE_S
from protocol.errors import Unreachable
from tests.cli import recorded
from tests.cli.peer import Peer
from tests.cli.test_traffic import counters

ROOT = Path(__file__).parents[2]


def environment(peer: Peer) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HALB_CONTROL": str(peer.path),
        "TERM": "xterm",
    }


def command(*argv: str) -> list[str]:
    # A shell starts what runs in the background with SIGINT ignored, the tests perhaps too.
    return ["env", "--default-signal=INT", sys.executable, "-m", "halbctl", *argv]


@contextmanager
def on_a_terminal(
    peer: Peer, *argv: str, **more: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The process of a command, and the other end of its terminal."""
    main, terminal = pty.openpty()
    with subprocess.Popen(
        command(*argv), env=environment(peer) | more,
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    ) as running:  # fmt: skip
        yield running, main
    os.close(terminal)
    os.close(main)


def read_until(fd: int, text: str, within: float = 20.0) -> str:
    """What ``fd`` gives until ``text`` appears."""
    deadline = monotonic() + within
    seen = ""
    while text not in seen:
        assert select.select([fd], [], [], deadline - monotonic())[0], f"no {text!r} in {seen!r}"
        part = os.read(fd, 65536)
        assert part, f"no {text!r} in {seen!r}"
        seen += part.decode()
    return seen


def test_status_imports_nothing_that_it_does_not_need(peer: Peer) -> None:
    peer.answers[api.GetStatus] = recorded.BUSY
    code = "import sys; from halbctl.__main__ import run; run(['status']);"
    ran = subprocess.run(
        [sys.executable, "-c", code + "print(*sys.modules, sep='\\n', file=sys.stderr)"],
        env=environment(peer), capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    imported = set(ran.stderr.splitlines())
    assert "halbctl.client" in imported
    costly = {"msgspec", "tenacity", "yaml", "rich", "asyncio", "pyroute2", "importlib.metadata"}
    assert imported.isdisjoint(costly)
    assert {name for name in imported if name.startswith("halbctl.commands.")} == {
        "halbctl.commands.status"
    }
    assert ran.stdout.startswith("Site paris")


def test_nor_does_status_from_afar(peer: Peer, tmp_path: Path) -> None:
    key = str(tmp_path / "none.key")
    code = "import sys; from halbctl.__main__ import run; run(['--key', sys.argv[1], 'status']);"
    ran = subprocess.run(
        [sys.executable, "-c", code + "print(*sys.modules, sep='\\n', file=sys.stderr)", key],
        env=environment(peer), capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    imported = set(ran.stderr.splitlines())
    assert "halbctl.remote" in imported
    costly = {"msgspec", "tenacity", "yaml", "rich", "asyncio", "importlib.metadata", "tempfile"}
    assert imported.isdisjoint(costly)


@pytest.mark.parametrize("argv", [("status",), ("status", "--watch")])
def test_a_reader_that_has_enough_is_no_error(peer: Peer, argv: tuple[str, ...]) -> None:
    peer.answers[api.GetStatus] = recorded.BUSY
    peer.answers[api.Watch] = [recorded.BUSY]
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        command(*argv), env=environment(peer), stdout=writer, stderr=subprocess.PIPE,
        text=True, check=False, timeout=30,
    )  # fmt: skip
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, "")


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_what_is_done_is_said_so_without_all_standard_streams(peer: Peer, closed: str) -> None:
    peer.answers[api.PutChange] = recorded.DONE
    ran = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command("vs", "delete", "web", "-o", "json")],
        env=environment(peer), capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["detail"] == recorded.DONE.detail


def test_without_standard_error_a_note_is_not_taken_for_data(peer: Peer) -> None:
    peer.answers[api.PutChange] = recorded.DONE
    ran = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *command("vs", "delete", "web")],
        env=environment(peer), capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "")


def test_an_interrupt_before_the_command_runs_is_no_traceback(peer: Peer) -> None:
    started = """
from halbctl import __main__
def interrupted(_):
    raise KeyboardInterrupt
__main__.run = interrupted
__main__.main()
"""
    ran = subprocess.run(
        [sys.executable, "-c", started],
        env=environment(peer), capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")


def test_a_full_disk_is_an_error(peer: Peer) -> None:
    peer.answers[api.GetStatus] = recorded.BUSY
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            command("status"), env=environment(peer), stdout=full, stderr=subprocess.PIPE,
            text=True, check=False, timeout=30,
        )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (1, "halb: error: stdout: No space left on device\n")


def test_watch_in_a_pipe_is_a_stream_of_json_lines(peer: Peer) -> None:
    peer.answers[api.Watch] = [recorded.EMPTY, recorded.BUSY]
    with subprocess.Popen(
        command("status", "--watch", "-o", "json", "--interval", "0.5"),
        env=environment(peer), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as running:  # fmt: skip
        assert running.stdout is not None
        lines = [json.loads(running.stdout.readline()) for _ in range(2)]
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=20)
    assert [line["revision"] for line in lines] == ["1.1", "3.17"]
    assert running.returncode == 130
    assert err == b""
    assert peer.only(api.Watch) == api.Watch(0.5)


def test_watch_in_a_pipe_is_a_stream_of_blocks(peer: Peer) -> None:
    peer.answers[api.Watch] = [recorded.EMPTY, recorded.EMPTY]
    with subprocess.Popen(
        command("status", "--watch"), env=environment(peer), stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        block = [running.stdout.readline() for _ in range(13)]
        running.kill()
    assert block[0].startswith(b"Site paris")
    assert block[7].startswith(b"Site paris")
    assert not any(b"\x1b" in line for line in block)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_watch_on_a_terminal_hands_it_back(peer: Peer, sent: signal.Signals, code: int) -> None:
    peer.answers[api.Watch] = [recorded.EMPTY, recorded.BUSY]
    with on_a_terminal(peer, "status", "--watch") as (running, main):
        drawn = read_until(main, "DEGRADED")
        assert drawn.startswith("\x1b[?25l\x1b[?7l\x1b[H\x1b[2J")
        assert "\x1b[?25h" not in drawn
        running.send_signal(sent)
        rest = read_until(main, "\x1b[?25h\x1b[?7h")
        assert "Traceback" not in rest
        assert running.wait(20) == code


def test_top_on_a_terminal_says_whose_traffic_it_is_and_since_when(peer: Peer) -> None:
    figures = iter((1000, 3000))
    peer.answers[api.GetCounters] = lambda _: counters(next(figures, 5000), 40)
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(
        command("top", "--interval", "0.5"), env=environment(peer),
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    ) as running:  # fmt: skip
        drawn = read_until(main, "gw1")
        assert "a   1970-01-01 00:00:03Z   per second, over 2.0 s" in drawn
        assert "DROPPED/s" in drawn
        assert "pkt/s" not in drawn
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 130
    os.close(terminal)
    os.close(main)


def test_watch_says_that_the_agent_is_gone_and_comes_back_with_it(peer: Peer) -> None:
    peer.answers[api.Watch] = [recorded.EMPTY]
    with subprocess.Popen(
        command("status", "--watch", "-o", "json", "--interval", "0.1", "--timeout", "0.4"),
        env=environment(peer), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stdout is not None
        assert running.stderr is not None
        first = running.stdout.readline()
        said = running.stderr.readline()
        second = running.stdout.readline()
        running.kill()
    assert first == second
    assert said.startswith("halb: warning: the agent did not answer within")


def test_a_long_watch_is_kept_alive(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    from halbctl import client

    monkeypatch.setattr(client, "WATCH_LEASE_S", 0.3)
    peer.answers[api.Watch] = [recorded.EMPTY, recorded.EMPTY]
    stream = client.watch(str(peer.path), {"op": "watch", "interval": 0.5}, 0.5, 0.5)
    next(stream)
    with pytest.raises(Unreachable):
        for _ in stream:
            pass
    assert peer.wait_for(api.KeepWatching)
    assert len({request.id for request in peer.requests}) == 1


def test_a_watch_whose_reader_stood_still_begins_anew(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halbctl import client

    stood = [0.0]
    monkeypatch.setattr(client, "monotonic", lambda: monotonic() + stood[0])
    peer.answers[api.Watch] = [recorded.EMPTY]
    stream = client.watch(str(peer.path), {"op": "watch", "interval": 0.5}, 0.5, 5.0)
    first = next(stream)
    stood[0] += WATCH_LEASE_S + 1
    assert next(stream) == first
    assert len(peer.wait_for(api.Watch, 2)) == 2


def test_colour_is_for_terminals_and_those_who_want_it(peer: Peer) -> None:
    peer.answers[api.GetStatus] = recorded.BUSY
    for extra, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        main, terminal = pty.openpty()
        with subprocess.Popen(
            command("status"), env=environment(peer) | extra, stdout=terminal
        ) as running:
            os.close(terminal)
            assert ("\x1b[" in read_until(main, "warning")) is coloured
            assert running.wait(20) == 0
        os.close(main)


def test_edit_in_an_editor_shows_the_difference_and_asks(peer: Peer, tmp_path: Path) -> None:
    peer.answers[api.Export] = api.Exported(recorded.DOCUMENT, "3.17")
    peer.answers[api.PutChange] = recorded.DONE
    more = {"EDITOR": "sed -i s/10.77.0.32/10.77.0.42/", "TMPDIR": str(tmp_path)}
    with on_a_terminal(peer, "vs", "edit", "rdp", **more) as (running, main):
        shown = read_until(main, "Apply this? [Y/n]: ")
        os.write(main, b"y\n")
        read_until(main, "stored by 2 of 3 devices")
        assert running.wait(20) == 0
    assert "address: 10.77.0.42" in shown
    put = peer.only(api.PutChange)
    assert (put.if_revision, put.change.if_revision) == (None, "3.17")
    assert put.change.document.gateways[1].address == "10.77.0.42"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [1, 4, 5])
def test_what_was_written_in_an_editor_is_kept_where_it_cannot_be_stored(
    peer: Peer, tmp_path: Path, code: int
) -> None:
    peer.answers[api.Export] = api.Exported(recorded.DOCUMENT, "3.17")
    peer.answers[api.PutChange] = api.Failure(code, "it was changed after 3.17", "Look again.")
    more = {"EDITOR": "sed -i s/10.77.0.32/10.77.0.42/", "TMPDIR": str(tmp_path)}
    with on_a_terminal(peer, "vs", "edit", "rdp", **more) as (running, main):
        read_until(main, "Apply this? [Y/n]: ")
        os.write(main, b"y\n")
        said = read_until(main, "Look again.")
        assert running.wait(20) == code
    (kept,) = tmp_path.iterdir()
    assert f"what you wrote is kept in {kept}" in said
    assert "address: 10.77.0.42" in kept.read_text()


def test_deleting_on_a_terminal_asks_first(peer: Peer) -> None:
    peer.answers[api.PutChange] = api.Done("- vs rdp")
    with on_a_terminal(peer, "vs", "delete", "rdp") as (running, main):
        read_until(main, "[y/N]: ")
        os.write(main, b"n\n")
        assert "nothing was changed" in read_until(main, "nothing was changed")
        assert running.wait(20) == 1
    assert peer.only(api.PutChange).dry_run


@pytest.mark.parametrize(
    ("options", "rests_on"), [((), "3.17"), (("--if-revision", "3.16"), "3.16"), (("-y",), None)]
)
def test_apply_deletes_on_a_terminal_only_what_it_asked_about(
    peer: Peer, tmp_path: Path, options: tuple[str, ...], rests_on: str | None
) -> None:
    """What others made meanwhile is not among it: the Site has to be as it was exported."""
    peer.answers[api.Export] = api.Exported(recorded.DOCUMENT, "3.17")
    peer.answers[api.PutChange] = recorded.DONE
    site = tmp_path / "site.yaml"
    site.write_text("virtual_servers: []")
    with on_a_terminal(peer, "apply", "-f", str(site), *options) as (running, main):
        if rests_on:
            read_until(main, "This deletes rdp, web. Go on? [y/N]: ")
            os.write(main, b"y\n")
        read_until(main, "stored by 2 of 3 devices")
        assert running.wait(20) == 0
    assert peer.only(api.PutChange).if_revision == rests_on


@pytest.mark.parametrize(
    "argv",
    [
        ("vs", "delete", "rdq"),
        ("device", "remove", "d"),
        ("device", "replace", "a", "--by", "d"),
    ],
)
def test_nobody_is_asked_about_what_would_be_refused(peer: Peer, argv: tuple[str, ...]) -> None:
    peer.answers[api.PutChange] = api.Failure(2, "there is no such thing", "Look again.")
    with on_a_terminal(peer, *argv) as (running, main):
        assert "[y/N]" not in read_until(main, "Look again.")
        assert running.wait(20) == 2
    assert peer.only(api.PutChange).dry_run
