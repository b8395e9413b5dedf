"""What the kernel says of flows, and what of it is told: what lasts."""

from __future__ import annotations

import socket
import struct

import pytest

from halbctl.lab.namespaces import Network
from halbctl.lab.servers import ECHO
from protocol.flows import key_of
from tests.kernel.namespaces import VIP, Inside, wait_until
from tests.kernel.tracked import (
    ANYWHERE,
    PACKED,
    PATIENCE_S,
    Tracked,
    alive,
    connected,
)

pytestmark = pytest.mark.kernel


def test_a_flow_is_told_once_it_has_lived_for_two_looks_and_when_it_ends(
    network: Network, pair: tuple[Tracked, Tracked]
) -> None:
    a, _ = pair
    with connected(network, ANYWHERE):
        first, second = (a.call(a.table.changes, PACKED) for _ in range(2))
        (flow,) = a.flows()
        a.run("conntrack", "-F")
        ended = a.call(a.table.changes, PACKED).ended
    assert not first.begun
    assert second.begun == {key_of(flow): flow}
    assert ended == {key_of(flow)}


def test_a_flow_that_ends_at_once_is_told_neither_as_begun_nor_as_ended(
    network: Network, pair: tuple[Tracked, Tracked]
) -> None:
    a, _ = pair
    for linger in ((0, 0), (1, 0)):
        with connected(network, ANYWHERE * 3) as connections:
            assert alive(connections) == 3
            for sock in connections:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", *linger))
    wait_until(lambda: not a.flows(), "all of them are over")
    # What was listed meanwhile may be known elsewhere, so that look tells everything.
    assert not a.call(a.table.changes, PACKED).begun
    for _ in range(2):
        found = a.call(a.table.changes, PACKED)
        assert not found.begun
        assert not found.ended


def test_a_flow_that_is_known_from_a_list_is_told_as_ended_however_short_it_was(
    network: Network, pair: tuple[Tracked, Tracked]
) -> None:
    a, _ = pair
    with connected(network, ANYWHERE):
        (flow,) = a.flows()
        a.run("conntrack", "-F")
    found = a.call(a.table.changes, PACKED)
    assert not found.begun
    assert found.ended == {key_of(flow)}


def test_nothing_is_held_back_where_there_is_no_time_for_another_look(
    network: Network, pair: tuple[Tracked, Tracked]
) -> None:
    a, _ = pair
    with connected(network, ANYWHERE):
        found = a.call(a.table.changes, PACKED, whole=True)
        assert set(found.begun.values()) == a.flows()


def test_flows_that_were_not_answered_yet_are_never_heard_of(
    network: Network, pair: tuple[Tracked, Tracked]
) -> None:
    a, _ = pair
    client = Inside(network, "client")
    with client.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect((VIP, ECHO))
        sock.send(b"?")
        assert sock.recv(100)
    client.close()
    assert not a.flows()
    a.run("conntrack", "-F")
    found = a.call(a.table.changes, PACKED)
    assert not found.begun
    assert not found.ended
