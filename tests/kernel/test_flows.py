"""Flows entered in another device's kernel: what the slots cannot tell lives on there, too."""

from __future__ import annotations

import socket
import struct
import time
from ipaddress import ip_address

import pytest

from agent.aftermath import Aftermath, Move, aftermath, carried
from agent.flowstream import Outgoing, chunks
from agent.keptflows import WORTH_S
from agent.mirror import Entered, Mirror
from agent.toldflows import ToldFlows
from halbctl.lab.namespaces import Network
from halbctl.lab.probes import Probe
from halbctl.lab.servers import ECHO, PUSH
from protocol.flows import RECORD, UDP, Flow, key_of, vip_of
from tests.kernel.namespaces import (
    UID,
    VIP,
    VIP6,
    Inside,
    wait_until,
)
from tests.kernel.tracked import (
    ANYWHERE,
    BY_TURNS,
    CLIENTS,
    PACKED,
    PATIENCE_S,
    PORTS,
    Tracked,
    alive,
    connected,
    gateways,
)

pytestmark = pytest.mark.kernel

CONNECTIONS = 200
OUTAGE_S = 0.3
SETTLING_S = 2.0


def tell(sender: Tracked, receiver: Tracked, mine: frozenset[bytes] = frozenset()) -> ToldFlows:
    """All of the sender's flows, as a stream begins."""
    out = Outgoing(1, (UID,), PACKED, 0.0)
    out.begin(chunks(sender.flows(), (), PACKED))
    mirror = Mirror(receiver.table, ToldFlows())
    receiver.call(mirror.begin, PACKED)
    for part in out.due():
        assert receiver.call(mirror.enter, part, PACKED, mine) == Entered(0)
    return mirror.told


def take_over(network: Network, pair: tuple[Tracked, Tracked]) -> None:
    """Device ``a`` loses power, and ``b`` takes its place."""
    network.unplug("a")
    time.sleep(OUTAGE_S)
    pair[1].take()


@pytest.mark.parametrize("vip", [VIP, VIP6])
def test_flows_in_which_only_the_gateway_speaks_survive_a_crash(
    network: Network, pair: tuple[Tracked, Tracked], vip: str
) -> None:
    probe = Probe(network, "client", "established", vip, str(CONNECTIONS), "push")
    try:
        probe.begin()
        tell(*pair)
        take_over(network, pair)
        time.sleep(SETTLING_S)
        found = probe.end()
    finally:
        probe.close()
    assert found["survivors"] == CONNECTIONS, found


def test_many_clients_with_equal_source_ports_survive_a_crash(
    network: Network, pair: tuple[Tracked, Tracked]
) -> None:
    sources = [(f"10.77.0.{101 + n}", port) for n in range(CLIENTS) for port in PORTS]
    with connected(network, sources) as connections:
        assert alive(connections) == len(sources)
        assert any(changed_port(flow) for flow in pair[0].flows()), "no two met on one gateway"
        tell(*pair)
        take_over(network, pair)
        assert alive(connections) == len(sources)


@pytest.mark.parametrize(
    "later", [("gw1", "gw2", "gw3"), ("gw1",)], ids=["added", "drained, or dead to new flows"]
)
def test_connections_survive_moved_slots_and_then_a_crash(
    network: Network, pair: tuple[Tracked, Tracked], later: tuple[str, ...]
) -> None:
    with connected(network, ANYWHERE * CONNECTIONS) as connections:
        tell(*pair)
        for device in pair:
            device.reconcile(gateways(*later))
        assert alive(connections) == CONNECTIONS
        take_over(network, pair)
        assert alive(connections) == CONNECTIONS


def test_flows_that_were_dealt_out_by_turns_survive_a_crash(
    network: Network, pair: tuple[Tracked, Tracked]
) -> None:
    with connected(network, ANYWHERE * CONNECTIONS, BY_TURNS) as connections:
        tell(*pair)
        take_over(network, pair)
        assert alive(connections) == CONNECTIONS


def test_the_beginning_of_a_stream_adds_what_is_missing_and_removes_what_is_stale(
    network: Network, pair: tuple[Tracked, Tracked]
) -> None:
    a, b = pair
    with connected(network, ANYWHERE * 5):
        tell(a, b)
        assert b.flows() == a.flows()
        gone, missing, *_ = a.flows()
        a.call(a.table.remove, [key_of(gone)])
        b.call(b.table.remove, [key_of(missing)])
        tell(a, b)
        assert len(b.flows()) == 4
        assert b.flows() == a.flows()


def test_only_packets_make_a_vip_one_that_was_carried_lately(
    network: Network, pair: tuple[Tracked, Tracked]
) -> None:
    a, b = pair

    def lately(device: Tracked) -> frozenset[bytes]:
        return device.call(device.table.lately, PACKED, WORTH_S)

    with connected(network, ANYWHERE * 5) as connections:
        assert lately(a) == {ip_address(VIP).packed}
        tell(a, b)
        assert lately(b) == frozenset()
        take_over(network, pair)
        assert alive(connections) == 5
        assert lately(b) == {ip_address(VIP).packed}
        assert b.call(b.table.lately, PACKED, 0.0) == frozenset()


