"""Flows of busy accounts are counted by their marks, and nobody sees a difference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import count

import pytest

from agent import accounts
from agent.counters import Tally, dump_counters
from halbctl.lab.servers import ECHO
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
from tests.kernel.test_counters import ADDRESS, LISTENERS, SUCCESSOR, WANTED, Farm

pytestmark = pytest.mark.kernel

FEW, MORE = 5, 7


@pytest.fixture
def farm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Farm]:
    monkeypatch.setattr("agent.counters.BUSY", FEW)
    with hosts("a", "client", "gw1", servers=["gw1"]) as network:
        device, client = Device(network, "a"), Inside(network, "client")
        device.reconcile(WANTED)
        device.take()
        farm = Farm(device, client)
        yield farm
        farm.device.close()
        client.close()


_ports = count(20_000)


def ask(farm: Farm, vip: str, times: int) -> None:
    """So many flows of one datagram each way, from ports that had none yet."""
    for _ in range(times):
        assert farm.client.call(asked, vip, ECHO, 3.0, next(_ports))


def theirs(farm: Farm, family: str, hook: str, rule: str) -> None:
    """A table of somebody else's on the device, with one rule."""
    text = f"table {family} theirs {{\n chain theirs {{\n type {hook}\n {rule}\n }}\n}}\n"
    farm.device.network.run(farm.device.host, "nft", "-f", "-", text=text)


def by_number(farm: Farm) -> list[int]:
    """Packets that each of the three sets counted, all accounts together."""

    def counted() -> list[int]:
        dumps = (dump_counters(accounts.TABLE, name) for name in accounts.MARKED)
        return [sum(tally.packets for _, tally in dump) for dump in dumps]

    return farm.device.call(counted)


def busy(farm: Farm, vip: str) -> None:
    """Make the VIP's account one that is counted by its number."""
    farm.read()
    ask(farm, vip, FEW)
    assert by_number(farm) == [0, 0, 0]
    farm.read()


