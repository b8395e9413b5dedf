"""Kernel settings: what is changed, noted and put back."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import sysctl

WANTED = {path.format(interface="eth0"): value for path, value in sysctl.FORWARDING}
REDIRECTS = "ipv4/conf/all/accept_redirects"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc/sys/net in which every value is as it should be."""
    for path, value in WANTED.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{value}\n")
    (tmp_path / REDIRECTS).write_text("0\n")
    monkeypatch.setattr(sysctl, "ROOT", tmp_path)
    return tmp_path


def test_what_is_right_is_not_written(root: Path) -> None:
    for path in WANTED:
        (root / path).chmod(0o400)
    assert sysctl.enforce("eth0") == ()


def test_what_is_wrong_is_written_and_can_be_put_back(root: Path) -> None:
    (root / "ipv4/ip_forward").write_text("0\n")
    (root / "ipv4/conf/eth0/send_redirects").write_text("1\n")
    former = sysctl.survey("eth0")
    assert sysctl.enforce("eth0") == (
        "net/ipv4/ip_forward = 1",
        "net/ipv4/conf/eth0/send_redirects = 0",
    )
    assert sysctl.survey("eth0") == {}
    sysctl.restore("eth0", former)
    assert sysctl.survey("eth0") == former


def test_router_advertisements_that_are_off_stay_off(root: Path) -> None:
    (root / "ipv6/conf/eth0/accept_ra").write_text("0\n")
    assert sysctl.survey("eth0") == {}


def interface(root: Path, name: str, *, forwards: int, hears: int) -> str:
    """An interface of the host; returns the path of what is changed."""
    folder = root / "ipv6/conf" / name
    folder.mkdir()
    (folder / "forwarding").write_text(f"{forwards}\n")
    (folder / "accept_ra").write_text(f"{hears}\n")
    return f"ipv6/conf/{name}/accept_ra"


def test_other_interfaces_hear_routers_before_the_host_forwards(root: Path) -> None:
    mgmt0 = interface(root, "mgmt0", forwards=0, hears=1)
    interface(root, "deaf0", forwards=0, hears=0)
    interface(root, "lan0", forwards=1, hears=1)
    assert sysctl.survey("eth0") == {}, "a host that forwards is as its operator made it"
    (root / "ipv6/conf/all/forwarding").write_text("0\n")
    former = sysctl.survey("eth0")
    assert list(former) == [mgmt0, "ipv6/conf/all/forwarding"]
    assert sysctl.enforce("eth0")[0] == "net/ipv6/conf/mgmt0/accept_ra = 2"
    assert sysctl.from_note(sysctl.note(former)) == former
    sysctl.restore("eth0", former)
    assert sysctl.survey("eth0") == former


def test_an_interface_that_is_told_not_to_forward_is_told_to(root: Path) -> None:
    (root / "ipv4/conf/eth0/forwarding").write_text("0\n")
    former = sysctl.former("eth0")
    assert sysctl.enforce("eth0") == ("net/ipv4/conf/eth0/forwarding = 1",)
    sysctl.restore("eth0", former)
    assert sysctl.read("ipv4/conf/eth0/forwarding", "") == 0


def test_what_the_kernel_changes_with_forwarding_is_noted(root: Path) -> None:
    """Interfaces that forward although the host does not, and redirects that are not accepted."""
    assert sysctl.former("eth0") == {}
    for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/eth0/forwarding"):
        (root / path).write_text("0\n")
    vpn0 = [f"{protocol}/conf/vpn0/forwarding" for protocol in ("ipv4", "ipv6")]
    for path in vpn0:
        (root / path).parent.mkdir()
        (root / path).write_text("1\n")
    former = sysctl.former("eth0")
    assert list(former)[:3] == [*vpn0, REDIRECTS], "put back last: forwarding changes them again"
    assert sysctl.from_note("was " + sysctl.note(former)) == former


