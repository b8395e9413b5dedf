"""A listener leads to another port of its gateways: connections that nothing remembers stay."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from msgspec.structs import replace

from halbctl.lab.servers import BANNER, ECHO, PUSH
from protocol.config import Edit
from protocol.objects import Listener, VirtualServer
from protocol.settling import noted
from tests.kernel.modes import Farm, built_farm, serves
from tests.kernel.namespaces import VIPS, connect
from tests.kernel.test_other_balance import hears, serve
from tests.unit.cluster import device, first_config

pytestmark = pytest.mark.kernel

CONNECTIONS = 20
PORT = 80


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    with built_farm() as farm:
        farm.use("routed")
        yield farm


def led_to(port: int) -> VirtualServer:
    return replace(
        serves("routed"), listeners=(Listener(protocol="tcp", port=PORT, gateway_port=port),)
    )


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("port", [ECHO, PUSH])
def test_connections_stay_at_the_port_that_they_began_at(farm: Farm, port: int, vip: str) -> None:
    before, after = led_to(port), led_to(BANNER)
    farm.a.run("conntrack", "-F")
    serve(farm, before)
    edit = noted(first_config([device(1)], before), Edit(put=(after,)), int(time.time()))
    (now,) = edit.put
    assert isinstance(now, VirtualServer)
    with ExitStack() as stack:

        def opened(number: int) -> list[socket.socket]:
            found = [farm.client.call(connect, vip, PORT, 1.0) for _ in range(number)]
            for sock in found:
                stack.callback(sock.close)
            return found

        def lives(sock: socket.socket) -> bool:
            if port == PUSH:  # its client says nothing
                return hears(sock)
            sock.sendall(b"?")
            return sock.recv(1) == b"?"

        older = opened(CONNECTIONS)
        assert all(map(lives, older))
        serve(farm, now)
        assert all(map(lives, older))
        assert {sock.recv(100).split()[0] for sock in opened(CONNECTIONS)} == {b"gw1", b"gw2"}
        assert all(map(lives, older))
