"""Policies and limits in a real kernel: turns, stickiness, room, and what a client may have."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import sqrt

import pytest
from msgspec.structs import replace

from agent.balancing import Balancer
from agent.dataplane import DataPlane
from agent.distribution import AT_REST as REST
from agent.distribution import Moment, candidates, chain_of, flow_key, selector
from agent.gated import numbers, sticky_map
from agent.jhash import slot_of, source_key
from agent.ruleset import Desired
from agent.tracing import Answer, Question, trace
from halbctl.lab.servers import BANNER, ECHO
from protocol.clients import Client
from protocol.objects import SLOTS, Balance, Gateway, Listener
from tests.kernel.namespaces import (
    UID,
    VIP,
    VIP6,
    VIPS,
    Device,
    Inside,
    hosts,
    virtual_server,
    wait_until,
)

pytestmark = pytest.mark.kernel

NAMES = ("gw1", "gw2", "gw3")
ADDRESSES = {4: "10.77.0.{}", 6: "fd77::{}"}
GREET = Listener(protocol="tcp", port=80, gateway_port=BANNER)
HOLD = Listener(protocol="tcp", port=ECHO, gateway_port=ECHO)
UDP = Listener(protocol="udp", port=ECHO, gateway_port=ECHO)
LISTENERS = (GREET, HOLD, UDP)
SOURCES = {VIP: "10.77.0.2{:02}", VIP6: "fd77::2{:02}"}
"""Addresses of clients, 0 to 9, by the VIP that they speak to."""


def farm_gateways(*weights: int, most: int = 0) -> list[Gateway]:
    """Each gateway by both of its addresses, named ``gw1-4`` and ``gw1-6``."""
    return [
        Gateway(
            name=f"{name}-{version}",
            address=pattern.format(number),
            weight=weight,
            max_connections=most,
        )
        for version, pattern in ADDRESSES.items()
        for number, (name, weight) in enumerate(
            zip(NAMES, weights or (1, 1, 1), strict=True), start=13
        )
    ]


def version(vip: str) -> int:
    return 6 if ":" in vip else 4


@dataclass
class Farm:
    device: Device
    client: Inside
    stack: ExitStack

    def serve(
        self,
        gateways: Sequence[Gateway],
        listeners: Sequence[Listener] = LISTENERS,
        down: Sequence[str] = (),
        moment: Moment = REST,
    ) -> None:
        """Make the device carry this, and nothing that it remembers from before."""
        vs = virtual_server(gateways, listeners)
        gone = frozenset((UID, name) for name in down)
        done = self.device.reconcile(Desired((vs,), {UID: VIPS}, gone, moment))
        assert not done.drift
        self.device.take()

    def greeted(self, vip: str, client: int = 0, port: int = 0, listener: Listener = GREET) -> str:
        """Name of the gateway that answers a new TCP connection of a client."""
        return self.client.call(_greeted, _source(vip, client, port), vip, listener.port)

    def hold(self, vip: str, client: int = 0, timeout: float = 0.5) -> socket.socket:
        """A TCP connection that stays open until the test ends."""
        sock = self.client.call(_connect, _source(vip, client, 0), vip, ECHO, timeout)
        self.stack.callback(sock.close)
        return sock

    def held(self, vip: str) -> Counter[str]:
        """Open connections by gateway, as the kernel counts them."""
        counts = self.device.call(self.device.plane.connections)
        family = f"-{version(vip)}"
        return Counter(
            {name.removesuffix(family): n for (_, name), n in counts.items() if family in name}
        )


def _source(vip: str, client: int, port: int) -> tuple[str, int]:
    return SOURCES[vip].format(client), port


def _connect(source: tuple[str, int], vip: str, port: int, timeout: float = 0.5) -> socket.socket:
    return socket.create_connection((vip, port), timeout, source_address=source)


def _greeted(source: tuple[str, int], vip: str, port: int) -> str:
    with _connect(source, vip, port) as sock:
        return sock.recv(100).decode().strip()


@pytest.fixture(scope="module")
def built() -> Iterator[tuple[Device, Inside]]:
    with hosts("a", "client", *NAMES, servers=NAMES) as network:
        device, client = Device(network, "a"), Inside(network, "client")
        for vip, pattern in SOURCES.items():
            length = 128 if version(vip) == 6 else 32
            nodad = ["nodad"] if version(vip) == 6 else []
            for number in range(10):
                address = f"{pattern.format(number)}/{length}"
                client.run("ip", "address", "add", address, "dev", "eth0", *nodad)
        yield device, client
        device.close()
        client.close()


@pytest.fixture
def farm(built: tuple[Device, Inside]) -> Iterator[Farm]:
    device, client = built
    device.reconcile(Desired())
    device.run("conntrack", "-F")
    with ExitStack() as stack:
        yield Farm(device, client, stack)


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("balance", ["hash", "source-hash"])
def test_the_hash_is_the_kernels(farm: Farm, vip: str, balance: Balance) -> None:
    listener = replace(GREET, balance=balance)
    gateways = farm_gateways(1, 2, 1)
    farm.serve(gateways, [listener])
    vs = virtual_server(gateways, [listener])
    usable = candidates(vs, version(vip), frozenset())
    slots = selector(vs, listener, version(vip), usable, REST).slots
    names = {g.address: g.name.partition("-")[0] for g in gateways}
    assert "sport" in flow_key(GREET, 4)
    first = 40_000 + (1000 if balance == "hash" else 0)
    for client, port in [(n % 10, first + n) for n in range(100)]:
        key = source_key(SOURCES[vip].format(client), port if balance == "hash" else None)
        expected = names[slots[slot_of(key, vs.seed, SLOTS)]]
        assert farm.greeted(vip, client, port) == expected, (client, port)


@pytest.mark.parametrize("vip", VIPS)
def test_a_trace_tells_where_a_flow_will_go_and_where_it_went(farm: Farm, vip: str) -> None:
    gateways, sticky = farm_gateways(), replace(HOLD, port=82, balance="random", sticky=60)
    listeners = (GREET, HOLD, sticky)
    farm.serve(gateways, listeners)
    vs = virtual_server(gateways, listeners)

    def traced(client: int, port: int, listener: Listener) -> Answer:
        source = SOURCES[vip].format(client)
        question = Question(source, port, vs, listener, vip, listener.port)
        return trace(question, farm.device.call(farm.device.plane.evidence, question))

    for client, port in [(n % 10, 45_000 + n) for n in range(30)]:
        answer = traced(client, port, GREET)
        assert (answer.how, answer.slot is not None) == ("slot", True)
        assert answer.gateway is not None
        assert answer.gateway.name[:-2] == farm.greeted(vip, client, port)
    sock = farm.hold(vip)
    answer = traced(0, sock.getsockname()[1], HOLD)
    (holder,) = +farm.held(vip)
    assert (answer.how, answer.gateway and answer.gateway.name[:-2]) == ("connection", holder)
    assert traced(0, 45_100, sticky).how == "turn"
    farm.client.call(_connect, _source(vip, 0, 45_101), vip, 82).close()
    went = traced(0, 45_101, sticky).gateway
    answer = traced(0, 45_102, sticky)
    assert went is not None
    assert (answer.how, answer.gateway) == ("sticky", went)


@pytest.mark.parametrize("vip", VIPS)
def test_round_robin_gives_each_its_weight_exactly(farm: Farm, vip: str) -> None:
    farm.serve(farm_gateways(5, 3, 2), [replace(GREET, balance="round-robin")])
    found = Counter(farm.greeted(vip) for _ in range(40))
    assert found == {"gw1": 20, "gw2": 12, "gw3": 8}


@pytest.mark.parametrize("vip", VIPS)
def test_random_gives_each_its_weight_about(farm: Farm, vip: str) -> None:
    farm.serve(farm_gateways(2, 1, 1), [replace(GREET, balance="random")])
    found = Counter(farm.greeted(vip) for _ in range(200))
    for name, share in (("gw1", 0.5), ("gw2", 0.25), ("gw3", 0.25)):
        assert abs(found[name] - 200 * share) < 6 * sqrt(200 * share * (1 - share)), found


@pytest.mark.parametrize("vip", VIPS)
def test_a_backup_takes_flows_only_while_no_other_can(farm: Farm, vip: str) -> None:
    gateways = [replace(g, backup=g.name.startswith("gw3")) for g in farm_gateways()]
    farm.serve(gateways)
    assert {farm.greeted(vip) for _ in range(30)} == {"gw1", "gw2"}
    farm.serve(gateways, down=[g.name for g in gateways if not g.backup])
    assert {farm.greeted(vip) for _ in range(10)} == {"gw3"}
    farm.serve(gateways, down=[g.name for g in gateways if g.name.startswith("gw1")])
    assert {farm.greeted(vip) for _ in range(10)} == {"gw2"}


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("balance", ["hash", "round-robin"])
def test_a_sticky_client_keeps_its_gateway(farm: Farm, vip: str, balance: Balance) -> None:
    farm.serve(farm_gateways(), [replace(GREET, balance=balance, sticky=300)])
    first = [farm.greeted(vip, client) for client in range(10)]
    assert len(set(first)) > 1
    for _ in range(3):
        assert [farm.greeted(vip, client) for client in range(10)] == first


@pytest.mark.parametrize("vip", VIPS)
def test_a_sticky_client_goes_elsewhere_while_its_gateway_is_down(farm: Farm, vip: str) -> None:
    gateways, sticky = farm_gateways(), [replace(GREET, balance="round-robin", sticky=300)]
    farm.serve(gateways, sticky)
    first = [farm.greeted(vip, client) for client in range(10)]
    lost = first[0]
    farm.serve(gateways, sticky, down=[f"{lost}-4", f"{lost}-6"])
    second = [farm.greeted(vip, client) for client in range(10)]
    assert lost not in second
    assert all(new == old for old, new in zip(first, second, strict=True) if old != lost)
    farm.serve(gateways, sticky)
    assert [farm.greeted(vip, client) for client in range(10)] == second, "the new one is kept"


@pytest.mark.parametrize("vip", VIPS)
def test_stickiness_ends_with_its_time(farm: Farm, vip: str) -> None:
    farm.serve(farm_gateways(), [replace(GREET, balance="round-robin", sticky=1)])
    assert len({farm.greeted(vip) for _ in range(3)}) == 1

    def away_and_back() -> str:
        time.sleep(1.2)
        return farm.greeted(vip)

    assert len({away_and_back() for _ in range(4)}) > 1, "it takes its turn like anybody"


@pytest.mark.parametrize("vip", VIPS)
def test_sticky_clients_outlive_the_agent(farm: Farm, vip: str) -> None:
    sticky = [replace(GREET, balance="round-robin", sticky=300)]
    farm.serve(farm_gateways(), sticky)
    first = [farm.greeted(vip, client) for client in range(10)]
    farm.device.plane = farm.device.call(DataPlane, "eth0")
    farm.device.call(farm.device.plane.prepare)
    farm.serve(farm_gateways(), sticky)
    assert [farm.greeted(vip, client) for client in range(10)] == first


@pytest.mark.parametrize("vip", VIPS)
def test_what_another_device_tells_of_sticky_clients_is_in_force(farm: Farm, vip: str) -> None:
    gateways, sticky = farm_gateways(), replace(GREET, balance="round-robin", sticky=300)
    farm.serve(gateways, [sticky])
    before = {client: farm.greeted(vip, client) for client in range(4)}
    known = numbers(virtual_server(gateways, [sticky]))
    wanted = {client: NAMES[client % 3] for client in range(8)}
    assert wanted.items() - before.items(), "some have another gateway than they are told"
    number = {
        g.name.partition("-")[0]: known[g.address]
        for g in gateways
        if version(g.address) == version(vip)
    }
    told = [
        Client(SOURCES[vip].format(client), number[name], 200_000)
        for client, name in wanted.items()
    ]
    name = sticky_map(chain_of(virtual_server(gateways, [sticky]), sticky, version(vip)))
    plane = farm.device.plane
    farm.device.call(plane.enter_clients, name, told)
    found = farm.device.call(plane.clients, name)
    assert {a: c.number for a, c in found.items()} == {c.address: c.number for c in told}
    assert {client: farm.greeted(vip, client) for client in range(8)} == wanted
    farm.serve(gateways, [sticky])


@pytest.mark.parametrize("vip", VIPS)
def test_least_connections_favours_who_has_fewer(farm: Farm, vip: str) -> None:
    gateways, least = farm_gateways(), [replace(HOLD, balance="least-connections")]
    clock = iter(range(1000, 9000, 10))
    balancer = Balancer(lambda: next(clock))
    farm.serve(gateways, least, down=[g.name for g in gateways if not g.name.startswith("gw1")])
    for _ in range(40):
        farm.hold(vip)
    assert farm.held(vip)["gw1"] == 40
    balancer.observe([virtual_server(gateways, least)], frozenset())
    for _ in range(10):
        assert balancer.count_is_due
        balancer.count(farm.device.call(farm.device.plane.connections), 0.001)
        farm.serve(gateways, least, moment=balancer.moment)
        for _ in range(8):
            farm.hold(vip)
    held = farm.held(vip)
    assert held.total() == 120
    assert held["gw1"] <= 56, "40 and few of 80"
    assert min(held["gw2"], held["gw3"]) >= 20


@pytest.mark.parametrize("vip", VIPS)
def test_a_gateway_that_grows_takes_its_part_of_its_share(farm: Farm, vip: str) -> None:
    names = [g.name for g in farm_gateways() if g.name.startswith("gw1")]
    growing = Moment(growing={(UID, name): 10 for name in names})
    farm.serve(farm_gateways(), [GREET], moment=growing)
    found = Counter(farm.greeted(vip) for _ in range(150))
    share = 10 / 210
    assert found["gw1"] <= 150 * share + 6 * sqrt(150 * share * (1 - share)), found


@pytest.mark.parametrize("vip", VIPS)
def test_a_gateway_that_the_agent_counts_full_takes_nothing(farm: Farm, vip: str) -> None:
    names = {f"gw1-{v}" for v in (4, 6)}
    full = Moment(full=frozenset((UID, name) for name in names))
    farm.serve(farm_gateways(most=50), moment=full)
    assert "gw1" not in {farm.greeted(vip) for _ in range(30)}


@pytest.mark.parametrize("vip", VIPS)
def test_a_gateway_never_has_more_than_its_most(farm: Farm, vip: str) -> None:
    farm.serve(farm_gateways(most=5))
    for _ in range(15):
        farm.hold(vip)
    assert farm.held(vip) == {"gw1": 5, "gw2": 5, "gw3": 5}
    with pytest.raises(ConnectionRefusedError):
        farm.hold(vip)


@pytest.mark.parametrize("vip", VIPS)
def test_what_exceeds_a_gateway_goes_to_one_without_a_limit(farm: Farm, vip: str) -> None:
    gateways = [
        replace(g, max_connections=4 if g.name.startswith("gw1") else 0)
        for g in farm_gateways(8, 1, 1)
    ]
    farm.serve(gateways)
    for _ in range(30):
        farm.hold(vip)
    found = farm.held(vip)
    assert found["gw1"] == 4
    assert found["gw2"] + found["gw3"] == 26
    assert found["gw2"] > 3
    assert found["gw3"] > 3


@pytest.mark.parametrize("vip", VIPS)
def test_a_place_that_is_free_again_is_taken(farm: Farm, vip: str) -> None:
    farm.serve(farm_gateways(most=3))
    socks = [farm.hold(vip) for _ in range(9)]
    for sock in socks:
        sock.close()
    wait_until(lambda: sum(farm.held(vip).values()) == 0, "all connections have ended")

    def taken() -> bool:
        try:
            farm.hold(vip, timeout=3)
        except ConnectionRefusedError:
            return False
        return True

    wait_until(taken, "a gateway has room again", 8)


@pytest.mark.parametrize("vip", VIPS)
def test_listeners_share_the_room_of_a_gateway(farm: Farm, vip: str) -> None:
    other = replace(HOLD, port=81)
    farm.serve(farm_gateways(most=2), [HOLD, other])
    for _ in range(6):
        farm.hold(vip)
    with pytest.raises(ConnectionRefusedError):
        farm.client.call(_connect, _source(vip, 1, 0), vip, 81)


@pytest.mark.parametrize("vip", VIPS)
def test_a_rule_change_forgets_no_connection_of_a_gateway(farm: Farm, vip: str) -> None:
    gateways = farm_gateways(most=5)
    farm.serve(gateways)
    for _ in range(15):
        farm.hold(vip)
    farm.serve(gateways, [*LISTENERS, replace(HOLD, port=81)])
    time.sleep(2.6)
    with pytest.raises((ConnectionRefusedError, TimeoutError)):
        farm.hold(vip)
    assert farm.held(vip) == {"gw1": 5, "gw2": 5, "gw3": 5}


@pytest.mark.parametrize("vip", VIPS)
def test_a_client_has_no_more_connections_than_it_may(farm: Farm, vip: str) -> None:
    farm.serve(farm_gateways(), [replace(HOLD, client_connections=4)])
    socks = [farm.hold(vip) for _ in range(4)]
    with pytest.raises(ConnectionRefusedError):
        farm.hold(vip)
    farm.hold(vip, client=1)
    socks[0].close()
    wait_until(lambda: sum(farm.held(vip).values()) == 4, "one has ended")
    farm.hold(vip)


@pytest.mark.parametrize("vip", VIPS)
def test_a_client_opens_no_more_in_a_second_than_it_may(farm: Farm, vip: str) -> None:
    farm.serve(farm_gateways(), [replace(GREET, client_rate=10)])
    began, opened = time.monotonic(), 0
    while time.monotonic() - began < 3:
        try:
            farm.client.call(_greeted_within, _source(vip, 0, 0), vip, 80, 0.05)
            opened += 1
        except TimeoutError:
            pass
    took = time.monotonic() - began
    assert 10 * took * 0.5 < opened <= 10 + 10 * took * 1.2
    assert farm.greeted(vip, client=1), "another client is not held up"


def _greeted_within(source: tuple[str, int], vip: str, port: int, seconds: float) -> None:
    _connect(source, vip, port, seconds).close()
