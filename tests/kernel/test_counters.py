"""Traffic is counted in the kernel, by listener and gateway, whatever happens to the rules."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from agent import netlink
from agent.counters import Ledger, Reading, Tally, dump_counters
from agent.netlink import NetlinkError
from agent.nft import Nft
from halbctl.lab.servers import ECHO
from protocol.objects import Gateway, Listener
from protocol.ports import HIGHEST
from tests.kernel.namespaces import (
    VIP,
    VIP6,
    VIPS,
    Device,
    Inside,
    asked,
    connect,
    desired,
    hosts,
    virtual_server,
    wait_until,
)

pytestmark = pytest.mark.kernel

GATEWAYS = [Gateway(name="gw1", address="10.77.0.13"), Gateway(name="gw2", address="fd77::13")]
LISTENERS = [
    Listener(protocol="tcp", port=ECHO, gateway_port=ECHO),
    Listener(protocol="udp", port=ECHO, gateway_port=ECHO),
]
ADDRESS = {VIP: "10.77.0.13", VIP6: "fd77::13"}
WANTED = desired(virtual_server(GATEWAYS, LISTENERS))
ROUNDS = 5
SCANNED = 100


class Farm:
    def __init__(self, device: Device, client: Inside) -> None:
        self.device, self.client = device, client

    def read(self) -> Reading:
        return self.device.call(self.device.plane.traffic)[0]

    def settled(self) -> Reading:
        """The counters when the last packets of closed connections have come."""
        seen = [self.read()]

        def still() -> bool:
            time.sleep(0.05)
            seen.append(self.read())
            return seen[-1] == seen[-2]

        wait_until(still, "nothing is counted any more")
        return seen[-1]

    def talk(self, vip: str, data: bytes = b"x" * 1000) -> None:
        """A connection with one question and one answer."""

        def once() -> None:
            with connect(vip, ECHO, 3.0) as sock:
                sock.sendall(data)
                left = len(data)
                while left:
                    left -= len(sock.recv(left))

        self.client.call(once)


@pytest.fixture
def farm() -> Iterator[Farm]:
    with hosts("a", "client", "gw1", servers=["gw1"]) as network:
        device, client = Device(network, "a"), Inside(network, "client")
        device.reconcile(WANTED)
        device.take()
        farm = Farm(device, client)
        yield farm
        farm.device.close()
        client.close()


@pytest.mark.parametrize("vip", VIPS)
def test_connections_packets_and_bytes_are_counted_both_ways(farm: Farm, vip: str) -> None:
    for _ in range(ROUNDS):
        farm.talk(vip)
    assert farm.client.call(asked, vip, ECHO, 3.0)
    read = farm.read()
    tcp, udp = ((vip, protocol, ECHO, ADDRESS[vip]) for protocol in ("tcp", "udp"))
    assert read.opened[tcp] == read.offered[vip, "tcp", ECHO] == ROUNDS
    assert read.opened[udp] == read.offered[vip, "udp", ECHO] == 1
    for way in (read.forth, read.back):
        assert ROUNDS * 1000 < way[tcp].bytes < ROUNDS * 2000
        assert way[tcp].packets >= ROUNDS * 3
        assert way[udp].packets == 1


def test_counters_survive_rules_that_change_and_an_agent_that_starts_anew(farm: Farm) -> None:
    farm.talk(VIP)
    account = (VIP, "tcp", ECHO, ADDRESS[VIP])
    before = farm.settled()
    more = virtual_server(
        [*GATEWAYS, Gateway(name="gw3", address="10.77.0.99", weight=0)],
        [*LISTENERS, Listener(protocol="tcp", port=81, gateway_port=81)],
    )
    farm.device.reconcile(desired(more))
    farm.device.reconcile(WANTED)
    assert farm.read() == before
    farm.device.close()
    farm.device = Device(farm.device.network, "a")
    farm.device.reconcile(WANTED)
    assert farm.read() == before
    farm.talk(VIP)
    assert farm.read().opened[account] == before.opened[account] + 1
    assert farm.read().forth[account].bytes > before.forth[account].bytes


def test_totals_go_on_after_somebody_flushed_all_rules(farm: Farm) -> None:
    farm.talk(VIP)
    before = farm.settled()
    farm.device.run("nft", "flush", "ruleset")
    drift = farm.device.reconcile(WANTED).drift
    assert "table inet halb_count was deleted" in drift
    farm.device.take()
    farm.talk(VIP)
    account = (VIP, "tcp", ECHO, ADDRESS[VIP])
    assert farm.read().opened[account] == before.opened[account] + 1
    assert farm.read().offered[account[:3]] == before.offered[account[:3]] + 1


def test_what_is_offered_and_not_opened_was_refused(farm: Farm) -> None:
    farm.device.reconcile(
        desired(WANTED.virtual_servers[0], down=[gateway.name for gateway in GATEWAYS])
    )
    for _ in range(ROUNDS):
        with pytest.raises(ConnectionRefusedError):
            farm.client.call(connect, VIP, ECHO)
    read = farm.read()
    assert read.offered[VIP, "tcp", ECHO] == ROUNDS
    assert not read.opened


def test_an_altered_table_of_accounts_is_mended_and_reported(farm: Farm) -> None:
    farm.talk(VIP)
    before = farm.settled()
    farm.device.run("nft", "flush", "chain", "inet", "halb_count", "carried")
    assert "table inet halb_count: chain carried was altered" in farm.device.reconcile(WANTED).drift
    again = farm.device.reconcile(WANTED)
    assert not again.drift
    assert not again.changed
    assert farm.read() == before


def test_where_nothing_was_carried_yet_there_is_nothing_to_read() -> None:
    with hosts("a") as network:
        device = Device(network, "a")
        assert not device.call(device.plane.traffic)[0].offered
        device.reconcile(WANTED)
        device.run("nft", "delete", "table", "inet", "halb_count")
        with pytest.raises(NetlinkError):
            device.call(device.plane.traffic)
        device.call(device.plane.remove)
        assert not device.call(device.plane.traffic)[0].untracked
        device.close()


def test_a_range_of_ports_is_one_listener(farm: Farm) -> None:
    some = Listener(protocol="tcp", port=ECHO - 1, last_port=ECHO + 5, gateway_port=ECHO - 1)
    server = virtual_server(GATEWAYS, [some])
    farm.device.reconcile(desired(server))
    farm.talk(VIP)
    farm.talk(VIP6)
    read = farm.settled()
    assert not read.untracked
    assert read.offered[VIP, "tcp", ECHO - 1] == read.offered[VIP6, "tcp", ECHO - 1] == 1
    for vip in VIPS:
        assert read.opened[vip, "tcp", ECHO - 1, ADDRESS[vip]] == 1
        assert read.entered[vip, "tcp", ECHO - 1] == 1
    assert set(read.forth) == {(vip, "tcp", ECHO - 1, ADDRESS[vip]) for vip in VIPS}
    farm.device.close()
    farm.device = Device(farm.device.network, "a")
    farm.device.reconcile(desired(server))
    assert farm.read() == read
    farm.talk(VIP)
    assert farm.settled().opened[VIP, "tcp", ECHO - 1, ADDRESS[VIP]] == 2


def test_a_port_amid_a_range_is_counted_for_its_own_listener(farm: Farm) -> None:
    every = Listener(protocol="tcp", port=1, last_port=HIGHEST, gateway_port=1)
    one = Listener(protocol="tcp", port=ECHO, gateway_port=ECHO)
    farm.device.reconcile(desired(virtual_server(GATEWAYS, [every])))
    farm.talk(VIP)
    farm.device.reconcile(desired(virtual_server(GATEWAYS, [every, one])))
    farm.talk(VIP)
    farm.talk(VIP)
    farm.device.reconcile(desired(virtual_server(GATEWAYS, [one])))
    read = farm.settled()
    opened = {port: n for (vip, _, port, _), n in read.opened.items() if vip == VIP}
    assert opened == {1: 1, ECHO: 2}


def test_a_scan_of_a_range_leaves_one_account_of_each_gateway(farm: Farm) -> None:
    every = Listener(protocol="tcp", port=1, last_port=HIGHEST, gateway_port=1)
    farm.device.reconcile(desired(virtual_server(GATEWAYS, [every])))
    for port in range(1, 1 + SCANNED):
        with pytest.raises(ConnectionRefusedError):
            farm.client.call(connect, VIP, port)
    read = farm.settled()
    assert read.entered == {(VIP, "tcp", 1): SCANNED}
    assert read.opened == {(VIP, "tcp", 1, ADDRESS[VIP]): SCANNED}


def test_a_port_scan_of_a_vip_fills_nothing(farm: Farm) -> None:
    for port in range(1000, 1020):
        with pytest.raises(TimeoutError):
            farm.client.call(connect, VIP, port, 0.01)
    assert set(farm.read().offered) == {(vip, p, ECHO) for vip in VIPS for p in ("tcp", "udp")}


def test_a_table_that_goes_while_it_is_looked_at_keeps_nothing_from_being_carried(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next pass makes it again."""
    farm.device.close()
    farm.device = device = Device(farm.device.network, "a")
    dump = Ledger.dump

    def gone(ledger: Ledger, name: str) -> Iterator[tuple[bytes, Tally]]:
        monkeypatch.setattr(Ledger, "dump", dump)
        device.network.run("a", "nft", "delete", "table", "inet", "halb_count")
        return dump(ledger, name)

    monkeypatch.setattr(Ledger, "dump", gone)
    assert not device.reconcile(WANTED).unfit
    device.reconcile(WANTED)
    device.take()
    farm.talk(VIP)
    assert farm.read().opened[VIP, "tcp", ECHO, ADDRESS[VIP]] == 1


