"""A kernel that lacks an expression: what needs it is refused by name, and all else is served.

No kernel can be made to lack one, so an `nft` that refuses it stands before the real one;
every statement is tried by that before the library sees it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent import gate, host_check
from agent.dataplane import DataPlane, Desired, Reconciled
from agent.features import DOOR
from agent.lease import KernelLease
from agent.netlink import NetlinkError, has_table
from agent.nft import KernelRefused
from halbctl.lab.namespaces import Network
from halbctl.lab.plan import VIRTUAL_SERVER
from halbctl.lab.servers import ECHO
from halbctl.lab.site import change
from protocol.ids import GroupId
from protocol.objects import Gateway, Listener, VirtualServer
from protocol.timing import SECOND
from tests.kernel.gateways import INNER
from tests.kernel.namespaces import VIPS, Device, Inside, connect, hosts, virtual_server
from tests.kernel.sites import serving

pytestmark = pytest.mark.kernel

STUB = """#!/bin/sh
read -r lacking < {lack}
cat > {script}.$$
[ "$1" = --check ] && grep -q -- "$lacking" {script}.$$ && {{
  echo "/dev/stdin:1:1-2: Error: Could not process rule: No such file or directory" >&2
  grep -m 1 -- "$lacking" {script}.$$ >&2
  exit 1
}}
exec {nft} "$@" < {script}.$$
"""
PLAIN, FANCY = GroupId("00000000000000aa"), GroupId("00000000000000bb")
GATEWAYS = [Gateway(name="gw1", address="10.77.0.13"), Gateway(name="gw2", address="fd77::13")]
OTHER = "10.77.0.99"
WEB = Listener(protocol="tcp", port=ECHO, gateway_port=ECHO)
SERVED = virtual_server(GATEWAYS, [WEB])
MORE = replace(SERVED, uid=FANCY, name="more", vips=(f"{OTHER}/24",))
NEEDS = {
    "fwd ": (replace(MORE, forwarding="dsr"), "forwarding `dsr`"),
    "notrack": (
        replace(MORE, forwarding="routed", inner_vips=(f"{INNER[4]}/24",)),
        "forwarding `routed`",
    ),
    "numgen": (
        replace(MORE, listeners=(replace(WEB, balance="round-robin"),)),
        "balance `round-robin` and `random`",
    ),
    "limit rate": (replace(MORE, listeners=(replace(WEB, client_rate=9),)), "`client_rate`"),
    "ct count over": (
        replace(MORE, gateways=(replace(GATEWAYS[0], max_connections=9),)),
        "`max_connections`",
    ),
}


class Poor(Inside):
    """A host whose kernel lacks something."""

    plane: DataPlane

    def begin(self, *listen: str) -> None:
        self.plane = self.call(DataPlane, "eth0", listen)
        self.call(self.plane.prepare)

    def reconcile(self, *servers: VirtualServer) -> Reconciled:
        vips = {PLAIN: VIPS, FANCY: (OTHER, *([INNER[4]] if servers[-1].inner_vips else []))}
        wish = Desired(servers, {vs.uid: vips[vs.uid] for vs in servers})
        return self.call(self.plane.reconcile, wish)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with hosts("a", "client", "gw1", servers=["gw1"]) as built:
        yield built


@pytest.fixture
def lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that says what the kernel lacks."""
    path, nft = tmp_path / "lack", shutil.which("nft")
    stub = tmp_path / "nft"
    stub.write_text(STUB.format(lack=path, script=tmp_path / "script", nft=nft))
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return path


@pytest.fixture
def poor(network: Network, lack: Path) -> Iterator[Poor]:
    host = Poor(network, "a")
    yield host
    host.call(host.plane.remove)
    host.close()


def serves(network: Network) -> bool:
    client, device = Inside(network, "client"), Device(network, "a")
    try:
        device.take()
        with client.call(connect, VIPS[0], ECHO, 3.0) as sock:
            sock.sendall(b"hello")
            return sock.recv(100) == b"hello"
    finally:
        client.close()
        device.close()


@pytest.mark.parametrize("word", NEEDS)
def test_only_what_needs_it_is_refused_with_its_name_and_reason(
    poor: Poor, lack: Path, word: str
) -> None:
    fancy, name = NEEDS[word]
    lack.write_text(f"{word}\n")
    poor.begin()
    assert name in [each.feature.name for each in poor.plane.lacks]
    done = poor.reconcile(SERVED, fancy)
    assert set(done.unfit) == {FANCY}
    assert done.unfit[FANCY].startswith(f"{name} is off: nftables refused: ")
    assert "No such file or directory" in done.unfit[FANCY]
    assert [vs.uid for vs in done.in_force.virtual_servers] == [PLAIN]
    assert not poor.reconcile(SERVED, fancy).changed, "nothing is tried again and again"


