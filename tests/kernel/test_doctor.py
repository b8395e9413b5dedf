"""`halbctl doctor` on a real host: what is wrong is named with its remedy."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

import pytest
from msgspec.structs import replace

from agent import addresses, echo
from agent.announce import Announcer
from agent.doctor import different_mtus, examine
from halbctl.lab.namespaces import Network
from halbctl.lab.servers import ECHO
from protocol import api
from protocol.config import Config, Edit
from protocol.diagnosis import Finding
from protocol.ids import DeviceId
from protocol.objects import Device as StoredDevice
from protocol.objects import Gateway, Listener
from tests.kernel.namespaces import (
    UID,
    VIP,
    VIP6,
    Device,
    Inside,
    desired,
    hosts,
    virtual_server,
)

pytestmark = pytest.mark.kernel

ME = DeviceId("00000000000000d1")
GATEWAYS = [Gateway(name="gw-4", address="10.77.0.12"), Gateway(name="gw-6", address="fd77::12")]
LISTENERS = [Listener(protocol="tcp", port=ECHO, gateway_port=ECHO)]
SERVER = replace(
    virtual_server(GATEWAYS, LISTENERS), forwarding="dsr", vips=(f"{VIP}/24", f"{VIP6}/64")
)
HOST = StoredDevice(id=ME, name="a", public_key="k" * 40, addresses=("10.77.0.11:7480",), joined=1)
CONFIG = Config().edited(Edit(put=(HOST, SERVER)), 1)
MTUS = {"a": 1500, "b": 1500}
STATUS = api.Status("paris", "1.1", "a", None, (), (), ())


@dataclass
class Patient:
    network: Network
    device: Device

    def findings(self) -> tuple[Finding, ...]:
        def look() -> tuple[Finding, ...]:
            return asyncio.run(examine("a", ME, "eth0", CONFIG, STATUS, MTUS)).findings

        return self.device.call(look)

    def wrong(self, check: str) -> list[str]:
        found = [f for f in self.findings() if f.check == check and f.state != "ok"]
        assert all(each.remedy for each in found)
        return [f"{each.text} {each.remedy}" for each in found]


@pytest.fixture(scope="module")
def patient() -> Iterator[Patient]:
    with hosts("a", "gw") as network:
        device = Device(network, "a")
        device.reconcile(desired(SERVER))
        device.take()
        yield Patient(network, device)
        device.close()


def test_a_host_in_order_has_no_problem(patient: Patient) -> None:
    found = [f for f in patient.findings() if f.check in ("kernel", "settings", "interface", "mtu")]
    assert {f.state for f in found} == {"ok"}, found
    assert {f.check for f in found} == {"kernel", "settings", "interface", "mtu"}


def test_gateways_that_lack_the_vip_are_named(patient: Patient) -> None:
    wrong = patient.wrong("dsr")
    assert len(wrong) == 2, wrong
    assert "gateway web/gw-4 (10.77.0.12) does not answer as VIP 10.77.0.100" in wrong[0]
    assert "ip address add 10.77.0.100/32 dev lo" in wrong[0]
    assert "ip address add fd77::100/128 dev lo" in wrong[1]


def test_gateways_that_tell_of_the_vip_are_named_and_silent_ones_are_well(
    patient: Patient,
) -> None:
    gateway = ("gw", "ip", "address")
    for vip in (f"{VIP}/32", f"{VIP6}/128"):
        patient.network.run(*gateway, "replace", vip, "dev", "lo")
    try:
        (told,) = patient.wrong("dsr")
        assert "gateway web/gw-4 (10.77.0.12) says that it has VIP 10.77.0.100" in told
        assert "arp_ignore=1" in told
        patient.network.run("gw", "sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1")
        assert patient.wrong("dsr") == []
    finally:
        for vip in (f"{VIP}/32", f"{VIP6}/128"):
            patient.network.run(*gateway, "del", vip, "dev", "lo")


def test_packets_that_are_too_large_on_the_way_are_noticed(patient: Patient) -> None:
    patient.network.run("gw", "ip", "link", "set", "eth0", "mtu", "1400")
    try:
        wrong = patient.wrong("mtu")
    finally:
        patient.network.run("gw", "ip", "link", "set", "eth0", "mtu", "1500")
    assert "none of 1500 bytes" in wrong[0]


def test_a_setting_that_was_turned_off_is_named(patient: Patient) -> None:
    patient.device.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    try:
        (wrong,) = patient.wrong("settings")
    finally:
        patient.device.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    assert "net/ipv4/ip_forward is 0, not 1" in wrong


def test_a_short_memory_for_silent_connections_is_named(patient: Patient) -> None:
    assert not patient.wrong("idle")
    name = "net.netfilter.nf_conntrack_tcp_timeout_established"
    before = patient.device.run("sysctl", "-n", name).strip()
    patient.device.run("sysctl", "-qw", f"{name}=300")
    try:
        (wrong,) = patient.wrong("idle")
    finally:
        patient.device.run("sysctl", "-qw", f"{name}={before}")
    assert "silent for 300 s are forgotten" in wrong


def test_before_it_joins_what_the_agent_will_set_itself_is_no_problem() -> None:
    with hosts("a") as network:
        device = Device(network, "a")
        device.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
        told = device.call(lambda: asyncio.run(examine("a", ME, "eth0", Config(), None, {})))
        in_a_site = Patient(network, device).wrong("settings")
        device.close()
    (found,) = [f for f in told.findings if f.check == "settings"]
    assert found.state == "ok"
    assert found.text == "kernel settings: 1 to be made by the agent once it belongs to a Site"
    assert any("ip_forward is 0, not 1" in each for each in in_a_site)


def test_a_table_that_drops_what_is_forwarded_is_named(patient: Patient) -> None:
    chain = "table inet fw { chain f { type filter hook forward priority 0; policy drop; }; }"
    patient.device.network.run("a", "nft", "-f", "-", text=chain)
    try:
        (wrong,) = patient.wrong("firewall")
    finally:
        patient.device.run("nft", "delete", "table", "inet", "fw")
    assert "table inet fw, chain f, policy drop" in wrong


def test_an_interface_that_is_down_is_named_and_hides_nothing_else() -> None:
    with hosts("a") as network:
        device = Device(network, "a")
        device.run("ip", "link", "set", "eth0", "down")
        found = Patient(network, device).findings()
        device.close()
    wrong = [f"{f.text}: {f.remedy}" for f in found if f.check == "interface"]
    assert wrong == ["interface eth0 is down: ip link set eth0 up"]
    assert {f.check for f in found} >= {"kernel", "settings", "peers", "gateways"}


def test_an_interface_that_is_gone_is_a_finding_of_its_own_check() -> None:
    with hosts("a") as network:
        device = Device(network, "a")
        device.run("ip", "link", "del", "eth0")
        found = Patient(network, device).findings()
        device.close()
    assert [f.state for f in found if f.check == "interface"][:1] == ["problem"]
    documented = {"capabilities", "kernel", "settings", "interface", "time", "firewall"}
    assert {f.check for f in found} <= documented | {
        "connections", "idle", "rules", "peers", "gateways", "mtu", "dsr", "agent",
    }  # fmt: skip


def test_the_mtu_is_that_of_the_interface(patient: Patient) -> None:
    assert patient.device.call(addresses.mtu, "eth0") == 1500
    assert SERVER.uid == UID


def test_devices_with_different_mtus_are_warned_of() -> None:
    assert not list(different_mtus(MTUS))
    (warning,) = different_mtus({"b": 9000, "a": 1500, "c": 1500})
    assert (warning.check, warning.state) == ("mtu", "warning")
    assert "a 1500, b 9000, c 1500" in warning.text


async def first_frame(listener: socket.socket, question: bytes) -> bytes:
    """What is heard first after a question, which is asked until anything is."""
    while True:
        listener.sendto(question, ("eth0", 0))
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                return await asyncio.get_running_loop().sock_recv(listener, 2048)


@pytest.mark.parametrize(("own", "other"), [("10.77.0.11", "10.77.0.12"), ("fd77::11", "fd77::12")])
def test_who_asks_a_gateway_hears_its_answer_and_none_of_the_traffic(own: str, other: str) -> None:
    with hosts("a", "gw") as network:
        device, gateway = Inside(network, "a"), Inside(network, "gw")
        kind = socket.AF_INET6 if ":" in own else socket.AF_INET
        question = echo.Echo(ip_address(own), ip_address(other))
        macs = [host.call(addresses.link, "eth0").mac for host in (device, gateway)]
        listener = device.call(echo._listener, "eth0", question.target.version)
        with gateway.call(socket.socket, kind, socket.SOCK_DGRAM) as noise, listener:
            for _ in range(8):
                noise.sendto(b"traffic", (own, 9))
            heard = asyncio.run(first_frame(listener, question.request(*macs)))
            assert question.is_answer(heard, macs[1])
        device.close()
        gateway.close()


def test_what_it_asks_with_is_not_closed_in_the_loop(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel takes 15 ms and more to close one, and leases are not renewed meanwhile."""
    closed: list[int] = []
    close = socket.socket.close

    def noted(sock: socket.socket) -> None:
        if sock.family == socket.AF_PACKET and sock.fileno() >= 0:
            closed.append(threading.get_ident())
        close(sock)

    monkeypatch.setattr(socket.socket, "close", noted)
    loop = patient.device.call(threading.get_ident)
    patient.findings()
    assert len(closed) > 4
    assert closed.count(loop) == 1, "that of all its questions, at the end"


