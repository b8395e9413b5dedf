"""Bad input, end to end: one clear sentence, a remedy, the documented code, and no change."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from halbctl.lab.plan import VIP, VIRTUAL_SERVER
from halbctl.lab.probes import python_environment
from halbctl.lab.site import Outcome, Site, create_token
from tests.kernel.sites import serving, unformed

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.xdist_group("bad-input")]

GARBAGE = """
import os, socket, sys
for size in (1, 64, 4096, 200000):
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 2) as s:
        s.settimeout(2)
        try:
            s.sendall(os.urandom(size))
        except OSError:
            pass
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with serving(devices=2, gateways=1, witness=True) as made:
        yield made


@pytest.fixture(scope="module")
def stranger() -> Iterator[Site]:
    """Agents without a Site: a, b and a witness, so that each address of the other Site answers."""
    with unformed(devices=2, gateways=1, witness=True) as made:
        yield made


def refused(outcome: Outcome, code: int, *words: str) -> None:
    """The command failed with ``code`` and said ``words`` and a remedy, without a traceback."""
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.errors
    for word in words:
        assert word.lower() in outcome.errors.lower(), outcome
    assert "hint:" in outcome.errors, outcome


def document(site: Site, **changes: Any) -> dict[str, Any]:
    """The lab's document with some fields of its Virtual Server changed."""
    whole: dict[str, Any] = json.loads(site.plan.document())
    whole["virtual_servers"][0].update(changes)
    return whole


def exported(site: Site) -> object:
    """What operators have said; the coordinator may write of its own at any time."""
    return site.ask("a", "export")["document"]


def apply_text(site: Site, text: str) -> Outcome:
    path = site.folder / "bad.yaml"
    path.write_text(text)
    return site.halbctl("a", "apply", "-f", str(path))


GATEWAY = {"name": "gw1", "address": "10.77.0.31"}
SECOND = {"name": "second", "vips": [f"{VIP}/24"], "gateways": [GATEWAY], "listeners": []}
BAD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "VIP outside the interface's networks": ({"vips": ["192.0.2.1/24"]}, ("192.0.2.1", "eth0")),
    "VIP that answers from elsewhere": ({"vips": ["10.77.0.201/24"]}, ("10.77.0.201", "02:48")),
    "port 0": ({"listeners": [{"protocol": "tcp", "port": 0}]}, ("port", "0", "65535")),
    "port 70000": ({"listeners": [{"protocol": "tcp", "port": 70000}]}, ("70000", "65535")),
    "unknown device": ({"devices": ["a", "zz"]}, ("zz",)),
    "gateway equal to the VIP": ({"gateways": [{"name": "g", "address": VIP}]}, (VIP,)),
    "unknown key": ({"profil": "fast"}, ("profil", "profile")),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_document_changes_nothing(site: Site, case: str) -> None:
    changes, words = BAD[case]
    before = exported(site)
    outcome = apply_text(site, json.dumps(document(site, **changes)))
    assert outcome.code in (1, 2), outcome
    refused(outcome, outcome.code, *words)
    assert exported(site) == before


def test_two_virtual_servers_with_the_same_vip_and_port(site: Site) -> None:
    whole = document(site)
    listeners = [{"protocol": "tcp", "port": 7001}]
    whole["virtual_servers"].append({**SECOND, "listeners": listeners})
    refused(apply_text(site, json.dumps(whole)), 2, VIP, "7001", "second")


def test_text_that_is_no_yaml_is_shown_with_line_and_column(site: Site) -> None:
    refused(apply_text(site, "site: paris\nvirtual_servers: [\n  - }\n"), 2, "line", "column")


def test_a_document_over_one_mebibyte(site: Site) -> None:
    refused(apply_text(site, "# " + "x" * (1024 * 1024)), 2, "1 MiB")


