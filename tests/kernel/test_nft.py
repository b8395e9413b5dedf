"""What is said when nftables, a capability or a program is missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from agent.features import features
from agent.netlink import has_table, ruleset_generation
from agent.nft import LARGE, KernelRefused, Nft, NftMissing, NftTooSlow, check
from halbctl.lab.probes import python_environment
from tests.kernel.namespaces import Inside, one_host

pytestmark = pytest.mark.kernel

PREPARE = """
from agent.dataplane import DataPlane
from protocol.errors import HalbError
try:
    DataPlane("eth0").prepare()
except HalbError as error:
    print(type(error).__name__, error.message)
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Inside]:
    with one_host() as inside:
        yield inside


def test_each_trial_of_the_rules_is_small_enough_for_an_ordinary_users_nft() -> None:
    # In a user namespace nobody may raise the limit of what a socket sends at once.
    ordinary = ["unshare", "--user", "--map-root-user", "--net", "nft", "--check", "--file", "-"]
    for script in (script for each in features("lo") for script in each.trials):
        tried = subprocess.run(ordinary, input=script, capture_output=True, check=False, text=True)
        assert (tried.returncode, tried.stderr) == (0, "")


def test_a_refusal_names_the_reason_and_the_command(host: Inside) -> None:
    nft = host.call(Nft)
    with pytest.raises(KernelRefused, match=r"No such file or directory .*\[add element .*nope"):
        host.call(nft.run, "add element inet nope things { 1 }")


def test_a_refused_transaction_changes_nothing(host: Inside) -> None:
    nft = host.call(Nft)
    with pytest.raises(KernelRefused):
        host.call(nft.run, "add table inet half\nadd element inet half nope { 1 }\n")
    assert host.call(nft.list_table, "inet", "half") is None


def test_a_check_applies_nothing(host: Inside) -> None:
    nft = host.call(Nft)
    host.call(check, "add table inet tried")
    assert host.call(nft.list_table, "inet", "tried") is None
    with pytest.raises(KernelRefused, match="syntax error"):
        host.call(check, "add tableau inet tried")


def test_a_large_script_is_one_transaction_too_and_its_refusal_has_a_reason(host: Inside) -> None:
    nft = host.call(Nft)
    many = ", ".join(str(number) for number in range(LARGE // 5))
    script = (
        f"add table inet large\nadd set inet large s {{ type mark; elements = {{ {many} }}; }}\n"
    )
    assert len(script) > LARGE
    with pytest.raises(KernelRefused, match=r"No such file or directory .*\[add element .*nope"):
        host.call(nft.run, f"{script}add element inet large nope {{ 1 }}\n")
    assert host.call(nft.list_table, "inet", "large") is None
    host.call(nft.run, script)
    assert len(host.call(nft.list_table, "inet", "large") or "") > LARGE
    terse = host.call(lambda: nft.list_table("inet", "large", elements=False))
    assert terse is not None
    assert len(terse) < 200
    assert host.call(nft.list_table, "inet", "none") is None


def test_a_table_is_known_by_its_whole_name(host: Inside) -> None:
    nft = host.call(Nft)
    host.call(nft.run, "add table inet there_is_more")
    assert host.call(has_table, "there_is_more")
    assert not host.call(has_table, "there_is")


def test_the_generation_counts_transactions(host: Inside) -> None:
    nft = host.call(Nft)
    before = host.call(ruleset_generation)
    assert host.call(ruleset_generation) == before
    host.call(nft.run, "add table inet counted")
    assert host.call(ruleset_generation) > before


def test_the_nft_program_may_be_missing(host: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NftMissing, match="apt install nftables"):
        host.call(check, "")


def test_an_nft_that_does_not_end_is_no_word_of_the_kernel(
    host: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.nft.TIMEOUT_S", 0.0)
    with pytest.raises(NftTooSlow, match="nft did not end within"):
        host.call(check, "add table inet tried")


def test_the_binding_may_be_missing(host: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nftables", None)
    with pytest.raises(NftMissing, match="pip install oxl-libnftables"):
        host.call(Nft)


def test_the_library_may_be_missing(host: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise OSError("libnftables.so.1: cannot open shared object file")

    monkeypatch.setattr("nftables.Nftables", load)
    with pytest.raises(NftMissing, match=r"libnftables\.so\.1 is not installed"):
        host.call(Nft)


@pytest.mark.parametrize("capability", ["net_admin", "net_raw"])
def test_a_missing_capability_is_named(host: Inside, capability: str) -> None:
    without = ["setpriv", f"--bounding-set=-{capability}", f"--inh-caps=-{capability}"]
    found = subprocess.run(
        host.network.within("a", [*without, sys.executable, "-c", PREPARE]),
        env=python_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout.startswith("CapabilityMissing no permission"), found.stderr
    assert f"CAP_{capability.upper()} missing" in found.stdout
