"""Operators: their keys, and commands to agents on the network."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest
import zmq

from halbctl import keyfile
from halbctl.keyfile import Contact, KeyFile
from protocol import api, changes
from protocol.contacts import (
    Contact as KnownDevice,
)
from protocol.contacts import (
    Contacts,
    GetContacts,
    GetOperators,
    OperatorInfo,
    Operators,
)
from protocol.control import OPERATORS
from protocol.errors import ExitCode
from tests.cli import recorded
from tests.cli.conftest import Halbctl
from tests.cli.peer import Peer, RemotePeer

SITE_ID = "5" * 16
DEVICES = (KnownDevice("a", "a" * 40, ("10.77.0.11:7480",)),)
PATIENT = ("--timeout", "30")


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HALB_AGENT", "HALB_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def member(peer: Peer) -> Peer:
    """A device of a Site, over its control socket."""
    peer.answers[GetContacts] = Contacts(SITE_ID, "paris", DEVICES)
    peer.answers[api.PutChange] = recorded.DONE
    return peer


@pytest.fixture
def far(run_dir: Path) -> Iterator[RemotePeer]:
    """A device on the network."""
    with RemotePeer(run_dir / "unused") as running:
        running.answers[api.GetStatus] = recorded.EMPTY
        yield running


def key_for(*devices: tuple[str, str, str]) -> KeyFile:
    """A key file with devices of (name, public key, address)."""
    public, secret = (half.decode() for half in zmq.curve_keypair())
    contacts = tuple(Contact(name, key, (address,)) for name, key, address in devices)
    return KeyFile("paris", SITE_ID, "alice", public, secret, contacts)


def stored(key: KeyFile, path: Path) -> str:
    keyfile.create(str(path), key)
    return str(path)


@pytest.fixture
def key(far: RemotePeer, tmp_path: Path) -> str:
    """A key file that names ``far`` as device a."""
    return stored(key_for(("a", far.public_key, far.address)), tmp_path / "alice.key")


@pytest.fixture
def closed() -> Iterator[str]:
    """The address of a device that does not run: nobody else can take its port either."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1] - OPERATORS}"


# Making keys


def test_a_new_key_is_written_for_its_owner_alone(member: Peer, halbctl: Halbctl) -> None:
    ran = halbctl("operator", "create", "alice")
    assert (ran.code, ran.out) == (0, "alice.key\n")
    assert "halbctl --key alice.key" in ran.err
    assert stat.S_IMODE(Path("alice.key").stat().st_mode) == 0o600
    made = keyfile.read("alice.key")
    assert (made.site, made.site_id, made.operator) == ("paris", SITE_ID, "alice")
    assert made.devices == (Contact("a", "a" * 40, ("10.77.0.11:7480",)),)
    assert member.only(api.PutChange).change == changes.PutOperator("alice", made.public_key)
    assert made.secret_key not in ran.err + ran.out


def test_a_new_key_as_data_and_on_stdout(member: Peer, halbctl: Halbctl) -> None:
    told = json.loads(halbctl("operator", "create", "bob", "-f", "b.key", "-o", "json").out)
    public = keyfile.read("b.key").public_key
    assert told == {
        "operator": "bob", "public_key": public, "file": "b.key", "site": "paris",
        "devices": ["a"],
    }  # fmt: skip
    ran = halbctl("operator", "create", "carol", "--file", "-")
    assert keyfile.parsed("-", ran.out.encode()).operator == "carol"
    assert "with `halbctl --key FILE ...`" in ran.err
    assert not Path("carol.key").exists()


def test_a_file_that_exists_stops_it_before_anything_is_changed(
    member: Peer, halbctl: Halbctl
) -> None:
    Path("alice.key").write_text("precious")
    ran = halbctl("operator", "create", "alice")
    assert ran.code == ExitCode.USAGE
    assert "--file" in ran.err
    assert Path("alice.key").read_text() == "precious"
    assert not [r for r in member.requests if isinstance(r.op, api.PutChange)]


