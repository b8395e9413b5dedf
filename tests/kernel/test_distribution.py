"""Policies in a real kernel: hash, turns, chance, fewest connections, clients that keep theirs."""

from __future__ import annotations

import time
from collections import Counter
from math import sqrt

import pytest
from msgspec.structs import replace

from agent.balancing import Balancer
from agent.dataplane import DataPlane
from agent.distribution import AT_REST as REST
from agent.distribution import Moment, candidates, chain_of, selector
from agent.gated import numbers, sticky_map
from agent.jhash import slot_of, source_key
from agent.tracing import Answer, Question, trace
from protocol.clients import Client
from protocol.objects import SLOTS, Balance, Listener
from tests.kernel.farm import (
    GREET,
    HOLD,
    NAMES,
    SOURCES,
    Farm,
    connect_from,
    farm_gateways,
    source_of,
    version,
)
from tests.kernel.namespaces import UID, VIP, VIP6, VIPS, virtual_server

pytestmark = pytest.mark.kernel

OTHERS = {VIP: "10.77.0.110", VIP6: "fd77::110"}
"""Further VIPs."""


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
        question = Question(source, port, vs, listener, OTHERS[vip], listener.port, (vip,))
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
    assert f"the connection to {vip} exists" in answer.why[0]
    assert traced(0, 45_100, sticky).how == "turn"
    farm.client.call(connect_from, source_of(vip, 0, 45_101), vip, 82).close()
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