@pytest.mark.parametrize("vip", VIPS)
def test_a_busy_account_is_counted_by_its_number_from_then_on(farm: Farm, vip: str) -> None:
    account = (vip, "udp", ECHO, ADDRESS[vip])
    busy(farm, vip)
    before = farm.read()
    ask(farm, vip, MORE)
    assert by_number(farm) == [MORE, MORE, MORE]
    after = farm.read()
    assert before.opened[account] == FEW
    assert after.opened[account] == after.entered[account[:3]] == FEW + MORE
    assert set(after.dropped.values()) == {0}
    for was, now in ((before.forth, after.forth), (before.back, after.back)):
        each = Tally(1, was[account].bytes // FEW)
        assert was[account] == Tally(FEW, FEW * each.bytes)
        assert now[account] == Tally(FEW + MORE, (FEW + MORE) * each.bytes)


@pytest.mark.parametrize("vip", VIPS)
def test_an_agent_that_starts_anew_knows_whose_the_numbers_are(farm: Farm, vip: str) -> None:
    busy(farm, vip)
    ask(farm, vip, MORE)
    before = farm.read()
    farm.device.close()
    farm.device = Device(farm.device.network, "a")
    farm.device.reconcile(WANTED)
    assert farm.read() == before
    ask(farm, vip, MORE)
    assert by_number(farm) == [2 * MORE] * 3
    account = (vip, "udp", ECHO, ADDRESS[vip])
    assert farm.read().opened[account] == FEW + 2 * MORE


@pytest.mark.parametrize("vip", VIPS)
def test_flows_that_begin_after_a_takeover_are_not_taken_for_dropped(farm: Farm, vip: str) -> None:
    """What made the account busy was opened at the former primary, and so counted there."""
    with closing(farm.client.call(connect, vip, ECHO, 3.0)) as sock:
        farm.device.close()
        farm.device.network.run("a", "nft", "delete", "table", "inet", accounts.TABLE)
        farm.device = Device(farm.device.network, "a")
        farm.device.reconcile(WANTED)

        def speak() -> None:
            for _ in range(FEW):
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"

        farm.client.call(speak)
        farm.read()
        farm.client.call(speak)
        farm.read()
        for _ in range(MORE):
            farm.talk(vip)
        account = (vip, "tcp", ECHO, ADDRESS[vip])
        read = farm.settled()
        assert by_number(farm)[0] == MORE
        assert read.opened == {account: MORE}
        assert set(read.dropped.values()) == {0}
        farm.device.close()
        farm.device = Device(farm.device.network, "a")
        farm.device.reconcile(WANTED)
        assert farm.settled() == read


def test_a_mark_of_somebody_else_stays_and_its_flow_is_counted(farm: Farm) -> None:
    busy(farm, VIP)
    theirs(farm, "inet", "filter hook prerouting priority mangle", "ct mark set 0x7")
    ask(farm, VIP, MORE)
    assert by_number(farm) == [0, 0, 0]
    read = farm.read()
    account = (VIP, "udp", ECHO, ADDRESS[VIP])
    assert read.opened[account] == read.forth[account].packets == FEW + MORE
    assert "mark=7" in farm.device.run("conntrack", "-L", "-p", "udp")


def test_an_agent_that_is_told_so_leaves_marks_alone(farm: Farm) -> None:
    """What it, or one before it, has marked is counted on."""
    busy(farm, VIP)
    farm.device.close()
    farm.device = Device(farm.device.network, "a", flow_marks=False)
    farm.device.reconcile(WANTED)
    farm.device.run("conntrack", "-F")
    ask(farm, VIP, MORE)
    assert by_number(farm) == [0, 0, 0]
    account = (VIP, "udp", ECHO, ADDRESS[VIP])
    assert farm.read().opened[account] == FEW + MORE
    listed = farm.device.run("conntrack", "-L", "-p", "udp")
    assert "mark=0" in listed
    assert not any("mark=" in line and "mark=0" not in line for line in listed.splitlines())


def test_what_others_translate_is_not_marked(farm: Farm) -> None:
    to = f"udp dport 7007 dnat to {ADDRESS[VIP]}:{ECHO}"
    theirs(farm, "ip", "nat hook prerouting priority dstnat", to)
    # The gateway answers the client itself, who knows nothing of that.
    with pytest.raises(TimeoutError):
        farm.client.call(asked, "10.77.0.11", 7007, 0.1)
    listed = farm.device.run("conntrack", "-L", "-p", "udp")
    assert "dport=7007" in listed
    assert all("mark=0" in line for line in listed.splitlines() if "dport=7007" in line)


def test_what_was_counted_by_number_is_not_lost_when_its_account_is_closed(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.closing.KEPT_S", 0.0)
    busy(farm, VIP)
    ask(farm, VIP, MORE)
    before = farm.settled()
    replaced = desired(virtual_server([SUCCESSOR], LISTENERS))
    farm.device.reconcile(replaced)
    farm.read()
    farm.read()
    left = farm.read()
    nobody = (VIP, "udp", ECHO, "0.0.0.0")
    account = (VIP, "udp", ECHO, ADDRESS[VIP])
    assert left.opened == {nobody: before.opened[account]}
    assert (left.forth, left.back) == (
        {nobody: before.forth[account]},
        {nobody: before.back[account]},
    )
    assert by_number(farm) == [0, 0, 0]
    farm.device.close()
    farm.device = Device(farm.device.network, "a")
    farm.device.reconcile(replaced)
    assert farm.read().opened == left.opened


def test_a_connection_goes_on_being_counted_when_its_number_is_not_counted_by_any_more(
    farm: Farm,
) -> None:
    busy(farm, VIP6)
    for _ in range(FEW):
        farm.talk(VIP6)
    farm.read()
    account = (VIP6, "tcp", ECHO, ADDRESS[VIP6])

    def once() -> None:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"

    with closing(farm.client.call(connect, VIP6, ECHO, 3.0)) as sock:
        farm.client.call(once)
        before = farm.settled().forth[account].packets
        for name in accounts.MARKED:
            farm.device.run("nft", "flush", "set", "inet", accounts.TABLE, name)
        farm.client.call(once)
        wait_until(lambda: farm.read().forth[account].packets > before, "it is counted")
