"""Checks by certificate and by program in a whole Site: status and history say what is wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from halbctl.lab.plan import VIRTUAL_SERVER
from halbctl.lab.site import Site, apply, form, in_order
from tests.kernel.sites import unformed
from tests.unit.certificates import server_context

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.xdist_group("checks")]

HTTPS, PROGRAM = 8443, 7001
IN_TIME_S = 30.0
MARK = "86399.25"
"""Seconds that a program of these tests sleeps: names its processes."""
SERVE = """
import http.server, signal, ssl, sys
class Fine(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *args):
        pass
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
def load(*args):
    context.load_cert_chain(sys.argv[1])
    print("ready", flush=True)
signal.signal(signal.SIGHUP, load)
server = http.server.ThreadingHTTPServer(("", int(sys.argv[2])), Fine)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
load()
server.serve_forever()
"""


class Web:
    """An https server on a gateway, with a certificate that can be changed."""

    def __init__(self, site: Site, gateway: str, folder: Path) -> None:
        self._site, self._gateway, self._folder = site, gateway, folder
        self._server: subprocess.Popen[bytes] | None = None

    def serve(self, days: float) -> None:
        """Serve with a self-signed certificate that has so many days left."""
        server_context(self._folder, "gw.example", days)
        if self._server is None:
            words = ("-c", SERVE, str(self._folder / "server.pem"), str(HTTPS))
            argv = self._site.network.within(self._gateway, [sys.executable, *words])
            self._server = subprocess.Popen(argv, stdout=subprocess.PIPE)
        else:
            self._server.send_signal(signal.SIGHUP)
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == b"ready\n"

    def stop(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.communicate()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with unformed(devices=2, gateways=2) as made:
        (made.folder / "checks").mkdir(mode=0o755)
        for device in ("a", "b"):
            made.service(device).terminate(20)
            made.start_agent(device, "--checks-dir", str(made.folder / "checks"))
            made.wait_answers(device)
        form(made)
        yield made


@pytest.fixture
def web(site: Site, tmp_path: Path) -> Iterator[Web]:
    made = Web(site, "gw1", tmp_path)
    yield made
    made.stop()


def program(site: Site, text: str) -> None:
    """Put the program that is checked with in its place, at once."""
    path = site.folder / "checks" / "check.new"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    path.rename(path.with_name("check"))


def checked_by(site: Site, port: int, **check: Any) -> None:
    """Have the gateways checked by this alone."""
    often = {"interval": 0.5, "timeout": 0.5, "fall": 1, "rise": 1}
    document = json.loads(site.plan.document())
    (server,) = document["virtual_servers"]
    server["gateways"] = server["gateways"][:1]
    server["listeners"] = [{"protocol": "tcp", "port": port, "check": {**often, **check}}]
    apply(site, json.dumps(document))
    site.wait("the devices agree, and gw1 is up", lambda: in_order(site), IN_TIME_S)


def gateway(site: Site, device: str) -> dict[str, Any]:
    (found,) = site.virtual_server(device)["gateways"]
    return dict(found)


def wait_seen(site: Site, state: str, reason: str) -> None:
    """Every device sees the gateway so, and says why; the history of every device does, too."""
    for device in ("a", "b"):

        def seen(device: str = device) -> bool:
            found = gateway(site, device)
            return found["state"] == state and reason in found["reason"]

        site.wait(f"{device} sees gw1 {state}: {reason}", seen, IN_TIME_S)

        def remembered(device: str = device) -> bool:
            told = json.loads(site.halbctl(device, "-o", "json", "history").check())["entries"]
            texts = [entry["text"] for entry in told if entry["kind"] == "gateway"]
            wanted = "is down" if state == "down" else "is up again"
            return bool(texts) and wanted in texts[-1] and reason in texts[-1]

        site.wait(f"the history of {device} tells: {reason}", remembered, IN_TIME_S)


def processes_of_programs() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if MARK.encode() in words:
            found.append(path.parent.name)
    return found


def test_a_certificate_that_expires_takes_its_gateway_down_and_a_new_one_brings_it_back(
    site: Site, web: Web
) -> None:
    web.serve(days=30)
    # As long as a handshake takes on a machine that is busy.
    checked_by(site, HTTPS, type="https", expires_within=7, timeout=5.0, interval=5.0)
    web.serve(days=5)
    wait_seen(site, "down", "certificate")
    web.serve(days=-1)
    expired = "expired"
    site.wait(
        "both say so",
        lambda: all(expired in gateway(site, device)["reason"] for device in ("a", "b")),
        IN_TIME_S,
    )
    shown = site.halbctl("b", "gateway", "show", VIRTUAL_SERVER, "gw1").check()
    assert shown.count(expired) == 2, shown
    assert expired in site.halbctl("b", "status").check()
    web.serve(days=30)
    wait_seen(site, "up", "")


def test_a_program_that_hangs_and_one_that_forks_are_ended_with_all_that_they_started(
    site: Site,
) -> None:
    program(site, "exit 0")
    checked_by(site, PROGRAM, type="exec", command=["check"], timeout=4.0, interval=4.0)
    program(site, "echo the database is read-only; exit 3")
    wait_seen(site, "down", "the database is read-only")
    program(site, "exit 0")
    wait_seen(site, "up", "")
    program(site, f"sleep {MARK}")
    wait_seen(site, "down", "no answer in 4 s: killed")
    program(site, f"setsid sleep {MARK} & sleep {MARK} & exit 0")
    wait_seen(site, "up", "")
    program(site, "exit 0")
    site.wait("nothing is left of it", lambda: not processes_of_programs(), IN_TIME_S)