def test_who_has_the_vips_is_asked_of_all_at_once(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody answers for those that are here: with a hundred the answer took a minute."""
    asked: list[set[str]] = []
    probe = Announcer.probe

    async def noted(announcer: Announcer, vips: Sequence[str], seconds: float) -> dict[str, str]:
        asked.append(set(vips))
        return await probe(announcer, vips, seconds)

    monkeypatch.setattr(Announcer, "probe", noted)
    patient.findings()
    about = [some for some in asked if some & {VIP, VIP6}]
    assert len(about) == 1
    assert {VIP, VIP6} <= about[0]


WARY = """table inet wary {
  chain in { type filter hook input priority filter; policy drop; accept; }
  chain out { type filter hook output priority filter; policy drop; accept; }
}
table ip old {
  chain OUTPUT { type filter hook output priority filter; policy drop; accept; }
}
"""


def firewalls(device: Device, status: api.Status | None) -> list[Finding]:
    told = device.call(lambda: asyncio.run(examine("a", ME, "eth0", CONFIG, status, MTUS)))
    return [each for each in told.findings if each.check == "firewall"]


def test_what_may_drop_this_hosts_own_packets_is_named_where_somebody_is_missing(
    patient: Patient,
) -> None:
    """Many a host has such chains, and all is well: then nobody is warned."""
    lost = api.DeviceStatus("b", ME, (), "dead", "", False, False, "", 0)
    device = patient.device
    device.network.run("a", "nft", "-f", "-", text=WARY)
    try:
        well = firewalls(device, STATUS)
        assert {each.state for each in well} == {"ok"}
        found = {f.text: f.remedy for f in firewalls(device, replace(STATUS, devices=(lost,)))}
        outside = firewalls(device, None)
    finally:
        for table in (("inet", "wary"), ("ip", "old")):
            device.run("nft", "delete", "table", *table)
    named = "table inet wary, chain in, policy drop: lets this host take only what its own"
    sent = "table inet wary, chain out, policy drop: lets this host send only what its own"
    old = "table ip old, chain OUTPUT, policy drop: lets this host send only what its own"
    remedies = [found[f"{each} rules accept"] for each in (named, sent, old)]
    assert ["gateways" in each for each in remedies] == [False, True, True]
    assert all("7480 to 7483" in each for each in remedies)
    assert ["nd-neighbor-solicit" in each for each in remedies] == [True, True, False]
    assert "warning" in {each.state for each in outside}