def test_after_a_takeover_flows_are_counted_by_how_they_came_over(
    network: Network, pair: tuple[Tracked, Tracked]
) -> None:
    a, b = pair
    with connected(network, ANYWHERE * 5) as connections:
        move = Move(2, PACKED, tell(a, b))
        b.call(b.table.remove, [key_of(flow) for flow in sorted(b.flows())[:2]])
        take_over(network, pair)
        known = b.call(carried, b.table, PACKED)
        assert alive(connections) == 5
        (found,) = b.call(aftermath, b.table, known, [move])
        assert found == Aftermath(carried=3, found=2, reset=0, missing=0)
        assert found.text == "3 flows carried over, 2 found again by their slots, 0 lost"
        linger = struct.pack("ii", 1, 0)
        connections[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connections[0].close()
        wait_until(lambda: b.call(aftermath, b.table, known, [move])[0].reset == 1, "reset")


def test_flows_that_a_successor_was_told_of_and_has_no_more_are_counted_as_lost(
    network: Network, pair: tuple[Tracked, Tracked]
) -> None:
    a, b = pair
    with connected(network, ANYWHERE * 5, PUSH):
        wait_until(lambda: len(a.flows()) == 5, "established")
        move = Move(2, PACKED, tell(a, b))
        first, second, *others = b.flows()
        b.call(b.table.remove, list(map(key_of, (first, second, *others))))
        take_over(network, pair)
        known = b.call(carried, b.table, PACKED)
        b.call(b.table.add, [first])  # another device had it
        move.told.tell((), [key_of(second)])  # the former primary says that it ended
        (found,) = b.call(aftermath, b.table, known, [move])
        assert found == Aftermath(carried=1, found=0, reset=0, missing=3)
        assert found.text == "1 flows carried over, 0 found again by their slots, up to 3 lost"


def test_flows_that_a_device_has_by_now_are_neither_replaced_nor_removed(
    network: Network, pair: tuple[Tracked, Tracked]
) -> None:
    a, b = pair
    with connected(network, ANYWHERE * 2):
        theirs, other = a.flows()
        ours = via(theirs, "10.77.0.99")
        extra = of_client(theirs, "10.77.0.98")
        b.call(b.table.put, [ours, via(extra, "10.77.0.97")])
        tell(a, b, mine=PACKED)
        assert b.flows() == {ours, via(extra, "10.77.0.97"), other}


def test_a_flow_that_began_just_now_replaces_what_a_device_has_of_an_older_one(
    network: Network, pair: tuple[Tracked, Tracked]
) -> None:
    a, b = pair
    with connected(network, ANYWHERE):
        (flow,) = a.flows()
        b.call(b.table.put, [via(flow, "10.77.0.99")])
        out = Outgoing(1, (UID,), PACKED, 0.0)
        out.begin(())
        out.go_on(chunks([flow], (), PACKED))
        mirror = Mirror(b.table, ToldFlows())
        b.call(mirror.begin, PACKED)
        for part in out.due():
            assert b.call(mirror.enter, part, PACKED, PACKED) == Entered(0)
        assert b.flows() == {flow}


def test_a_flow_that_has_ended_is_in_nobodys_way(
    network: Network, pair: tuple[Tracked, Tracked]
) -> None:
    a, b = pair
    source = [("10.77.0.13", 40100)]
    b.take()
    network.unplug("a")
    with connected(network, source) as (first,):
        assert alive([first]) == 1
        wait_until(lambda: len(b.flows()) == 1, "established")
        linger = struct.pack("ii", 1, 0)
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    wait_until(lambda: not b.flows(), "reset")
    network.plug("a")
    b.drop()
    a.take()
    with connected(network, source):
        (flow,) = a.flows()
        tell(a, b, mine=PACKED)
        assert b.flows() == {flow}


def test_an_entry_in_the_way_gives_way(network: Network, pair: tuple[Tracked, Tracked]) -> None:
    a, b = pair
    with connected(network, ANYWHERE):
        (flow,) = a.flows()
        same_answer = of_client(flow, "10.77.0.99")
        b.call(b.table.put, [same_answer])
        assert b.flows() == {same_answer}
        tell(a, b)
        assert b.flows() == {flow}


def test_a_device_that_comes_back_has_what_goes_another_way_since(
    network: Network, pair: tuple[Tracked, Tracked]
) -> None:
    """A client that speaks from its port again, through another gateway than before."""
    a, b = pair
    with connected(network, ANYWHERE):
        (flow,) = a.flows()
        gone = of_client(via(flow, "10.77.0.97"), "10.77.0.98")
        b.call(b.table.put, [via(flow, "10.77.0.99"), gone])
        tell(a, b)
        assert b.flows() == {flow}


def test_datagram_flows_are_told_too(network: Network, pair: tuple[Tracked, Tracked]) -> None:
    a, b = pair
    client = Inside(network, "client")
    with client.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect((VIP, ECHO))

        def assured() -> bool:
            sock.send(b"?")
            sock.recv(100)
            return bool(a.flows())

        wait_until(assured, "the kernel takes the flow for a lasting one")
    client.close()
    for _ in range(2):
        told = tell(a, b)
        assert {(flow[0], vip_of(flow)) for flow in b.flows()} == {(UDP, ip_address(VIP).packed)}
        assert b.flows() == a.flows()
    known = b.call(carried, b.table, PACKED)
    (counted,) = b.call(aftermath, b.table, known, [Move(2, PACKED, told)])
    assert counted == Aftermath(carried=1, found=0, reset=0, missing=0)


# Records of IPv4 flows, taken apart


def changed_port(flow: Flow) -> bool:
    """Whether the kernel gave the client another port towards the gateway."""
    *_, client_port, _, _, _, _, peer_port, _ = RECORD[4].unpack(flow)
    return bool(client_port != peer_port)


def via(flow: Flow, gateway: str) -> Flow:
    """The same flow, through another gateway."""
    fields = list(RECORD[4].unpack(flow))
    fields[5] = ip_address(gateway).packed
    return RECORD[4].pack(*fields)


def of_client(flow: Flow, client: str) -> Flow:
    """A flow of another client that its gateway cannot tell from this one."""
    fields = list(RECORD[4].unpack(flow))
    fields[1] = ip_address(client).packed
    return RECORD[4].pack(*fields)
