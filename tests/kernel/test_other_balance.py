"""A listener shares connections in another way: those that it has stay where they are."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from msgspec.structs import replace

from agent.ruleset import Desired
from halbctl.lab.servers import ECHO, PUSH
from protocol.config import Edit
from protocol.objects import VirtualServer
from protocol.settling import noted
from tests.kernel.gateways import INNER, prepare
from tests.kernel.modes import CLIENT, LISTENERS, NAMES, Farm, built_farm, serves
from tests.kernel.namespaces import UID, VIPS, connect
from tests.unit.cluster import device, first_config

pytestmark = pytest.mark.kernel

CONNECTIONS = 20
CHANGES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "to turns": ("routed", {}, "routed", {"balance": "round-robin"}),
    "from chance": ("routed", {"balance": "random"}, "routed", {}),
    "to sticky": ("routed", {}, "routed", {"sticky": 60}),
    "from sticky turns": ("routed", {"sticky": 60, "balance": "round-robin"}, "routed", {}),
    "to source-hash": ("routed", {}, "routed", {"balance": "source-hash"}),
    "from source-hash to turns": (
        "routed", {"balance": "source-hash"}, "routed", {"balance": "round-robin"}
    ),
    "to source-hash with dsr": ("dsr", {}, "dsr", {"balance": "source-hash"}),
    "from source-hash with dsr": ("dsr", {"balance": "source-hash"}, "dsr", {}),
    "from snat to routed": ("snat", {}, "routed", {}),
}  # fmt: skip
"""Mode and how connections are shared, before and after."""


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    with built_farm() as farm:
        yield farm


def sharing(mode: str, how: dict[str, Any]) -> VirtualServer:
    """The Virtual Server in this mode, with its listeners sharing connections so."""
    listeners = tuple(replace(each, **how) for each in LISTENERS)
    server = replace(serves("dsr"), listeners=listeners)
    inner = serves("routed").inner_vips if mode == "routed" else ()
    return replace(server, forwarding=mode, inner_vips=inner)


def serve(farm: Farm, server: VirtualServer) -> None:
    farm.leased = (*VIPS, *(INNER.values() if server.inner_vips else ()))
    for each in (farm.a, farm.b):
        each.reconcile(Desired((server,), {UID: farm.leased}))
    farm.a.take(farm.leased)


def hears(sock: socket.socket) -> bool:
    """Whether the gateway goes on speaking, beyond what has come already."""
    sock.setblocking(False)
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        sock.settimeout(1.0)
    return bool(sock.recv(100))


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("change", CHANGES)
def test_connections_stay_when_they_are_shared_in_another_way(
    farm: Farm, change: str, vip: str
) -> None:
    mode, how, later_mode, later_how = CHANGES[change]
    before, after = sharing(mode, how), sharing(later_mode, later_how)
    for name in NAMES:
        prepare(farm.network, name, later_mode, CLIENT)
    farm.a.drop((*VIPS, *INNER.values()))
    farm.a.run("conntrack", "-F")
    serve(farm, before)
    edit = noted(first_config([device(1)], before), Edit(put=(after,)), int(time.time()))
    (now,) = edit.put
    assert isinstance(now, VirtualServer)

    def opened(port: int, number: int) -> list[socket.socket]:
        found = [farm.client.call(connect, vip, port, 1.0) for _ in range(number)]
        for sock in found:
            stack.callback(sock.close)
        return found

    def all_live() -> bool:
        for sock in asking:
            sock.sendall(b"?")
        return all(sock.recv(1) == b"?" for sock in asking)

    with ExitStack() as stack:
        asking, hearing = opened(ECHO, CONNECTIONS), opened(PUSH, CONNECTIONS // 4)
        assert all_live()
        serve(farm, now)
        assert all_live()
        assert all(map(hears, hearing))
        asking += opened(ECHO, CONNECTIONS)
        assert all_live()
