"""A Site that is commanded from a host which is no device of it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from halbctl import keyfile
from halbctl.lab.plan import VIRTUAL_SERVER
from halbctl.lab.probes import python_environment
from halbctl.lab.site import Outcome, Site, apply, change, create_token
from halbctl.remote import new_keys
from protocol.control import OPERATORS
from protocol.errors import ExitCode
from tests.kernel.sites import CHECK_INTERVAL, unformed

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.xdist_group("operators")]

PORT = 7480 + OPERATORS
WAIT_S = 40.0
GARBAGE = """
import os, socket, sys
for size in (1, 64, 4096, 200000):
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as s:
        s.settimeout(10)
        try:
            s.sendall(os.urandom(size))
        except OSError:
            pass
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Devices a and b serve; c belongs to no Site yet."""
    with unformed(devices=3, gateways=1) as made:
        made.halbctl("a", "init", made.plan.name).check()
        made.halbctl("b", "join", create_token(made, "a")).check()
        document = json.loads(made.plan.document(CHECK_INTERVAL))
        document["virtual_servers"][0].update(devices=["a", "b"], on_peer_loss="hold")
        apply(made, json.dumps(document))
        yield made


def command(site: Site, *argv: str) -> list[str]:
    """``halbctl`` on the client's host, which reaches no control socket."""
    return site.network.within("client", [sys.executable, "-m", "halbctl", *argv])


def environment() -> dict[str, str]:
    names = ("HALB_CONTROL", "HALB_AGENT", "HALB_KEY")
    return {k: v for k, v in python_environment().items() if k not in names}


def from_afar(site: Site, key: str, *argv: str) -> Outcome:
    done = subprocess.run(
        command(site, "--key", key, *argv, "--timeout", "30"),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment(),
        timeout=90, check=False,
    )  # fmt: skip
    return Outcome(done.returncode, done.stdout, done.stderr)


def changed(site: Site, key: str, *argv: str) -> None:
    """A change from afar, again while no coordinator can be reached."""
    outcomes: list[Outcome] = []

    def taken() -> bool:
        outcomes.append(from_afar(site, key, *argv))
        return outcomes[-1].code != ExitCode.NO_QUORUM

    site.wait("a coordinator is there", taken, WAIT_S)
    outcomes[-1].check()


def created(site: Site, name: str) -> str:
    """The key file of a new operator, whom all devices of the Site know."""
    path = str(site.folder / f"{name}.key")
    change(site, "a", "operator", "create", name, "--file", path)
    members = [d["name"] for d in site.status("a")["devices"]]

    def known() -> bool:
        return all(
            name in [o["name"] for o in site.ask(member, "operator-list")["operators"]]
            for member in members
        )

    site.wait(f"all devices know operator {name}", known, WAIT_S)
    return path


def contacts(site: Site, device: str) -> list[str]:
    """The devices that one of them names to operators."""
    return [contact["name"] for contact in site.ask(device, "contacts")["devices"]]


def test_a_site_is_seen_and_changed_from_afar(site: Site) -> None:
    key = created(site, "alice")
    assert Path(key).stat().st_mode & 0o777 == 0o600
    status = json.loads(from_afar(site, key, "status", "-o", "json").check())
    assert [d["name"] for d in status["devices"]][:2] == ["a", "b"]
    for device, named in (("b", "b"), ("b", "10.77.0.12"), ("a", f"10.77.0.11:{PORT}")):
        seen = from_afar(site, key, "--agent", named, "version", "-o", "json").check()
        assert json.loads(seen)["agent"]["device"] == device
    changed(site, key, "--agent", "a", "vs", "freeze", VIRTUAL_SERVER)
    site.wait("b follows", lambda: "frozen" in str(site.virtual_server("b")["notes"]), WAIT_S)
    changed(site, key, "vs", "unfreeze", VIRTUAL_SERVER)
    assert "operator alice: vs-freeze" in site.service("a").log.read_text()


def test_a_device_that_joins_later_knows_the_operators_and_becomes_known(site: Site) -> None:
    key = created(site, "bob")
    outcome = from_afar(site, key, "--agent", "c", "version")
    assert outcome.code == 2
    assert "operator refresh" in outcome.errors
    change(site, "c", "join", create_token(site, "a"))
    site.wait("c is known", lambda: all("c" in contacts(site, each) for each in "abc"), WAIT_S)
    told = json.loads(from_afar(site, key, "operator", "refresh", "-o", "json").check())
    assert (told["devices"], told["changed"]) == (["a", "b", "c"], True)
    seen = from_afar(site, key, "--agent", "c", "version", "-o", "json").check()
    assert json.loads(seen)["agent"]["device"] == "c"


def test_an_operator_that_is_removed_while_connected(site: Site) -> None:
    key = created(site, "carol")
    watching = subprocess.Popen(
        command(site, "--key", key, "--agent", "a", "status", "-w", "--interval", "0.5",
                "-o", "json", "--timeout", "30"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    try:
        assert watching.stdout is not None
        first_line(watching)
        change(site, "b", "operator", "remove", "carol")
        _, errors = watching.communicate(timeout=WAIT_S)
    finally:
        watching.kill()
        watching.wait()
    assert watching.returncode == 1
    assert "operator 'carol'" in errors
    outcome = from_afar(site, key, "--agent", "a", "status")
    assert outcome.code == 1
    assert "does not let in operator 'carol'" in outcome.errors


def first_line(process: subprocess.Popen[str]) -> None:
    """Wait for what the process prints first."""
    assert process.stdout is not None
    deadline = monotonic() + WAIT_S
    assert select.select([process.stdout], [], [], deadline - monotonic())[0]
    assert process.stdout.readline()


def test_whoever_has_no_key_of_the_site_gets_nothing(site: Site) -> None:
    known = keyfile.read(created(site, "dave"))
    public, secret = new_keys()
    path = str(site.folder / "mallory.key")
    forged = keyfile.KeyFile(known.site, known.site_id, "mallory", public, secret, known.devices)
    keyfile.create(path, forged)
    outcome = from_afar(site, path, "--agent", "a", "status")
    assert outcome.code == 1
    assert "does not let in" in outcome.errors
    assert outcome.output == ""
    os.chmod(path, 0o644)
    assert "chmod 600" in from_afar(site, path, "status").errors


def test_garbage_on_the_operators_port_disturbs_nobody(site: Site) -> None:
    key = created(site, "erin")
    site.network.run("client", "python3", "-c", GARBAGE, "10.77.0.11", str(PORT))
    from_afar(site, key, "--agent", "a", "version").check()
    site.wait("it serves", lambda: site.virtual_server("a")["state"] == "ok", WAIT_S)


def test_a_device_that_is_down_is_passed_over(site: Site) -> None:
    key = created(site, "frank")
    site.service("a").terminate(30)
    try:
        seen = json.loads(from_afar(site, key, "version", "-o", "json").check())
        assert seen["agent"]["device"] != "a"
        outcome = from_afar(site, key, "--agent", "a", "version", "-o", "json")
        assert "device a (10.77.0.11:7483)" in outcome.errors
    finally:
        site.start_agent("a")
        site.wait_answers("a")