@pytest.mark.parametrize(
    ("code", "kept"),
    [(ExitCode.FAILED, False), (ExitCode.NO_QUORUM, False), (ExitCode.NOT_COMMITTED, True)],
)
def test_a_key_stays_only_where_it_may_be_in_force(
    member: Peer, halbctl: Halbctl, code: ExitCode, kept: bool
) -> None:
    member.answers[api.PutChange] = api.Failure(int(code), "no", "")
    ran = halbctl("operator", "create", "alice")
    assert ran.code == code
    assert Path("alice.key").exists() == kept
    assert ("operator list" in ran.err) == kept


def test_operators_are_listed_and_removed(member: Peer, halbctl: Halbctl) -> None:
    member.answers[GetOperators] = Operators((
        OperatorInfo("alice", "k" * 40, 1746104400), OperatorInfo("bob", "b" * 40, 1, "alice"),
    ))  # fmt: skip
    assert json.loads(halbctl("operator", "list", "-o", "json").out) == [
        {"name": "alice", "public_key": "k" * 40, "created_at": 1746104400, "by": ""},
        {"name": "bob", "public_key": "b" * 40, "created_at": 1, "by": "alice"},
    ]
    rows = [line.split() for line in halbctl("operator", "list").out.splitlines()[1:]]
    assert rows[0] == ["alice", "2025-05-01", "13:00:00Z", "k" * 40]
    assert rows[1][3:] == ["alice", "b" * 40]
    ran = halbctl("operator", "remove", "alice")
    assert ran.code == 0
    assert "alice had let in bob, who stay" in ran.err
    assert member.only(api.PutChange).change == changes.RemoveOperator("alice")


# Over the network


@pytest.mark.parametrize("named", [(), ("--agent", "a"), ("--agent", "127.0.0.1")])
def test_a_device_is_commanded_over_the_network(
    halbctl: Halbctl, key: str, named: tuple[str, ...]
) -> None:
    ran = halbctl("--key", key, *named, "status", "-o", "json", *PATIENT)
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["site"] == "paris"


