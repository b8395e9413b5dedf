"""Sticky clients: as nft lists them, as devices tell each other, and who is believed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clients import ENTERED_S, StickyClients
from agent.gated import class_id, numbers
from agent.sticky import elements, parse
from protocol.changes import DeleteVirtualServer, SetGateway
from protocol.clients import MAX_LEFT_MS, Client, ClientsEntered, ClientsKept, pack
from protocol.config import Config
from protocol.errors import MalformedMessage
from protocol.flows import FlowsWanted, Flush
from protocol.ids import DeviceId, GroupId
from protocol.objects import Gateway, VirtualServer
from tests.unit.listening import run, until
from tests.unit.paris import RDP, WEB, after, site
from tests.unit.paris import server as server_of

UID = GroupId("00000000000000aa")
ME = DeviceId("0000000000000001")
LISTING = """table inet halb {
\tmap vs_sticky {
\t\ttype ipv4_addr : classid
\t\tsize 65536
\t\tflags dynamic,timeout
\t\telements = { 10.0.0.1 timeout 1m40s expires 49s996ms : beef:cafe,
\t\t\t     10.0.0.2 timeout 5m expires 4m59s : 0:1,
\t\t\t     10.0.0.4 timeout 7d expires 6d23h59m59s996ms : ffff:ffee }
\t}
}
"""


def test_connections_of_dsr_are_told_by_their_number() -> None:
    """As an address, as whose they are told: of 4 bytes or 16."""
    listing = LISTING.replace("10.0.0.1 ", "0x0a000001 ").replace("10.0.0.2 ", "0x00000007 ")
    four, six = "vs_1_tcp_443_ip_known", "vs_1_tcp_443_ip6_known"
    found = parse(listing, four)
    assert {a: c.left_ms for a, c in found.items()} == {"10.0.0.1": 49_996, "0.0.0.7": 299_000}
    assert set(parse(listing, six)) == {"::a00:1", "::7"}
    for name in (four, six):
        script = elements(name, parse(listing, name).values())
        assert script.startswith(
            f"add element netdev halb_direct {name} {{ 0xa000001 timeout 49996ms"
        )


def kept(version: int, records: bytes) -> ClientsKept:
    return ClientsKept(UID, "tcp/443", 6 if version == 6 else 4, records)


def test_clients_are_read_as_nft_lists_them() -> None:
    assert parse(LISTING) == {
        "10.0.0.1": Client("10.0.0.1", 0xBEEFCAFE, 49_996),
        "10.0.0.2": Client("10.0.0.2", 1, 299_000),
        "10.0.0.4": Client("10.0.0.4", 0xFFFFFFEE, 7 * 86_400_000 - 4),
    }
    assert parse("") == {}


def test_a_client_is_entered_for_the_time_that_it_has_left() -> None:
    assert elements("m", [Client("fd00::1", 0xBEEF0001, 1500)]) == (
        "add element inet halb m { fd00::1 timeout 1500ms : beef:1 }\n"
    )
    assert elements("m", []) == ""


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_told_is_what_is_heard(version: int) -> None:
    address = "fd00::7" if version == 6 else "10.0.0.7"
    clients = [Client(address, number, 1000 * number) for number in (1, 2**32 - 2)]
    clients[1] = Client(address, 2**32 - 2, MAX_LEFT_MS)
    assert list(kept(version, pack(version, clients)).clients) == clients


@pytest.mark.parametrize(
    "records",
    [
        b"x" * 11,
        pack(4, [Client("10.0.0.1", 0, 1)]),
        pack(4, [Client("10.0.0.1", 1, MAX_LEFT_MS + 1)]),
    ],
)
def test_torn_and_senseless_records_are_refused(records: bytes) -> None:
    with pytest.raises(MalformedMessage):
        list(kept(4, records).clients)


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([4, 6]))
def test_no_bytes_do_anything_else(records: bytes, version: int) -> None:
    with suppress(MalformedMessage):
        assert all(client.number for client in kept(version, records).clients)


def server(*addresses: str) -> VirtualServer:
    gateways = tuple(Gateway(name=a, address=a) for a in addresses)
    return VirtualServer(uid=UID, name="web", vips=(), gateways=gateways, seed=7)


def test_numbers_of_gateways_do_not_depend_on_their_order_and_are_never_none_or_root() -> None:
    addresses = [f"10.0.{n // 256}.{n % 256}" for n in range(100)]
    found = numbers(server(*addresses))
    assert found == numbers(server(*reversed(addresses)))
    assert len(set(found.values())) == 100
    assert all(0 < number < 0xFFFFFFFF for number in found.values())
    assert class_id(0xBEEF0001) == "beef:1"


def test_a_virtual_server_that_goes_while_its_clients_are_read_ends_nothing_else() -> None:
    """A large map takes a while to read, so there are many such moments."""
    devices = {"devices": ["a", "b"], "on_peer_loss": "serve"}
    sticky = {"protocol": "tcp", "port": 80, "sticky": 60}
    config = site(
        {**WEB, **devices, "vips": ["10.77.0.101/24"], "listeners": [sticky]},
        {**RDP, "listeners": [sticky]},
    )
    without = after(config, DeleteVirtualServer("web"))
    told: list[tuple[DeviceId, object]] = []
    both = [server_of(config, name) for name in ("web", "rdp")]

    async def test() -> None:
        async def read(_: object) -> dict[str, Client]:
            if len(clients._listeners) == 2:
                clients.on_config(without, both[1:])
            return {"10.77.0.7": Client("10.77.0.7", 1, 9000)}

        kernel: Any = SimpleNamespace(do=read)
        clients: Any = StickyClients(ME, kernel)
        clients._send, clients._holder = lambda *each: told.append(each), lambda _: ME
        clients.on_config(config, both)
        await clients._tell()
        assert not told
        assert not clients._told
        await clients._tell()

    run(test())
    ((to, message),) = told
    assert to == "0000000000000002"
    assert isinstance(message, ClientsKept)
    assert message.group == both[1].uid


def test_nor_does_one_that_goes_while_a_device_is_told_anew() -> None:
    both = (
        {"protocol": "tcp", "port": 80, "sticky": 60},
        {"protocol": "tcp", "port": 81, "sticky": 9},
    )
    config = site({**RDP, "listeners": list(both)})
    told: list[object] = []

    async def test() -> None:
        async def read(_: object) -> dict[str, Client]:
            clients.on_config(after(config, DeleteVirtualServer("rdp")), ())
            return {"10.77.0.7": Client("10.77.0.7", 1, 9000)}

        kernel: Any = SimpleNamespace(do=read)
        clients: Any = StickyClients(ME, kernel)
        clients._send, clients._holder = lambda *each: told.append(each), lambda _: ME
        clients.on_config(config, [server_of(config)])
        clients.on_message(NEXT, FlowsWanted((server_of(config).uid,), 0, 0))
        (task,) = clients._lacking.values()
        await asyncio.wait_for(task, 10)

    run(test())
    assert len(told) == 1


def moving(config: Config) -> tuple[Any, list[tuple[DeviceId, object]], list[Flush]]:
    """A primary whose kernel has met one more at each look; what it told, and what was next."""
    told: list[tuple[DeviceId, object]] = []
    passed: list[Flush] = []
    known: dict[str, Client] = {}

    async def read(_: object) -> dict[str, Client]:
        number = len(known) + 1
        known[f"0.0.0.{number}"] = Client(f"0.0.0.{number}", 1, 9000)
        return dict(known)

    kernel: Any = SimpleNamespace(do=read)
    clients: Any = StickyClients(ME, kernel)
    clients._send = lambda *each: told.append(each)
    clients.on_config(config, [server_of(config)])
    clients.flush(Flush(server_of(config).uid, NEXT), passed.append)
    return clients, told, passed


MOVED = after(site({**RDP, "forwarding": "dsr"}), SetGateway("rdp", "gw2", weight=5))
NEXT = DeviceId("0000000000000002")


def test_a_successor_that_never_answers_is_not_waited_for_twice() -> None:
    """As one of a release before."""

    async def test() -> None:
        clients, _, passed = moving(MOVED)
        began = asyncio.get_running_loop().time()
        await next(iter(clients._moves.values()))
        took = asyncio.get_running_loop().time() - began
        assert passed
        assert ENTERED_S <= took < 2 * ENTERED_S
        assert not clients._receipts._awaited
        await clients.close()

    run(test())


def test_before_a_planned_move_the_successor_is_told_of_all_connections_and_of_the_newest() -> None:
    async def test() -> None:
        clients, told, passed = moving(MOVED)
        assert not passed
        await next(iter(clients._moves.values()))
        assert passed == [Flush(server_of(MOVED).uid, NEXT)]
        assert {to for to, _ in told} == {NEXT}
        addresses = [[c.address for c in m.clients] for _, m in told if isinstance(m, ClientsKept)]
        assert addresses == [["0.0.0.1"], ["0.0.0.2"]]
        assert not clients._moves
        await clients.close()

    run(test())


def test_a_planned_move_goes_on_when_the_successor_says_that_it_knows_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long that takes, within what is enough; another device's word is none."""
    monkeypatch.setattr("agent.clients.ENTERED_S", 60)

    async def test() -> None:
        clients, told, passed = moving(MOVED)

        def has(number: int) -> bool:
            return len(told) == number

        for number in (1, 2):
            await until(partial(has, number))
            _, message = told[-1]
            assert isinstance(message, ClientsKept)
            clients.on_message(ME, ClientsEntered(message.ask))
            await asyncio.sleep(0.05)
            assert not passed
            assert len(told) == number
            clients.on_message(NEXT, ClientsEntered(message.ask))
        await until(lambda: passed)
        await clients.close()

    run(test())


