"""Each mode of forwarding: who sees the client, and that connections outlive a takeover."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace as replaced

from agent import ways
from agent.conntrack import Route, end_unanswered
from agent.dataplane import DataPlane
from agent.direct import known_map
from agent.distribution import chain_of
from agent.leftovers import Leftovers
from agent.ruleset import Desired
from halbctl.lab.probes import Probe
from halbctl.lab.servers import BANNER, ECHO, PUSH
from protocol.config import Config, Edit
from protocol.objects import Former, Gateway, Listener, VirtualServer
from protocol.settling import noted
from protocol.timing import SECOND
from tests.kernel.modes import (
    CLIENT,
    GATEWAYS,
    MODES,
    NAMES,
    SHIFTED,
    Farm,
    built_farm,
    serves,
)
from tests.kernel.namespaces import (
    UID,
    VIPS,
    asked,
    connect,
    wait_until,
)
from tests.kernel.swallowing import PATIENCE_S, knock, swallowed, swallowing, wait_open

pytestmark = pytest.mark.kernel

CONNECTIONS = 200
OUTAGE_S = 0.3
SETTLING_S = 2.0


RANGE = Listener(protocol="tcp", port=ECHO, last_port=PUSH, gateway_port=ECHO)


@pytest.fixture(scope="module")
def built() -> Iterator[Farm]:
    with built_farm() as farm:
        yield farm


@pytest.fixture(params=MODES)
def farm(built: Farm, request: pytest.FixtureRequest) -> Farm:
    built.use(request.param)
    return built


@pytest.fixture
def opened() -> Iterator[list[socket.socket]]:
    """Sockets that are closed in the end, however a test ends, and say so only once."""
    some: list[socket.socket] = []
    yield some
    for sock in some:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


@pytest.mark.parametrize("vip", VIPS)
def test_gateways_see_the_client(farm: Farm, vip: str) -> None:
    version = 6 if ":" in vip else 4
    socks = [farm.client.call(connect, vip, ECHO, 1.0) for _ in range(8)]
    for sock in socks:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
    seen = "".join(farm.network.run(gw, "ss", "-Htn", "state", "established") for gw in NAMES)
    for sock in socks:
        host, port = sock.getsockname()[:2]
        assert host == CLIENT[version]
        assert (f"[{host}]:{port}" if version == 6 else f"{host}:{port}") in seen
        sock.close()


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("mode", MODES)
def test_ranges_and_other_ports_on_the_gateway(built: Farm, mode: str, vip: str) -> None:
    def greeted(port: int) -> str:
        with connect(vip, port, 1.0) as sock:
            return sock.recv(100).decode().strip()

    limits = {"client_connections": 1000} if mode == "known" else {}
    wanted = {BANNER: RANGE} | ({} if mode == "dsr" else {SHIFTED.port: SHIFTED})
    for port, listener in wanted.items():
        built.use(mode, replaced(listener, **limits))
        assert {built.client.call(greeted, port) for _ in range(20)} == set(NAMES)


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("mode", MODES)
def test_a_process_on_either_device_is_served(built: Farm, mode: str, vip: str) -> None:
    built.use(mode)
    for device in (built.a, built.b):
        assert device.call(asked, vip, ECHO, 1.0).decode().split()[0] in NAMES
        with device.call(connect, vip, ECHO, 1.0) as sock:
            sock.sendall(b"hello")
            assert sock.recv(100) == b"hello"


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("mode", MODES)
def test_without_a_gateway_new_flows_are_refused_at_once(built: Farm, mode: str, vip: str) -> None:
    built.use(mode)
    down = frozenset((UID, gateway.name) for gateway in GATEWAYS)
    built.a.reconcile(Desired((serves(mode),), {UID: built.leased}, down))
    began = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        built.client.call(connect, vip, ECHO, 1.0)
    with pytest.raises(ConnectionRefusedError):
        built.client.call(asked, vip, ECHO, 1.0)
    assert time.monotonic() - began < 0.9


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("mode", MODES)
def test_a_connection_that_a_gateway_swallowed_is_opened_at_another(
    built: Farm, mode: str, vip: str
) -> None:
    built.use(mode)

    def without(name: str) -> None:
        down = frozenset((UID, g.name) for g in GATEWAYS if g.name.startswith(name))
        built.a.reconcile(Desired((serves(mode),), {UID: built.leased}, down))

    without("gw2")
    of_gw1 = next(g.address for g in GATEWAYS if (":" in g.address) is (":" in vip))
    with swallowing(built.network, "gw1"), closing(built.client.call(knock, vip, ECHO)) as sock:
        wait_until(lambda: swallowed(built.network, "gw1") > 0, "the SYN is lost", PATIENCE_S)
        without("gw1")
        route = Route((vip, "tcp", (ECHO, ECHO)), of_gw1, (ECHO, ECHO))
        assert built.a.call(end_unanswered, [route]) == int(mode == "known")
        wait_open(sock)
        sock.sendall(b"?")
        assert sock.recv(1) == b"?"


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("mode", MODES)
def test_connections_stay_while_gateways_come_grow_and_go(
    built: Farm, opened: list[socket.socket], mode: str, vip: str
) -> None:
    """Each change moves slots; also an agent that starts anew meanwhile moves no connection."""
    built.use(mode)
    server = serves(mode)
    socks = opened

    def serve(**second: Any) -> None:
        gateways = (g if g.name.startswith("gw1") else replaced(g, **second) for g in GATEWAYS)
        changed = replaced(server, gateways=tuple(g for g in gateways if g.state != "disabled"))
        for device in (built.a, built.b):
            device.reconcile(Desired((changed,), {UID: built.leased}))

    def all_live() -> bool:
        for sock in socks:
            sock.sendall(b"?")
        return all(sock.recv(1) == b"?" for sock in socks)

    def newest_at(gateway: str) -> int:
        there = built.network.run(gateway, "ss", "-Htn", "state", "established").split()
        name = "[{}]:{}" if ":" in vip else "{}:{}"
        return sum(name.format(*sock.getsockname()[:2]) in there for sock in socks[-20:])

    serve(state="disabled")
    socks += (built.client.call(connect, vip, ECHO, 1.0) for _ in range(20))
    assert newest_at("gw1") == 20
    for step in (
        {"former": Former(0, 9)},
        {"former": Former(0, 9), "weight": 200},
        {"former": Former(0, 9), "state": "draining"},
    ):
        serve(**step)
        assert all_live(), step
        socks += (built.client.call(connect, vip, ECHO, 1.0) for _ in range(20))
        assert all_live(), step
        assert newest_at("gw1") == 20 if "state" in step else newest_at("gw2") > 0
    built.a.plane = built.a.call(DataPlane, built.a.plane.interface)
    built.a.call(built.a.plane.prepare)
    serve(**step)
    assert all_live(), "with an agent that has just started"
    if mode == "dsr":
        tcp = next(each for each in server.listeners if each.key == f"tcp/{ECHO}")
        name = known_map(chain_of(server, tcp, 6 if ":" in vip else 4))
        told = built.a.call(built.a.plane.clients, name)
        built.b.call(built.b.plane.enter_clients, name, told.values())
        assert built.b.call(built.b.plane.clients, name).keys() == told.keys()
        built.a.drop(built.leased)
        built.b.take(built.leased)
        assert all_live(), "after a takeover by a device that was told"


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("mode", MODES)
def test_connections_stay_while_a_weight_is_changed_and_taken_back(
    built: Farm, opened: list[socket.socket], mode: str, vip: str
) -> None:
    built.use(mode)
    server = serves(mode)
    for weight in (200, 1):
        opened += (built.client.call(connect, vip, ECHO, 1.0) for _ in range(20))
        config = Config().edited(Edit(put=(server,)), 1)
        gateways = (
            replaced(g, weight=weight) if g.name.startswith("gw2") else g for g in server.gateways
        )
        wanted = Edit(put=(replaced(server, gateways=tuple(gateways)),))
        (changed,) = noted(config, wanted, int(time.time())).put
        assert isinstance(changed, VirtualServer)
        server = changed
        for device in (built.a, built.b):
            device.reconcile(Desired((server,), {UID: built.leased}))
        for sock in opened:
            sock.sendall(b"?")
        assert [sock.recv(1) for sock in opened] == [b"?"] * len(opened)


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("mode", MODES)
def test_a_gateway_that_drains_keeps_its_connections(built: Farm, mode: str, vip: str) -> None:
    built.use(mode)
    server = serves(mode)
    gone = tuple(
        replaced(g, state="draining") if g.name.startswith("gw1") else g for g in server.gateways
    )

    def echo(sock: socket.socket, data: bytes) -> bool:
        sock.sendall(data)
        return sock.recv(100) == data

    before = [built.client.call(connect, vip, ECHO, 1.0) for _ in range(30)]
    assert all(echo(sock, b"before") for sock in before)
    drained = Desired((replaced(server, gateways=gone),), {UID: built.leased})
    for device in (built.a, built.b):
        device.reconcile(drained)
    since = [built.client.call(connect, vip, ECHO, 1.0) for _ in range(30)]
    assert all(echo(sock, b"during") for sock in (*before, *since))
    ports = {sock.getsockname()[1] for sock in since}
    there = built.network.run("gw1", "ss", "-Htn", "state", "established").split()
    at_first = {int(each.rpartition(":")[2]) for each in there if ":" in each}
    assert not ports & at_first
    assert {sock.getsockname()[1] for sock in before} & at_first
    if mode == "routed":  # with memory, the successor needs the predecessor's
        built.a.drop(built.leased)
        built.b.take(built.leased)
        assert all(echo(sock, b"after a takeover") for sock in before)
    for sock in (*before, *since):
        sock.close()


@pytest.mark.parametrize("vip", VIPS)
def test_entries_that_a_drain_took_go_with_it(built: Farm, vip: str) -> None:
    built.use("routed")
    server, client = serves("routed"), CLIENT[6 if ":" in vip else 4]
    left = tuple(g for g in server.gateways if not g.name.startswith("gw1"))
    leaving = tuple(replaced(g, state="draining") for g in server.gateways if g not in left)
    # What a gateway that is no gateway any more sends would be forwarded, with an entry.
    disabled = tuple(replaced(g, state="disabled") for g in leaving)

    def serve(*gateways: Gateway) -> Desired:
        wanted = Desired((replaced(server, gateways=gateways),), {UID: built.leased})
        built.a.reconcile(wanted)
        return wanted

    def entries() -> list[str]:
        listed = built.a.run("conntrack", "-L", "-f", "ipv6" if ":" in vip else "ipv4")
        return [line for line in listed.splitlines() if f"={client} " in line]

    async def forget(*wanted: Desired) -> None:
        leftovers = Leftovers()
        for each in wanted:
            leftovers.on_pass(each)
        gone = partial(wait_until, lambda: not entries(), "they are gone", PATIENCE_S)
        await asyncio.to_thread(gone)
        await leftovers.close()

    with closing(built.client.call(connect, vip, PUSH, 1.0)) as spoken_to:
        assert not entries()
        amid = serve(*left, *leaving)
        spoken_to.recv(100)
        with (
            closing(built.client.call(connect, vip, ECHO, 1.0)) as since,
            closing(built.a.call(connect, vip, ECHO, 1.0)) as own,
        ):
            # One that a gateway's packet was met of first, and one that began.
            wait_until(lambda: len(entries()) == 2, "both have entries", PATIENCE_S)
            built.a.call(asyncio.run, forget(amid, serve(*left, *disabled)))
            for sock in (since, own):
                sock.sendall(b"hello")
                assert sock.recv(100) == b"hello"
            assert not entries()


@pytest.mark.parametrize("vip", VIPS)
def test_datagrams_are_spread_and_keep_their_gateway(farm: Farm, vip: str) -> None:
    assert {farm.answered_by(vip) for _ in range(30)} == set(NAMES)
    family = socket.AF_INET6 if ":" in vip else socket.AF_INET

    def opened() -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.settimeout(1.0)
        sock.connect((vip, ECHO))
        return sock

    flows = [farm.client.call(opened) for _ in range(10)]

    def owners() -> list[bytes]:
        for flow in flows:
            flow.send(b"?")
        return [flow.recv(100) for flow in flows]

    before = owners()
    farm.a.drop(farm.leased)
    farm.b.take(farm.leased)
    assert owners() == before
    for flow in flows:
        flow.close()


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("speaker", ["client", "gateway"])
def test_all_connections_survive_abrupt_and_planned_moves(
    farm: Farm, vip: str, speaker: str
) -> None:
    a, b = farm.a, farm.b
    pushed = ("push",) if speaker == "gateway" else ()
    probe = Probe(farm.network, "client", "established", vip, str(CONNECTIONS), *pushed)

    def window(move: Any) -> dict[str, Any]:
        probe.begin()
        time.sleep(0.3)
        move()
        time.sleep(SETTLING_S)
        return probe.end()

    def crash() -> None:
        farm.network.unplug("a")
        time.sleep(OUTAGE_S)
        b.take(farm.leased)

    def hand_back() -> None:
        b.call(b.lease.lame, [farm.leased], 2 * SECOND)
        a.take(farm.leased)

    try:
        abrupt = window(crash)
        a.drop(farm.leased)
        farm.network.plug("a")
        planned = window(hand_back)
    finally:
        probe.close()
    assert abrupt["survivors"] == CONNECTIONS, abrupt
    assert planned["survivors"] == CONNECTIONS, planned


def test_what_there_is_no_room_to_count_is_sent_on_all_the_same(
    monkeypatch: pytest.MonkeyPatch, opened: list[socket.socket]
) -> None:
    monkeypatch.setattr(ways, "MAX_COUNTED", 1)
    with built_farm() as farm:
        farm.use("dsr")
        for vip in VIPS:
            for _ in range(16):
                opened.append(farm.client.call(connect, vip, ECHO, 2.0))
                opened[-1].sendall(b"x")
                assert opened[-1].recv(1) == b"x"
        reading = farm.a.call(farm.a.plane.traffic)[0]
        assert {len(each) for each in (reading.sent, reading.sent_first)} == {len(VIPS)}