@pytest.mark.parametrize("name", ["{interface}", "a}b", "{", "{0}"])
def test_an_interface_with_braces_in_its_name_stays_as_it_is(root: Path, name: str) -> None:
    interface(root, name, forwards=0, hears=1)
    (root / "ipv6/conf/all/forwarding").write_text("0\n")
    assert list(sysctl.survey("eth0")) == ["ipv6/conf/all/forwarding"]


def test_an_interface_that_goes_meanwhile_needs_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of containers do at any time."""
    gone = {"ipv6/conf/gone/accept_ra": 1, "ipv4/ip_forward": 0}
    monkeypatch.setattr(sysctl, "survey", lambda _: gone)
    (root / "ipv4/ip_forward").write_text("0\n")
    sysctl.enforce("eth0")
    assert sysctl.read("ipv4/ip_forward", "eth0") == 1


def test_a_note_names_as_many_interfaces_as_the_kernel_keeps() -> None:
    others = {f"ipv6/conf/veth{number:010}/accept_ra": 1 for number in range(99)}
    former = others | {path: -1 for path, _ in sysctl.FORWARDING}
    note = "was " + sysctl.note(former)
    assert 95 < len(note) <= 120
    assert sysctl.from_note(note).items() <= former.items()
    assert dict(sysctl.FORWARDING).keys() <= sysctl.from_note(note).keys()


def test_a_kernel_without_ipv6_needs_no_settings_of_it(root: Path) -> None:
    for path in WANTED:
        if path.startswith("ipv6"):
            (root / path).unlink()
    assert sysctl.survey("eth0") == {}


def test_a_kernel_without_connection_tracking_is_refused(root: Path) -> None:
    (root / "netfilter/nf_conntrack_tcp_loose").unlink()
    with pytest.raises(sysctl.SysctlRefused, match="modprobe nf_conntrack"):
        sysctl.survey("eth0")


@pytest.fixture
def read_only(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same where only the host can change it, as in a container."""
    monkeypatch.setattr(sysctl, "read_only", lambda: True)
    return root


def test_a_read_only_proc_gives_the_command_for_the_host(read_only: Path) -> None:
    (read_only / "ipv4/ip_forward").write_text("0\n")
    (read_only / "ipv6/conf/all/forwarding").write_text("0\n")
    with pytest.raises(sysctl.SysctlRefused, match=r"net/ipv4/ip_forward=1 is missing") as refused:
        sysctl.enforce("eth0")
    command = "sysctl -w net/ipv4/ip_forward=1 net/ipv6/conf/all/forwarding=1"
    assert refused.value.remedy.endswith(command)


def test_where_all_is_right_a_read_only_proc_is_enough(read_only: Path) -> None:
    sysctl.require_changeable("eth0")
    assert sysctl.enforce("eth0") == ()


def test_what_was_set_from_outside_stays(read_only: Path) -> None:
    sysctl.restore("eth0", {"ipv4/ip_forward": 0})
    assert (read_only / "ipv4/ip_forward").read_text() == "1\n"


def test_what_only_costs_speed_stops_no_device(read_only: Path) -> None:
    (read_only / "ipv4/ip_early_demux").write_text("1\n")
    assert sysctl.enforce("eth0") == ()
    assert sysctl.former("eth0") == {}


settings = st.dictionaries(
    st.sampled_from([path for path, _ in sysctl.FORWARDING]), st.integers(-1, 9)
)


@given(settings)
def test_notes_can_be_read_again(former: dict[str, int]) -> None:
    note = sysctl.note(former)
    assert sysctl.from_note("was " + note) == former
    assert len(note) < 100


@given(st.text())
def test_foreign_notes_mean_nothing_bad(text: str) -> None:
    known = {REDIRECTS, *(path for path, _ in sysctl.FORWARDING)}
    strange = sysctl.from_note(text).keys() - known
    patterns = ("ipv6/conf/*/accept_ra", "ipv[46]/conf/*/forwarding")
    assert all(any(fnmatch(path, each) for each in patterns) for path in strange)
    assert all(path.count("/") == 3 for path in strange)