@pytest.mark.parametrize(
    "listeners", [[], [{"protocol": "tcp", "port": 80, "sticky": 60}]], ids=["none", "sticky"]
)
def test_a_planned_move_waits_for_no_sticky_clients(listeners: list[dict[str, Any]]) -> None:
    async def test() -> None:
        clients, told, passed = moving(site({**RDP, "listeners": listeners}))
        assert len(passed) == 1
        assert not told
        await clients.close()

    run(test())


def test_a_planned_move_that_begins_anew_or_an_agent_that_stops_ends_the_one_before() -> None:
    async def test() -> None:
        clients, _, passed = moving(MOVED)
        (first,) = clients._moves.values()
        clients.flush(Flush(server_of(MOVED).uid, ME), passed.append)
        (second,) = clients._moves.values()
        await second
        assert first.cancelled()
        assert [each.to for each in passed] == [ME]
        clients.flush(Flush(server_of(MOVED).uid, NEXT), passed.append)
        await clients.close()
        assert len(passed) == 1

    run(test())


def test_a_device_that_asks_for_all_flows_is_told_all_connections_at_once() -> None:
    """It comes back, or was told of a new primary; the next round may be half a minute away."""

    async def test() -> None:
        told: list[tuple[DeviceId, object]] = []
        found = {"0.0.0.7": Client("0.0.0.7", 1, 9000)}

        async def read(_: object) -> dict[str, Client]:
            return found

        kernel: Any = SimpleNamespace(do=read)
        clients: Any = StickyClients(ME, kernel)
        clients._send, clients._holder = lambda *each: told.append(each), lambda _: ME
        clients.on_config(MOVED, [server_of(MOVED)])
        await clients._tell()
        await clients._tell()
        assert len(told) == 1, "once is enough for all"
        told.clear()
        group = server_of(MOVED).uid
        clients.on_message(NEXT, FlowsWanted((), 7, 1))
        clients.on_message(DeviceId("0000000000000009"), FlowsWanted((group,), 0, 0))
        clients.on_message(NEXT, FlowsWanted((group,), 0, 0))
        clients.on_message(NEXT, FlowsWanted((group,), 0, 0))
        await until(lambda: told)
        await asyncio.sleep(0.05)
        ((to, kept),) = told
        assert to == NEXT
        assert isinstance(kept, ClientsKept)
        assert [each.address for each in kept.clients] == ["0.0.0.7"]
        await clients.close()

    run(test())
