"""Accounts of what is gone are closed once nothing was counted in them for a while."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from msgspec.structs import replace

from agent.closing import KEPT_S, MOST, Gone, closed, held_of
from agent.counters import Key, Ledger, Tally, element_of
from agent.ruleset import Desired
from protocol.ids import GroupId
from protocol.objects import Gateway, Listener, VirtualServer

UID = GroupId("00000000000000aa")
VIP, VIP6 = "10.77.0.100", "fd77::100"
GW, OTHER, GW6 = "10.77.0.31", "10.77.0.32", "fd77::31"
WEB = Listener(protocol="tcp", port=443, gateway_port=8443)
SERVER = VirtualServer(
    uid=UID, name="web", vips=(f"{VIP}/24", f"{VIP6}/64"), seed=1, listeners=(WEB,),
    gateways=tuple(Gateway(name=each, address=each) for each in (GW, OTHER, GW6)),
)  # fmt: skip


def desired(server: VirtualServer = SERVER) -> Desired:
    vips = tuple(vip.split("/")[0] for vip in server.vips)
    return Desired((server,), {UID: vips}, frozenset())


def without(*addresses: str) -> Desired:
    left = tuple(each for each in SERVER.gateways if each.address not in addresses)
    return desired(replace(SERVER, gateways=left))


def key(name: str, *parts: str | int) -> Key:
    """An account; of a set of the IP version of its first part."""
    found = b""
    for part in parts:
        if part in ("tcp", "udp"):
            found += bytes([socket.getprotobyname(str(part)), 0, 0, 0])
        elif part in ("original", "reply"):
            found += bytes([part == "reply", 0, 0, 0])
        elif isinstance(part, int):
            found += part.to_bytes(2, "big") + bytes(2)
        else:
            found += ip_address(part).packed
    return name + ("6" if ":" in str(parts[0]) else ""), found


def accounts_of(vip: str, port: int, gateway: str) -> dict[Key, Tally]:
    service = vip, "tcp", port
    return {
        key("opened", *service, gateway): Tally(3, 180),
        key("carried", *service, gateway, "original"): Tally(30, 3000),
        key("carried", *service, gateway, "reply"): Tally(20, 9000),
    }


class Books:
    """A ledger, what is due in it, and a clock."""

    def __init__(self, *seen: dict[Key, Tally]) -> None:
        self.ledger, self.gone, self.now = Ledger(), Gone(), 0.0
        for each in seen:
            self.ledger.add({k: self.ledger.total(k) for k in self.ledger.keys()} | each)  # noqa: SIM118

    def due(self, wanted: Desired, after: float = 0.0) -> set[Key]:
        self.now += after
        return set(self.gone.due(held_of(wanted), self.ledger, self.now))

    def close(self, wanted: Desired) -> str:
        """Close what is due; the script for the kernel."""
        held, due = held_of(wanted), sorted(self.due(wanted))
        rests = {each: rest for each in due if (rest := held.remainder(each))}
        script = closed(due, rests, self.ledger)
        for each in due:
            self.ledger.close(each, rests.get(each))
        return script


def test_accounts_of_what_is_there_are_never_due() -> None:
    own = accounts_of(VIP, 443, GW) | accounts_of(VIP6, 443, GW6)
    own |= {key("entered", VIP, "tcp", 443): Tally(3), key("offered", VIP, "tcp", 443): Tally(3)}
    own |= {key("untracked", VIP): Tally(1), key("opened", VIP, "tcp", 443, "0.0.0.0"): Tally(9)}
    books = Books(own)
    assert not books.due(desired())
    assert not books.due(desired(), 10 * KEPT_S)


def test_an_account_of_a_gateway_that_is_gone_is_due_once_it_was_at_rest_for_its_time() -> None:
    gone = accounts_of(VIP, 443, GW)
    books = Books(gone, accounts_of(VIP, 443, OTHER))
    assert not books.due(without(GW))
    assert not books.due(without(GW), KEPT_S - 1)
    assert books.due(without(GW), 1) == set(gone)


def test_a_flow_that_goes_on_keeps_its_accounts() -> None:
    gone = accounts_of(VIP, 443, GW)
    flow = key("carried", VIP, "tcp", 443, GW, "reply")
    books = Books(gone)
    books.due(without(GW))
    books.ledger.add(gone | {flow: Tally(21, 9100)})
    assert flow not in books.due(without(GW), KEPT_S)
    assert flow not in books.due(without(GW), KEPT_S - 1)
    assert flow in books.due(without(GW), 1)


def test_a_gateway_that_is_back_in_time_goes_on_where_it_was() -> None:
    books = Books(accounts_of(VIP, 443, GW))
    books.due(without(GW))
    assert not books.due(desired(), KEPT_S)
    assert not books.due(without(GW), KEPT_S)
    assert not books.due(without(GW), KEPT_S - 1)


def test_flows_to_a_gateway_whose_account_was_closed_are_not_taken_for_dropped() -> None:
    entered = {key("entered", VIP, "tcp", 443): Tally(6)}
    books = Books(accounts_of(VIP, 443, GW), accounts_of(VIP, 443, OTHER), entered)
    books.due(without(GW, OTHER))
    books.now += KEPT_S
    script = books.close(without(GW, OTHER))
    assert "delete element inet halb_count opened {" in script
    assert "{ 10.77.0.100 . tcp . 443 . 0.0.0.0 counter packets 6 bytes 360 }" in script
    assert "10.77.0.100 . tcp . 443 . 0.0.0.0 . reply counter packets 40 bytes 18000" in script
    read = books.ledger.totals()
    rest = (VIP, "tcp", 443, "0.0.0.0")
    assert read.opened == {rest: 6}
    assert read.forth == {rest: Tally(60, 6000)}
    assert read.back == {rest: Tally(40, 18000)}
    assert read.dropped == {(VIP, "tcp", 443): 0}


def test_what_counted_before_a_flush_is_no_part_of_what_the_kernel_is_told() -> None:
    books = Books(accounts_of(VIP, 443, GW))
    books.ledger.start_again()
    books.ledger.add({key("opened", VIP, "tcp", 443, GW): Tally(2, 120)})
    books.due(without(GW))
    books.now += KEPT_S
    assert "0.0.0.0 counter packets 2 " in books.close(without(GW))
    assert books.ledger.totals().opened == {(VIP, "tcp", 443, "0.0.0.0"): 5}


def test_all_of_a_listener_that_is_gone_is_closed_without_remainder() -> None:
    offered = {key("entered", VIP, "tcp", 443): Tally(6), key("offered", VIP, "tcp", 443): Tally(6)}
    books = Books(accounts_of(VIP, 443, GW), offered)
    other = desired(replace(SERVER, listeners=(replace(WEB, port=80),)))
    books.due(other)
    books.now += KEPT_S
    script = books.close(other)
    assert script.startswith("delete element inet halb_count ")
    assert "offered" not in script
    assert "add" not in script
    assert not books.ledger.keys()


def test_ports_of_a_range_stay_while_the_range_has_them() -> None:
    low, high = accounts_of(VIP, 1, GW), accounts_of(VIP, 65535, GW)
    books = Books(low, high)
    every = desired(replace(SERVER, listeners=(replace(WEB, port=1, last_port=65535),)))
    some = desired(replace(SERVER, listeners=(replace(WEB, port=1, last_port=100),)))
    assert not books.due(every)
    assert not books.due(some, KEPT_S)
    assert books.due(some, KEPT_S) == set(high)


def test_packets_of_gateways_without_memory_of_flows_are_forgotten_with_them() -> None:
    passed = key("passed", GW, "tcp", 443)
    routed = replace(SERVER, forwarding="routed", listeners=(replace(WEB, gateway_port=443),))
    books = Books({passed: Tally(5, 500)})
    assert not books.due(desired(routed))
    left = replace(routed, gateways=routed.gateways[1:])
    books.due(desired(left))
    assert books.due(desired(left), KEPT_S) == {passed}


def test_a_site_whose_gateways_change_each_day_keeps_few_accounts() -> None:
    books = Books()
    for day in range(1, 200):
        gateway = f"10.78.{day}.1"
        today = desired(replace(SERVER, gateways=(Gateway(name="gw", address=gateway),)))
        books.ledger.add(accounts_of(VIP, 443, gateway))
        for _ in range(2):
            books.due(today, KEPT_S)
        books.close(today)
    assert len(books.ledger.keys()) <= 3 * 3
    assert books.ledger.totals().opened[VIP, "tcp", 443, "0.0.0.0"] == 3 * 198


def test_what_one_dump_passed_over_is_not_taken_out_of_the_kernel_blindly() -> None:
    gone = accounts_of(VIP, 443, GW)
    books = Books(gone, {key("offered", VIP, "tcp", 443): Tally(3)})
    assert all(map(books.ledger.is_sure, books.ledger.keys()))
    books.ledger.add({})
    assert {k for k in books.ledger.keys() if not books.ledger.is_sure(k)} == set(gone)  # noqa: SIM118


def test_no_more_are_closed_at_once_than_the_kernel_does_quickly() -> None:
    many = {key("entered", VIP, "udp", port): Tally(1) for port in range(MOST + 10)}
    books = Books(many)
    books.due(desired())
    assert len(books.due(desired(), KEPT_S)) == MOST


def test_accounts_are_named_as_nftables_takes_them() -> None:
    names: list[tuple[tuple[str, ...], str]] = [
        (("untracked", VIP6), VIP6),
        (("entered", VIP6, "udp", "53"), f"{VIP6} . udp . 53"),
        (("left", GW6, "udp", "53"), f"{GW6} . udp . 53"),
        (("opened", VIP, "tcp", "443", GW), f"{VIP} . tcp . 443 . {GW}"),
        (("carried", VIP6, "tcp", "443", GW6, "reply"), f"{VIP6} . tcp . 443 . {GW6} . reply"),
        (("carried", VIP, "tcp", "443", GW, "original"), f"{VIP} . tcp . 443 . {GW} . original"),
    ]
    for (name, *parts), text in names:
        assert element_of(key(name, *(int(p) if p.isdigit() else p for p in parts))) == text


def test_what_was_offered_to_a_listener_that_has_more_ports_now_still_counts() -> None:
    before, after = (key("offered_range", VIP, "tcp", 80)[1] for _ in range(2))
    ends = [key("", VIP, "tcp", end)[1] for end in (90, 95)]
    ledger = Ledger()
    ledger.add({("offered_range", before + ends[0]): Tally(3)})
    ledger.add({("offered_range", after + ends[1]): Tally(4)})
    assert ledger.totals().offered == {(VIP, "tcp", 80): 7}
