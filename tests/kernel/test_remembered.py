"""What is remembered of connections and clients outlives the rules that it was learnt by."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from agent.direct import known_map
from agent.distribution import chain_of, seat_number
from agent.gated import numbers, sticky_map
from protocol.clients import Client
from protocol.objects import Former, Gateway, Listener
from protocol.seats import seats
from protocol.settling import STAY_S
from tests.kernel.namespaces import Device, desired, virtual_server

pytestmark = pytest.mark.kernel

GATEWAYS = [Gateway(name=f"gw{n}", address=f"10.77.0.3{n}", seat=n) for n in (1, 2)]
GATEWAYS[0] = replace(GATEWAYS[0], weight=5, former=Former(1, 9))
PORT = Listener(protocol="tcp", port=3000, gateway_port=3000)
LONGER = replace(PORT, last_port=3010)
MOVING = replace(virtual_server(GATEWAYS, [PORT]), forwarding="dsr")
STICKY = virtual_server(GATEWAYS, [replace(PORT, sticky=300)])
FLUSH = ("nft", "flush", "ruleset")


def map_of(server: Any) -> str:
    (listener,) = server.listeners
    chain = chain_of(server, listener, 4)
    return sticky_map(chain) if listener.sticky else known_map(chain)


def client_of(server: Any) -> Client:
    """One that belongs to the second gateway."""
    if server.listeners[0].sticky:
        return Client("10.77.0.201", numbers(server)[GATEWAYS[1].address], 60_000)
    number = seat_number(seats(GATEWAYS)[GATEWAYS[1].address])
    return Client("10.0.0.7", number, STAY_S * 1000)


def remembered(device: Device, server: Any) -> dict[str, int]:
    found = device.call(device.plane.clients, map_of(server))
    return {each.address: each.number for each in found.values()}


@pytest.mark.parametrize("server", [MOVING, STICKY], ids=["dsr", "sticky"])
def test_what_is_remembered_is_back_with_the_rules_that_others_flushed(
    device: Device, server: Any
) -> None:
    device.reconcile(desired(server))
    told = client_of(server)
    device.call(device.plane.enter_clients, map_of(server), [told])
    device.run(*FLUSH)
    device.reconcile(desired(server))
    assert remembered(device, server) == {told.address: told.number}


@pytest.mark.parametrize("server", [MOVING, STICKY], ids=["dsr", "sticky"])
def test_what_a_device_is_told_before_it_has_made_its_rules_is_in_them(
    device: Device, server: Any
) -> None:
    told = client_of(server)
    device.call(device.plane.enter_clients, map_of(server), [told])
    device.reconcile(desired(server))
    assert remembered(device, server) == {told.address: told.number}


def test_connections_are_known_on_where_their_listener_has_more_ports_or_fewer(
    device: Device,
) -> None:
    told = client_of(MOVING)
    device.reconcile(desired(MOVING))
    device.call(device.plane.enter_clients, map_of(MOVING), [told])
    for listener in (LONGER, PORT):
        changed = replace(MOVING, listeners=(listener,))
        device.reconcile(desired(changed))
        assert remembered(device, changed) == {told.address: told.number}


def test_what_was_remembered_is_forgotten_once_nothing_needs_it(device: Device) -> None:
    """A client that has its port again must not meet what its former connection left."""
    rest = replace(MOVING, gateways=tuple(replace(g, former=None) for g in GATEWAYS))
    device.reconcile(desired(MOVING))
    device.call(device.plane.enter_clients, map_of(MOVING), [client_of(MOVING)])
    device.reconcile(desired(rest))
    device.reconcile(desired(MOVING))
    assert remembered(device, MOVING) == {}
