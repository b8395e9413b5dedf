"""Settings: the file, overruled by flags, on a host with these addresses."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from agent import settings
from agent.settings import HostAddress, Settings, read_settings
from protocol.errors import InvalidInput

HOST = tuple(
    HostAddress(interface, ip_address(ip))
    for interface, ip in (
        ("lo", "127.0.0.1"),
        ("lo", "::1"),
        ("eth0", "fe80::1"),
        ("eth0", "10.77.0.11"),
        ("eth1", "10.78.0.11"),
        ("eth0", "fd77::11"),
    )
)


@pytest.fixture(autouse=True)
def no_file_of_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "DEFAULT_CONFIG", tmp_path / "absent.yaml")


def read(*arguments: str, file: str | None = None, tmp_path: Path = Path("/nowhere")) -> Settings:
    if file is not None:
        path = tmp_path / "agent.yaml"
        path.write_text(file)
        arguments = ("--config", str(path), *arguments)
    return read_settings(arguments, hostname="paris-1.example.org", host=HOST)


def test_without_anything_the_host_decides() -> None:
    assert read() == Settings(
        name="paris-1",
        addresses=("10.77.0.11:7480",),
        interface="eth0",
        state_dir=Path("/var/lib/halb"),
        control=Path("/run/halb/control.sock"),
        witness=False,
        kernel_lease=True,
        log_level="info",
    )


FILE = """
name: a
state-dir: /srv/halb
no-flow-marks: true
address: ["10.78.0.11:7000", "[fd77::11]:7010"]
control: /tmp/c
witness: true
log-level: debug
"""


def test_the_file_says_what_it_says(tmp_path: Path) -> None:
    assert read(file=FILE, tmp_path=tmp_path) == Settings(
        name="a",
        addresses=("10.78.0.11:7000", "[fd77::11]:7010"),
        interface="eth1",
        state_dir=Path("/srv/halb"),
        control=Path("/tmp/c"),
        witness=True,
        kernel_lease=True,
        flow_marks=False,
        log_level="debug",
    )


def test_flags_overrule_the_file(tmp_path: Path) -> None:
    flags = ("--name", "b", "--address", "10.77.0.11:7480", "--interface", "br0")
    found = read(*flags, "--log-level", "error", file=FILE, tmp_path=tmp_path)
    assert (found.name, found.addresses, found.interface) == ("b", ("10.77.0.11:7480",), "br0")
    assert (found.log_level, found.control) == ("error", Path("/tmp/c"))


def test_an_empty_file_is_fine(tmp_path: Path) -> None:
    assert read(file="# nothing\n", tmp_path=tmp_path) == read()


@pytest.mark.parametrize(
    ("file", "message", "remedy"),
    [
        ("adress: x", "unknown key `adress`", "Did you mean 'address'?"),
        ("kernel_lease: no", "unknown key `kernel_lease`", "Known:"),
        ("name: [a", "line 1, column", "Correct it there"),
        ("a: b: c", "line 1, column 5 is not YAML", ""),
        ("- a", "has no keys", "KEY: VALUE"),
        ("witness: perhaps", "`witness`", "Write true or false"),
        ("name: 7", "`name`", "in quotes"),
        ("name: no", "`name`", "in quotes"),
        ("name: ''", "`name`", ""),
        ("name: a b", "device name 'a b' is not valid", "letters"),
        ("log-level: loud", "`log-level`", "Known: debug"),
        ("address: []", "`address` has 0 entries", "two on different networks"),
        ("address: [7]", "`address`", ""),
        ("address: 10.77.0.11", "is not IP:PORT", "Write IP:PORT"),
        ("address: 10.77.0.11:0", "port is out of range", "Use a port"),
        ("address: 10.77.0.11:70000", "port is out of range", "Use a port"),
        ("address: ['10.77.0.11:1', '10.77.0.11:1']", "is given twice", "once"),
        ("address: ['10.77.0.11:80', '10.77.0.11:83']", "overlap", "Leave four ports between"),
        ("address: 10.99.0.1:7480", "10.99.0.1 is not on this host", "10.77.0.11, 10.78.0.11"),
        ("x: !!python/object/apply:os.system [id]", "is not YAML", ""),
        ("\x00", "is not YAML", ""),
        ("witness: !!bool maybe", "is not YAML", ""),
        ("name: !!int ''", "is not YAML", ""),
        ("name: !!set {a}", "`name`", ""),
    ],
)
def test_what_is_wrong_is_named_with_the_remedy(
    file: str, message: str, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(file=file, tmp_path=tmp_path)
    assert message in caught.value.message
    assert remedy in caught.value.remedy


def test_a_missing_file_matters_only_if_it_was_asked_for() -> None:
    with pytest.raises(InvalidInput, match=r"/nowhere/agent\.yaml cannot be read: No such file"):
        read("--config", "/nowhere/agent.yaml")


def test_a_file_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="larger than"):
        read(file="#" * (1 << 17), tmp_path=tmp_path)


def test_an_unknown_flag_gets_the_nearest_one() -> None:
    with pytest.raises(InvalidInput, match="unknown flag --adress") as caught:
        read("--adress", "x")
    assert "--address" in caught.value.remedy


def test_a_host_without_addresses_is_told_so() -> None:
    with pytest.raises(InvalidInput, match="no address"):
        read_settings([], hostname="a", host=HOST[:3])


def test_a_witness_may_listen_where_no_interface_is_known() -> None:
    found = read("--witness", "--address", "10.99.0.1:7480")
    assert found.interface == ""


def test_a_device_without_the_kernel_lease_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--help")
    assert "refused in this release" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(InvalidInput, match="not supported in this release"):
        read_settings(["--no-kernel-lease"], hostname="a", host=HOST)