SUCCESSOR = Gateway(name="gw9", address="10.77.0.99")


def test_accounts_of_gateways_that_are_gone_are_closed(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unnoticed by the next pass; and no flow seems to be dropped, also to the next agent."""
    monkeypatch.setattr("agent.closing.KEPT_S", 0.0)
    for vip in VIPS:
        farm.talk(vip)
    before = farm.settled()
    replaced = desired(virtual_server([SUCCESSOR], LISTENERS))
    farm.device.reconcile(replaced)
    farm.device.reconcile(replaced)
    farm.read()
    farm.read()
    left = farm.read()
    nobody = {VIP: "0.0.0.0", VIP6: "::"}
    assert left.opened == {(vip, "tcp", ECHO, nobody[vip]): 1 for vip in VIPS}
    for was, rests in ((before.forth, left.forth), (before.back, left.back)):
        assert rests == {(*each[:3], nobody[each[0]]): tally for each, tally in was.items()}
    assert farm.device.call(farm.device.plane.undisturbed)
    assert not farm.device.reconcile(replaced).drift
    farm.device.close()
    farm.device = Device(farm.device.network, "a")
    farm.device.reconcile(replaced)
    for read in (left, farm.read()):
        assert (read.offered, read.entered) == (before.offered, before.entered)
        assert (read.forth, read.back) == (left.forth, left.back)
        assert set(read.dropped.values()) == {0}
    farm.device.reconcile(WANTED)
    farm.talk(VIP)
    assert farm.read().opened[VIP, "tcp", ECHO, ADDRESS[VIP]] == 1


def test_a_flow_that_goes_on_after_its_gateway_was_removed_keeps_its_account(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its packets would make that anew, from zero, again and again."""
    monkeypatch.setattr("agent.closing.KEPT_S", 0.3)
    account = (VIP, "tcp", ECHO, ADDRESS[VIP])

    def once(sock: socket.socket) -> None:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"

    with closing(farm.client.call(connect, VIP, ECHO, 3.0)) as sock:
        farm.client.call(once, sock)
        farm.device.reconcile(desired(virtual_server([SUCCESSOR], LISTENERS)))
        counted = [farm.read().forth[account].packets]
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            farm.client.call(once, sock)
            counted.append(farm.read().forth[account].packets)
        assert counted == sorted(set(counted))
        farm.settled()
        wait_until(lambda: account not in farm.read().forth, "the account is closed")


def test_counters_that_go_while_they_are_read_are_no_whole_reading(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = ", ".join(f"10.1.{n // 250}.{1 + n % 250}" for n in range(10_000))
    messages = netlink.messages

    def meanwhile(data: bytes) -> Iterator[tuple[int, int, bytes]]:
        monkeypatch.setattr(netlink, "messages", messages)
        nft.run("delete table inet other")
        return messages(data)

    def read() -> None:
        nft.run(
            "add table inet other\n"
            "add set inet other counted { type ipv4_addr; counter; }\n"
            f"add element inet other counted {{ {some} }}"
        )
        monkeypatch.setattr(netlink, "messages", meanwhile)
        list(dump_counters("other", "counted"))

    nft = farm.device.call(Nft)
    with pytest.raises(NetlinkError, match="No such file or directory"):
        farm.device.call(read)