def test_the_other_one_is_served(poor: Poor, lack: Path, network: Network) -> None:
    lack.write_text("fwd \n")
    poor.begin()
    poor.reconcile(SERVED, NEEDS["fwd "][0])
    assert serves(network)


def test_one_that_is_changed_into_what_is_missing_stays_as_it_was(poor: Poor, lack: Path) -> None:
    lack.write_text("numgen\n")
    poor.begin()
    poor.reconcile(SERVED, MORE)
    done = poor.reconcile(NEEDS["numgen"][0])
    assert set(done.outdated) == {FANCY}
    assert done.in_force.virtual_servers == (MORE,)


def test_who_cannot_be_refused_gets_no_answer(poor: Poor, lack: Path) -> None:
    lack.write_text("reject\n")
    poor.begin()
    done = poor.reconcile(replace(SERVED, gateways=()))
    assert not done.unfit
    listed = poor.run("nft", "list", "table", "inet", "halb")
    assert "reject" not in listed
    # As nftables 1.0.6 writes it, and as 1.1 does.
    opens = r"syn / fin,syn,rst,ack|& \(fin \| syn \| rst \| ack\) == syn"
    assert re.search(rf"tcp flags ({opens}) drop", listed)


def test_what_cannot_be_counted_is_served(
    poor: Poor, lack: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lack.write_text("ct mark set\n")
    poor.begin()
    for _ in range(3):
        assert not poor.reconcile(SERVED).unfit
    assert not poor.call(has_table, "halb_count")
    with pytest.raises(NetlinkError):
        poor.call(poor.plane.traffic)
    assert caplog.text.count("traffic is not counted: nftables refused") == 1


def test_without_tables_for_arp_vips_are_served_and_the_doctor_says_what_answers(
    poor: Poor, lack: Path
) -> None:
    lack.write_text("table arp\n")
    poor.begin()
    for _ in range(3):
        done = poor.reconcile(SERVED)
        assert not done.unfit
        assert not done.drift
    (lacking,) = poor.plane.lacks
    assert str(lacking).startswith("silence on other interfaces is off: ")
    assert "table arp" not in poor.run("nft", "list", "tables")


def test_where_strangers_cannot_be_bounded_vips_are_served_and_it_is_said(
    network: Network, lack: Path
) -> None:
    lack.write_text("halb_door\n")
    host = Poor(network, "a")
    try:
        host.begin("10.77.0.11:7480")
        assert not host.reconcile(SERVED).unfit
        told = [str(each) for each in host.plane.lacks if each.feature.name == DOOR]
        assert told[0].startswith("a bound for strangers is off: nftables refused: ")
        assert "halb_door" not in host.run("nft", "list", "tables")
    finally:
        host.call(host.plane.remove)
        host.close()


@pytest.mark.parametrize("word", ["flags constant", f"table netdev {gate.TABLE}"])
def test_without_the_lease_or_snat_nothing_begins(poor: Poor, lack: Path, word: str) -> None:
    lack.write_text(f"{word}\n")
    with pytest.raises(KernelRefused, match="No such file"):
        poor.begin()


def test_the_doctor_names_what_is_off(poor: Poor, lack: Path) -> None:
    lack.write_text("dup to\n")
    poor.begin()
    found = poor.call(lambda: tuple(host_check.kernel("eth0")))
    (wrong,) = [each for each in found if each.state != "ok"]
    assert wrong.text.startswith("moves without a lost packet is off: ")
    assert wrong.text == str(poor.plane.lacks[0])


def test_without_a_relay_a_lease_opens_and_nothing_is_sent_on(poor: Poor, lack: Path) -> None:
    lack.write_text("dup to\n")
    poor.begin()
    lease = poor.call(KernelLease, "eth0", poor.plane.lacks)
    poor.call(lease.acquire, VIPS, SECOND)
    poor.call(lease.relay, VIPS, ("10.77.0.12",), SECOND)
    lease.close()
    assert "halb_relay" not in poor.run("nft", "list", "tables")


def test_agents_start_serve_and_say_what_they_cannot_do(lack: Path) -> None:
    lack.write_text("fwd \n")
    with serving(devices=2, gateways=1) as site:
        primary = site.primary()
        (warning,) = site.status(primary)["warnings"]
        assert warning.startswith("forwarding `dsr` is off: nftables refused: ")
        found = json.loads(site.halbctl(primary, "--output", "json", "doctor").output)["findings"]
        assert [f["check"] for f in found if f["text"] == warning] == ["kernel"]
        change(site, primary, "vs", "edit", VIRTUAL_SERVER, "--forwarding", "dsr")
        site.wait(
            "the refusal has its reason",
            lambda: any(warning in reason for reason in site.virtual_server(primary)["reasons"]),
            10.0,
        )
        assert site.virtual_server(primary)["primary"] == primary, "served as it was"