def test_the_environment_names_agent_and_key(
    halbctl: Halbctl, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HALB_CONTROL")
    monkeypatch.setenv("HALB_KEY", key)
    monkeypatch.setenv("HALB_AGENT", "a")
    assert halbctl("status", *PATIENT).code == 0


def test_another_device_is_asked_where_one_does_not_run(
    halbctl: Halbctl, far: RemotePeer, closed: str, tmp_path: Path
) -> None:
    both = key_for(("down", far.public_key, closed), ("a", far.public_key, far.address))
    path = stored(both, tmp_path / "k")
    assert halbctl("--key", path, "status", *PATIENT).code == 0
    ran = halbctl("--key", path, "--agent", "down", "status", *PATIENT)
    assert ran.code == ExitCode.UNREACHABLE
    assert (
        f"down (127.0.0.1:{int(closed.rpartition(':')[2]) + OPERATORS}): Connection re" in ran.err
    )
    assert "7483" in ran.err


def test_where_no_device_runs_all_that_was_tried_is_said(
    halbctl: Halbctl, closed: str, tmp_path: Path
) -> None:
    nobody = key_for(("a", "a" * 40, closed), ("b", "b" * 40, closed))
    ran = halbctl("--key", stored(nobody, tmp_path / "k"), "status", *PATIENT)
    assert ran.code == ExitCode.UNREACHABLE
    assert "no device of Site paris can be reached" in ran.err
    assert "device a (" in ran.err
    assert "device b (" in ran.err


def test_a_device_with_another_key_is_not_trusted(
    halbctl: Halbctl, far: RemotePeer, tmp_path: Path
) -> None:
    other = zmq.curve_keypair()[0].decode()
    path = stored(key_for(("a", other, far.address)), tmp_path / "k")
    ran = halbctl("--key", path, "status", "--timeout", "60")
    assert ran.code == ExitCode.FAILED
    assert "does not have the key" in ran.err
    assert "operator refresh" in ran.err
    assert not far.requests


def test_a_device_that_hangs(halbctl: Halbctl, far: RemotePeer, key: str) -> None:
    far.answers.clear()
    ran = halbctl("--key", key, "status", "--timeout", "0.4")
    assert ran.code == ExitCode.UNREACHABLE
    assert "device a (127.0.0.1:" in ran.err
    assert "not answer" in ran.err


def test_devices_that_do_not_shake_hands_are_tried_no_longer_than_was_said(
    halbctl: Halbctl, tmp_path: Path
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = [each.getsockname()[1] - OPERATORS for each in (one, two)]
        public = zmq.curve_keypair()[0].decode()
        key = key_for(*((n, public, f"127.0.0.1:{p}") for n, p in zip("ab", ports, strict=True)))
        began = monotonic()
        ran = halbctl("--key", stored(key, tmp_path / "k"), "status", "--timeout", "0.6")
        took = monotonic() - began
    assert ran.code == ExitCode.UNREACHABLE
    assert ran.err.count("accepts connections but does not answer") == 2
    assert took < 1.9, "less than one device had when only it was waited for"


def test_a_key_that_others_can_read_is_not_used(
    halbctl: Halbctl, far: RemotePeer, key: str
) -> None:
    Path(key).chmod(0o644)
    ran = halbctl("--key", key, "status")
    assert ran.code == ExitCode.USAGE
    assert f"chmod 600 {key}" in ran.err
    assert not far.requests


@pytest.mark.parametrize(
    "argv",
    [
        ("failover", "rdp", "--force"),
        ("--local", "gateway", "set", "rdp", "gw1", "--state", "disabled"),
    ],
)
def test_what_concerns_one_device_needs_its_name(
    halbctl: Halbctl, far: RemotePeer, key: str, argv: tuple[str, ...]
) -> None:
    far.answers[api.Failover] = far.answers[api.PutChange] = recorded.DONE
    ran = halbctl("--key", key, *argv, *PATIENT)
    assert ran.code == ExitCode.USAGE
    assert "--agent NAME" in ran.err
    assert not far.requests
    assert halbctl("--key", key, "--agent", "a", *argv, *PATIENT).code == 0


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (("--key", "", "status"), "--key is empty"),
        (("--agent", "", "status"), "--agent is empty"),
        (("--agent", "a", "--control", "/c", "status"), "one or the other"),
        (("--key", "none.key", "status"), "cannot be read"),
        (("operator", "refresh"), "no key file is named"),
        (("operator", "create", "al ice"), "operator name"),
    ],
)
def test_what_cannot_be_meant(halbctl: Halbctl, argv: tuple[str, ...], word: str) -> None:
    ran = halbctl(*argv)
    assert ran.code == ExitCode.USAGE
    assert word in ran.err


def test_a_key_file_is_brought_up_to_date(halbctl: Halbctl, far: RemotePeer, key: str) -> None:
    before = keyfile.read(key)
    here = KnownDevice("a", far.public_key, (far.address,))
    there = KnownDevice("d", "d" * 40, ("10.77.0.14:7480",))
    far.answers[GetContacts] = Contacts(SITE_ID, "paris", (here, there))
    told = json.loads(halbctl("--key", key, "operator", "refresh", "-o", "json", *PATIENT).out)
    assert told == {"file": key, "site": "paris", "devices": ["a", "d"], "changed": True}
    new = Contact("d", "d" * 40, ("10.77.0.14:7480",))
    assert keyfile.read(key) == replace(before, devices=(*before.devices, new))
    assert "was up to date" in halbctl("--key", key, "operator", "refresh", *PATIENT).err


def test_a_key_file_takes_no_devices_of_another_site(
    halbctl: Halbctl, far: RemotePeer, key: str
) -> None:
    far.answers[GetContacts] = Contacts("6" * 16, "lyon", DEVICES)
    before = keyfile.read(key)
    ran = halbctl("--key", key, "operator", "refresh", *PATIENT)
    assert ran.code == ExitCode.USAGE
    assert "'lyon'" in ran.err
    assert keyfile.read(key) == before
