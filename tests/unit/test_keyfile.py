"""An operator's key file, and which agent a command line names."""

from __future__ import annotations

import json
import os
import stat
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halbctl import keyfile
from halbctl.keyfile import Contact, KeyFile
from halbctl.remote import Target, targets
from halbctl.where import Remote, Wish, chosen
from protocol.control import DEFAULT_CONTROL
from protocol.errors import InvalidInput

SECRET = "s" * 40
KEY = KeyFile(
    site="paris",
    site_id="5" * 16,
    operator="alice",
    public_key="p" * 40,
    secret_key=SECRET,
    devices=(
        Contact("a", "a" * 40, ("10.77.0.11:7480", "[fd77::11]:7480")),
        Contact("b", "b" * 40, ("10.77.0.12:7480",)),
        Contact("c", "c" * 40, ("10.77.0.12:7490",)),
    ),
)


def contacts(**changes: Any) -> dict[str, Any]:
    device = {"name": "d", "public_key": "d" * 40, "addresses": ["10.77.0.14:7480"]}
    return {"site": "paris", "site_id": "5" * 16, "devices": [device], **changes}


def refusal(path: str) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        keyfile.read(path)
    assert SECRET not in str(caught.value)
    assert caught.value.remedy
    return caught.value


def test_it_is_its_owners_alone_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "alice.key"
    keyfile.create(str(path), KEY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keyfile.read(str(path)) == KEY
    assert SECRET not in repr(KEY)


def test_one_that_does_not_fit_on_the_disk_is_named_and_leaves_nothing(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        (small_disk / "filler").write_bytes(bytes(1 << 20))
    path = small_disk / "alice.key"
    with pytest.raises(OSError, match="No space") as caught:
        keyfile.create(str(path), KEY)
    assert caught.value.filename == str(path)
    assert not path.exists()


def test_a_file_that_exists_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "alice.key"
    path.write_text("precious")
    with pytest.raises(InvalidInput, match="exists"):
        keyfile.create(str(path), KEY)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_is_open_to_others_is_not_used(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "alice.key"
    keyfile.create(str(path), KEY)
    path.chmod(mode)
    error = refusal(str(path))
    assert f"mode {mode:04o}" in error.message
    assert f"chmod 600 {path}" in error.remedy


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(str(tmp_path / "none")).message
    assert "cannot be read" in refusal(str(tmp_path)).message


@given(st.binary(max_size=200))
def test_what_is_no_key_file_is_said_so(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="is no key file"):
        keyfile.parsed("x", data)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("secret_key", "short"),
        ("public_key", 7),
        ("devices", []),
        ("devices", [{"name": "a"}]),
        ("devices", [{"name": "a", "public_key": "a" * 40, "addresses": ["nowhere"]}]),
        ("halb_key", 2),
    ],
)
def test_each_field_is_checked(field: str, value: object) -> None:
    plain = json.loads(KEY.text())
    with pytest.raises(InvalidInput) as caught:
        keyfile.parsed("x", json.dumps({**plain, field: value}).encode())
    assert SECRET not in str(caught.value)


def test_devices_are_brought_up_to_date_in_place(tmp_path: Path) -> None:
    path, link = tmp_path / "alice.key", tmp_path / "link"
    keyfile.create(str(path), KEY)
    link.symlink_to(path)
    keyfile.rewrite(str(link), KEY.with_devices(contacts()))
    assert [device.name for device in keyfile.read(str(path)).devices] == ["d"]
    assert keyfile.read(str(path)).secret_key == SECRET
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["alice.key", "link"]


def test_another_sites_devices_are_refused() -> None:
    with pytest.raises(InvalidInput, match="another one, 'paris'"):
        KEY.with_devices(contacts(site="lyon", site_id="6" * 16))


def test_without_a_name_every_address_is_tried_in_turn() -> None:
    assert [str(target) for target in targets(KEY, "", "x")] == [
        "a (10.77.0.11:7483)", "a ([fd77::11]:7483)", "b (10.77.0.12:7483)", "c (10.77.0.12:7493)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("agent", "found"),
    [
        ("a", ["a (10.77.0.11:7483)", "a ([fd77::11]:7483)"]),
        ("10.77.0.11", ["a (10.77.0.11:7483)"]),
        ("10.77.0.11:7483", ["a (10.77.0.11:7483)"]),
        ("10.77.0.11:7480", ["a (10.77.0.11:7483)"]),
        ("fd77:0::11", ["a ([fd77::11]:7483)"]),
        ("[fd77::11]:7483", ["a ([fd77::11]:7483)"]),
        ("10.77.0.12:7493", ["c (10.77.0.12:7493)"]),
        ("c:7493", ["c (10.77.0.12:7493)"]),
    ],
)
def test_a_device_is_named_by_name_or_address(agent: str, found: list[str]) -> None:
    assert [str(target) for target in targets(KEY, agent, "x")] == found


def test_the_key_is_the_one_of_the_named_device() -> None:
    assert targets(KEY, "b", "x") == [Target("b", "b" * 40, ip_address("10.77.0.12"), 7483)]


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ("10.77.0.99", ("no device of Site paris", "a (10.77.0.11:7483)", "operator refresh")),
        ("10.77.0.11:9", ("no device of Site paris",)),
        ("10.77.0.12", ("more than one device", "b (", "c (")),
        ("a:x", ("port",)),
    ],
)
def test_a_device_that_the_file_does_not_tell(agent: str, words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput) as caught:
        targets(KEY, agent, "x")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("line", "environment", "expected"),
    [
        (Wish(), Wish(), DEFAULT_CONTROL),
        (Wish(), Wish(control="/c"), "/c"),
        (Wish(), Wish(key="k"), Remote("k")),
        (Wish(), Wish(key="k", agent="a"), Remote("k", "a")),
        (Wish(agent="b"), Wish(key="k", agent="a"), Remote("k", "b")),
        (Wish(key="l"), Wish(control="/c"), Remote("l")),
        (Wish(control="/d"), Wish(control="/c", key="k", agent="a"), "/d"),
    ],
)
def test_the_command_line_overrules_the_environment(
    line: Wish, environment: Wish, expected: object
) -> None:
    assert chosen(line, environment) == expected


@pytest.mark.parametrize(
    ("line", "environment"),
    [
        (Wish(control="/c", key="k"), Wish()),
        (Wish(control="/c", agent="a"), Wish()),
        (Wish(), Wish(control="/c", key="k")),
        (Wish(agent="a"), Wish()),
        (Wish(agent="a"), Wish(control="/c")),
    ],
)
def test_what_names_two_agents_or_none_is_refused(line: Wish, environment: Wish) -> None:
    with pytest.raises(InvalidInput) as caught:
        chosen(line, environment)
    assert caught.value.remedy