def test_an_unknown_virtual_server_and_an_unknown_device(site: Site) -> None:
    refused(site.halbctl("a", "promote", "wbe"), 2, "wbe", VIRTUAL_SERVER)
    refused(site.halbctl("a", "promote", VIRTUAL_SERVER, "--to", "zz"), 2, "zz")
    refused(site.halbctl("a", "device", "drain", "zz"), 2, "zz")


def test_tokens_that_do_not_let_in(site: Site, stranger: Site) -> None:
    refused(stranger.halbctl("a", "join", "nonsense"), 2, "token")
    stranger.halbctl("a", "init", "elsewhere").check()
    good = create_token(stranger, "a")
    wrong = good[:-6] + ("AAAAAA" if good[-6:] != "AAAAAA" else "BBBBBB")
    outcome = stranger.halbctl("b", "join", wrong)
    assert outcome.code in (1, 2), outcome
    refused(outcome, outcome.code, "token")
    short = create_token(stranger, "a", 1, "--ttl", "1s")
    time.sleep(2.1)  # a token lives whole seconds
    refused(stranger.halbctl("b", "join", short), 1, "expired")
    foreign = create_token(site, "a")
    refused(stranger.halbctl("b", "join", foreign), 1, "does not have the key", "another Site")
    assert stranger.ask("b", "version")["site"] == ""

    # The same name twice.
    stranger.service("b").terminate(10)
    stranger.start_agent("b", "--name", "a")
    stranger.wait_answers("b")
    refused(stranger.halbctl("b", "join", good), 1, "'a'")
    assert len(stranger.status("a")["devices"]) == 1


def only(folder: Path, *tools: str) -> str:
    """A search path with these tools of the system and no others."""
    for tool in tools:
        (folder / tool).symlink_to(shutil.which(tool) or f"/usr/sbin/{tool}")
    return str(folder)


def run_agent(
    site: Site, flags: tuple[str, ...], before: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the agent of a host that has none until it ends."""
    command = site.agent_command("b", *flags)
    at = command.index("exec") + 2
    command[at:at] = before
    return subprocess.run(
        command,
        env={**python_environment(), **env},
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )


def test_agents_that_cannot_start_say_why(tmp_path: Path) -> None:
    with unformed(devices=2, gateways=1) as site:
        site.service("b").terminate(10)
        cases: list[tuple[subprocess.CompletedProcess[str], tuple[str, ...]]] = [
            (run_agent(site, ("--address", "10.77.0.99:7480")), ("10.77.0.99",)),
            (run_agent(site, ("--interface", "eth7")), ("eth7",)),
            (
                run_agent(site, (), ("setpriv", "--bounding-set=-net_admin")),
                ("CAP_NET_ADMIN",),
            ),
            (run_agent(site, (), PATH=only(tmp_path, "ip", "env")), ("nft",)),
            (run_agent(site, ("--control", str(site.control("a")))), (str(site.control("a")),)),
            (run_agent(site, ("--control", f"/tmp/{'x' * 120}")), ("xxx",)),
        ]
        for ended, words in cases:
            assert ended.returncode in (1, 2), ended
            assert "Traceback" not in ended.stderr, ended.stderr
            for word in words:
                assert word in ended.stderr, ended.stderr
        assert site.answers("a")


def test_garbage_on_the_peer_ports_and_the_control_socket_is_survived(site: Site) -> None:
    term = site.virtual_server("a")["term"]
    for port in (7480, 7481, 7482, 7483):
        site.network.run("client", "python3", "-c", GARBAGE, "10.77.0.11", str(port))
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(f"ipc://{site.control('a')}")
        for frame in (b"", b"\x00" * 100, b"\x81\xa1v\x01", b"\xff" * 70000):
            dealer.send(frame)
        dealer.poll(200)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(site.control("a")))
        raw.sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert site.answers("a")
    site.wait("still in order", lambda: site.virtual_server("a")["state"] == "ok", 5)
    assert site.virtual_server("a")["term"] == term
